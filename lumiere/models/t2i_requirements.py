"""The inputs of image networks that the stages can train: noisy pixels or latents, and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PIXELS = 3  # channels of an image
LATENTS = 4  # channels of Stable Diffusion's latents


def text_width(config: Mapping[str, Any]) -> Any:
    """Return the width of the text states that a U-Net of these settings takes; a list where its
    levels differ.
    """
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    if isinstance(width, (list, tuple)):
        return width[0] if len(set(width)) == 1 else list(width)
    return width


def check_pixel_space(config: Mapping[str, Any], name: str) -> None:
    """Check that the stages can train a network of these settings without a VAE: pixels and text
    in, pixels out.

    Args:
        config: all settings of a UNet2DConditionModel.
        name: the network's name in the error.

    Raises:
        ValueError: when they cannot.
    """
    if config["in_channels"] == LATENTS:
        raise ValueError(
            f"{name}: the network of a latent model, without its VAE; allowed: a pipeline's folder that has vae/, or a "
            f"network in pixel space, of {PIXELS} channels"
        )
    check_text_alone(config, name, PIXELS)


def check_text_alone(config: Mapping[str, Any], name: str, num_channels: int) -> None:
    """Check that the stages can train a network of these settings: noisy pixels or latents and text
    in, a prediction out.

    Args:
        config, name: as in `check_pixel_space`.
        num_channels: channels of the pixels or latents that it denoises.

    Raises:
        ValueError: when they cannot.
    """
    if config["in_channels"] != num_channels or config["out_channels"] not in (
        num_channels,
        2 * num_channels,
    ):
        raise ValueError(
            f"{name}: takes {config['in_channels']} channels and gives {config['out_channels']}; allowed: "
            f"{num_channels}, and {num_channels} or, with a learned variance, {2 * num_channels}: a text-to-image "
            "model, not super-resolution or inpainting"
        )
    allowed = {
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "addition_embed_type": (None, "text"),
        "encoder_hid_dim_type": (None, "text_proj"),
    }
    for key, values in allowed.items():
        if config[key] not in values:
            words = " or ".join("none" if value is None else repr(value) for value in values)
            raise ValueError(
                f"{name}: {key} {config[key]!r}; allowed: {words}, because the stages "
                "give a model only the text of one encoder (SDXL takes more)"
            )
