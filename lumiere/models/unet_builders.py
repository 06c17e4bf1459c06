"""Image networks for training from scratch: small ones for two CPU cores, or any other from its
config file.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from lumiere.files import read_json
from lumiere.models.ssr_requirements import check_super_resolution
from lumiere.models.t2i_requirements import check_pixel_space, text_width


def read_unet_config(path: str | Path) -> dict[str, Any]:
    """Read a `UNet2DConditionModel`'s settings from a JSON file, such as the `unet/config.json` of
    a diffusers pipeline.

    Raises:
        ValueError: if there is no such file, or it holds anything else.
    """
    stored = read_json(Path(path))
    kind = stored.get("_class_name", UNet2DConditionModel.__name__)
    if kind != UNet2DConditionModel.__name__:
        raise ValueError(
            f"{path}: the config of a {kind}; allowed: {UNet2DConditionModel.__name__}"
        )
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    accepted = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    if unknown := sorted(set(settings) - accepted):
        raise ValueError(f"{path}: {unknown[0]}: no setting of {UNet2DConditionModel.__name__}")
    return settings


def build_unet(path: str | Path, size: int | Sequence[int]) -> UNet2DConditionModel:
    """Build the network of a config file, for images of `size` pixels (the side of a square, or height
    and width) instead of the size in the file.

    Raises:
        ValueError: as `read_unet_config`, or if the settings contradict each other.
    """
    settings = read_unet_config(path)
    try:
        return UNet2DConditionModel(**{**settings, "sample_size": size})
    except (ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path}: no network can be built: {error}") from None


def build_text_to_image_unet(
    size: int | Sequence[int],
    block_out_channels: tuple[int, ...],
    layers_per_block: int,
    text_dim: int,
    config_file: str | Path = "",
) -> UNet2DConditionModel:
    """Build a UNet2DConditionModel in pixel space: the small one, or that of `config_file` at
    `size`.

    In the small network, text enters twice, as in DeepFloyd IF: by cross-attention below the finest
    level, and pooled by attention into the timestep embedding (`addition_embed_type="text"`), which
    modulates every ResNet by scale and shift.

    Raises:
        ValueError: if `config_file` does not describe a text-to-image network in pixel space for
            text of that width.
    """
    if config_file:
        unet = build_unet(config_file, size)
        check_pixel_space(unet.config, str(config_file))
        if text_width(unet.config) != text_dim:
            raise ValueError(
                f"{config_file}: takes text {text_width(unet.config)} wide, but the text encoder gives {text_dim}"
            )
        return unet
    inner = len(block_out_channels) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * inner),
        up_block_types=(*["CrossAttnUpBlock2D"] * inner, "UpBlock2D"),
        cross_attention_dim=text_dim,
        attention_head_dim=4,  # in diffusers this is the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=16,
    )


def build_ssr_unet(
    size: int | Sequence[int],
    block_out_channels: tuple[int, ...],
    layers_per_block: int,
    config_file: str | Path = "",
) -> UNet2DConditionModel:
    """Build an image super-resolution UNet2DConditionModel: the small one, or that of `config_file`
    at `size`.

    It takes six channels, the noise level as a class label, and no text.

    Raises:
        ValueError: if `config_file` does not describe such a network.
    """
    if config_file:
        unet = build_unet(config_file, size)
        check_super_resolution(unet, str(config_file))
        return unet
    levels = len(block_out_channels)
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=6,
        out_channels=3,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type=None,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="timestep",
    )
