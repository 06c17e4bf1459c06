"""The text-to-image model to inflate: a U-Net, its scheduler, the name of its text encoder, and a
VAE if it has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel

from lumiere.models.autoencoder import load_vae, vae_factor
from lumiere.models.diffusers_folders import load_network, read_stored_config
from lumiere.text import DiffusersTextEncoder, load_text_encoder
from lumiere.text.encoder import CONFIG_NAME as TEXT_FILE
from lumiere.text.hub import pipeline_folder

SCHEDULER_FILE = "scheduler_config.json"
SIZE_FILE = "size.json"
PIXELS = 3  # channels of an image
LATENTS = 4  # channels of Stable Diffusion's latents
PARTS = ("unet", "scheduler", "text_encoder", "vae")
LEARNED_VARIANCES = ("learned", "learned_range")


@dataclass
class TextToImage:
    """A frozen image model.

    Attributes:
        unet: the network.
        scheduler: the diffusers scheduler it was trained with.
        text_encoder, max_text_tokens: name and length for `lumiere.text.load_text_encoder`; the
            pooled text embedding includes padding, so a model must be used at the length that it
            was trained with.
        trained_size: the side in pixels of the images it was trained on, if it is used at another
            size; otherwise None.
        vae: the autoencoder of a model that works in latents; None for a model in pixel space.
    """

    unet: UNet2DConditionModel
    scheduler: SchedulerMixin
    text_encoder: str
    max_text_tokens: int = 32
    trained_size: int | None = None
    vae: AutoencoderKL | None = None

    @property
    def size(self) -> int:
        """The side of its images in pixels; height = width."""
        return self.unet.config.sample_size * vae_factor(self.vae)

    def use_at(self, size: int) -> None:
        """Use the network at another image size, in training and in generation.

        A U-Net is convolutional, so it accepts other sizes, but its images are good only after
        fine-tuning at that size. `size.json` keeps the size that it was trained for.

        Raises:
            ValueError: if the network cannot halve that size as often as its levels require.
        """
        own_size = self.size
        if size == own_size:
            return
        halvings, side = self.unet.num_upsamplers, vae_factor(self.vae)
        factor = side * 2**halvings
        if size % factor:
            what = "an image" if self.vae is None else f"latents of {side} pixels a side"
            raise ValueError(
                f"size {size}; allowed: {own_size}, which it was trained for, or another multiple of {factor}, "
                f"since it halves {what} {halvings} times"
            )
        self.trained_size = self.trained_size or own_size
        self.unet.register_to_config(sample_size=size // side)

    def save(self, folder: str | Path) -> None:
        """Write `unet/`, `scheduler/`, `text_encoder/` and `vae/`, in the layout of a diffusers
        pipeline.
        """
        folder = Path(folder)
        self.unet.save_pretrained(folder / "unet")
        save_companions(folder, self.scheduler, self.text_encoder, self.max_text_tokens, self.vae)
        if self.trained_size is not None:
            sizes = {"trained": self.trained_size, "used": self.size}
            (folder / SIZE_FILE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def save_companions(
    folder: str | Path,
    scheduler: SchedulerMixin,
    text_encoder: str,
    max_text_tokens: int = 32,
    vae: AutoencoderKL | None = None,
) -> None:
    """Write `scheduler/`, `text_encoder/` and, for a latent model, `vae/` beside a network's
    weights.
    """
    folder = Path(folder)
    scheduler.save_pretrained(folder / "scheduler")
    load_text_encoder(text_encoder, max_text_tokens).save_pretrained(folder / "text_encoder")
    if vae is not None:
        vae.save_pretrained(folder / "vae")


def load_scheduler(folder: str | Path) -> SchedulerMixin:
    """Load the scheduler in a diffusers `scheduler/` folder, of the class that its config names.

    A fixed variance replaces a learned one, because only the mean in a network's output is used
    (`lumiere.diffusion.objective.without_variance`).

    Raises:
        ValueError: if the folder has no scheduler, or a scheduler of an unknown class or without a
            noise schedule in discrete steps.
    """
    path = Path(folder) / SCHEDULER_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a scheduler saved by diffusers")
    name = json.loads(path.read_text(encoding="utf-8")).get("_class_name", "")
    if not hasattr(diffusers, name):
        raise ValueError(f"{path}: scheduler class {name!r} is not in diffusers")
    scheduler = getattr(diffusers, name).from_pretrained(str(folder))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{path}: {name} has no alphas_cumprod; allowed: one that has, such as DDPMScheduler"
        )
    if scheduler.config.get("variance_type") in LEARNED_VARIANCES:
        scheduler = type(scheduler).from_config(scheduler.config, variance_type="fixed_small")
    return scheduler


def load_text_to_image(source: str | Path) -> TextToImage:
    """Load a T2I, in pixel space or with its VAE; the weights come from safetensors, in float32.

    Args:
        source: a folder that `TextToImage.save` wrote; a diffusers pipeline's folder with `unet/`,
            `scheduler/`, `text_encoder/`, `tokenizer/` and, for a latent model, `vae/`; or the hub
            name of such a pipeline.

    Raises:
        ValueError: if a part is missing, or the model cannot be trained on frames and sentences
            alone. This excludes super-resolution, inpainting, and conditions other than the text of
            one encoder.
    """
    folder = pipeline_folder(str(source))
    text_file = folder / "text_encoder" / TEXT_FILE
    if text_file.is_file():
        folder = pipeline_folder(str(source), *PARTS)
        text = json.loads(text_file.read_text(encoding="utf-8"))
        size_file = folder / SIZE_FILE
        trained_size = (
            json.loads(size_file.read_text(encoding="utf-8"))["trained"]
            if size_file.is_file()
            else None
        )
        unet, scheduler, vae = _load_parts(folder)
        return TextToImage(unet, scheduler, text["name"], text["max_tokens"], trained_size, vae)
    if not (folder / "text_encoder" / "config.json").is_file():
        raise ValueError(
            f"{text_file}: no such file, and no config.json beside it; expected a folder with unet/, scheduler/ and "
            "text_encoder/ as prepare_t2i or a diffusers pipeline writes them"
        )
    config, name = read_stored_config(folder / "unet"), str(folder / "unet")
    if (folder / "vae").is_dir():
        check_text_alone(
            config, name, read_stored_config(folder / "vae", AutoencoderKL)["latent_channels"]
        )
    else:
        check_pixel_space(config, name)
    encoder = DiffusersTextEncoder(str(source))
    if (width := text_width(config)) != encoder.embed_dim:
        raise ValueError(
            f"{name}: takes text {width} wide, but its text encoder gives {encoder.embed_dim}"
        )
    unet, scheduler, vae = _load_parts(pipeline_folder(str(source), *PARTS, "tokenizer"))
    return TextToImage(unet, scheduler, encoder.name, encoder.max_tokens, vae=vae)


def _load_parts(folder: Path) -> tuple[UNet2DConditionModel, SchedulerMixin, AutoencoderKL | None]:
    return (
        load_network(folder / "unet"),
        load_scheduler(folder / "scheduler"),
        load_vae(folder / "vae"),
    )


def load_image_network(source: str | Path) -> tuple[UNet2DConditionModel, SchedulerMixin]:
    """Load a U-Net without text and its scheduler, such as an image super-resolution network, in
    float32.

    Raises:
        ValueError: if the folder holds no U-Net or no scheduler.
    """
    folder = Path(source)
    if not (folder / "unet" / "config.json").is_file():
        raise ValueError(
            f"{folder}: no unet/config.json; expected a folder with unet/ and scheduler/"
        )
    return load_network(folder / "unet"), load_scheduler(folder / "scheduler")


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
