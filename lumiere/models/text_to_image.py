"""The text-to-image model to inflate: a U-Net, its scheduler, the name of its text encoder, and a
VAE if it has one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel

from lumiere.files import is_file, read_json
from lumiere.models.autoencoder import load_vae, vae_factor
from lumiere.models.diffusers_folders import load_network
from lumiere.text_config import read_text_config, write_text_config

SCHEDULER_FILE = "scheduler_config.json"
SIZE_FILE = "size.json"
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
    trained_size: int | tuple[int, int] | None = None
    vae: AutoencoderKL | None = None

    @classmethod
    def load(cls, folder: str | Path) -> TextToImage:
        """Load a folder that `save` wrote; the weights come from safetensors, in float32.

        Raises:
            ValueError: if a part is missing or damaged.
        """
        folder = Path(folder)
        text_encoder, max_text_tokens = read_text_config(folder / "text_encoder")
        trained_size = None
        if is_file(folder / SIZE_FILE):
            trained_size = read_json(folder / SIZE_FILE).get("trained")
        unet, scheduler, vae = load_networks(folder)
        return cls(unet, scheduler, text_encoder, max_text_tokens, trained_size, vae)

    @property
    def size(self) -> int | tuple[int, int]:
        """The size of its images in pixels: the side of a square, or (height, width)."""
        return image_size(self.unet, self.vae)

    def use_at(self, size: int | tuple[int, int]) -> None:
        """Use the network at another image size, in training and in generation.

        A U-Net is convolutional, so it accepts other sizes, but its images are good only after
        fine-tuning at that size. `size.json` keeps the size that it was trained for.

        Raises:
            ValueError: if the network cannot halve that size as often as its levels require.
        """
        own_size = self.size
        if size == own_size:
            return
        self.check_size(size)
        side = vae_factor(self.vae)
        latents = [length // side for length in ((size,) if isinstance(size, int) else size)]
        self.trained_size = self.trained_size or own_size
        self.unet.register_to_config(sample_size=latents[0] if len(latents) == 1 else latents)

    def check_size(self, size: int | tuple[int, int]) -> None:
        """Raise ValueError if the network cannot halve an image size as often as its levels
        require.
        """
        own_size = self.size
        if size == own_size:
            return
        halvings, side = self.unet.num_upsamplers, vae_factor(self.vae)
        factor = side * 2**halvings
        sides = (size,) if isinstance(size, int) else size
        if any(length % factor for length in sides):
            what = "an image" if self.vae is None else f"latents of {side} pixels a side"
            raise ValueError(
                f"size {_shown(size)}; allowed: {_shown(own_size)}, which it was trained for, or another "
                f"multiple of {factor}, since it halves {what} {halvings} times"
            )

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


def image_size(unet: UNet2DConditionModel, vae: AutoencoderKL | None) -> int | tuple[int, int]:
    """Return the size of a network's images in pixels: the side of a square, or (height, width)."""
    size, factor = unet.config.sample_size, vae_factor(vae)
    return size * factor if isinstance(size, int) else (size[0] * factor, size[1] * factor)


def _shown(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"


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
    write_text_config(folder / "text_encoder", text_encoder, max_text_tokens)
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
    if not is_file(path):
        raise ValueError(f"{path}: no such file; expected a scheduler saved by diffusers")
    name = read_json(path).get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise ValueError(f"{path}: scheduler class {name!r} is not in diffusers")
    scheduler = getattr(diffusers, name).from_pretrained(str(folder))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{path}: {name} has no alphas_cumprod; allowed: one that has, such as DDPMScheduler"
        )
    if scheduler.config.get("variance_type") in LEARNED_VARIANCES:
        scheduler = type(scheduler).from_config(scheduler.config, variance_type="fixed_small")
    return scheduler


def load_networks(
    folder: Path,
) -> tuple[UNet2DConditionModel, SchedulerMixin, AutoencoderKL | None]:
    """Load the U-Net, the scheduler and, for a latent model, the VAE of a T2I.

    Raises:
        ValueError: if one of them is missing or damaged.
    """
    unet, scheduler = load_network(folder / "unet"), load_scheduler(folder / "scheduler")
    return unet, scheduler, load_vae(folder / "vae")


def load_image_network(source: str | Path) -> tuple[UNet2DConditionModel, SchedulerMixin]:
    """Load a U-Net without text and its scheduler, such as an image super-resolution network, in
    float32.

    Raises:
        ValueError: if the folder holds no U-Net or no scheduler.
    """
    folder = Path(source)
    if not is_file(folder / "unet" / "config.json"):
        raise ValueError(
            f"{folder}: no unet/config.json; expected a folder with unet/ and scheduler/"
        )
    return load_network(folder / "unet"), load_scheduler(folder / "scheduler")
