"""The text-to-image model that is inflated: a U-Net, the scheduler it was trained with, its text encoder's name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

import diffusers
import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError

from lumiere.text import DiffusersTextEncoder, load_text_encoder
from lumiere.text.encoder import CONFIG_NAME as TEXT_FILE
from lumiere.text.hub import one_line, pipeline_folder

SCHEDULER_FILE = "scheduler_config.json"
SIZE_FILE = "size.json"
PIXELS = 3  # channels of an image
LEARNED_VARIANCES = ("learned", "learned_range")


@dataclass
class TextToImage:
    """A frozen image model.

    Attributes:
        unet: the network.
        scheduler: the diffusers scheduler it was trained with.
        text_encoder, max_text_tokens: name and length for `lumiere.text.load_text_encoder`; the pooled text embedding
            sees padding, so a model is always used at the length that it was trained with.
        trained_size: pixels that its own images have, where it is used at another size; None where it is not.
    """

    unet: UNet2DConditionModel
    scheduler: Any
    text_encoder: str
    max_text_tokens: int = 32
    trained_size: int | None = None

    def use_at(self, size: int) -> None:
        """Use the network at another image size: what is trained on it, and drawn with it, has that size.

        A U-Net in pixel space is convolutional, so it takes other sizes; what it paints there is another matter until
        it is fine-tuned at that size. The size it was trained for stays on record, in `size.json`.

        Raises:
            ValueError: where the network cannot halve that size as often as it has to.
        """
        own = self.unet.config.sample_size
        if size == own:
            return
        factor = 2**self.unet.num_upsamplers
        if size % factor:
            raise ValueError(
                f"size {size}; allowed: {own}, which it was trained for, or another multiple of {factor}, since it "
                f"halves an image {self.unet.num_upsamplers} times"
            )
        self.trained_size = self.trained_size or own
        self.unet.register_to_config(sample_size=size)

    def save(self, folder: str | Path) -> None:
        """Write `unet/`, `scheduler/` and `text_encoder/`, as a diffusers pipeline has them."""
        folder = Path(folder)
        self.unet.save_pretrained(folder / "unet")
        save_companions(folder, self.scheduler, self.text_encoder, self.max_text_tokens)
        if self.trained_size is not None:
            sizes = {"trained": self.trained_size, "used": self.unet.config.sample_size}
            (folder / SIZE_FILE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def save_companions(folder: str | Path, scheduler: Any, text_encoder: str, max_text_tokens: int = 32) -> None:
    """Write `scheduler/` and `text_encoder/` beside a network's weights."""
    folder = Path(folder)
    scheduler.save_pretrained(folder / "scheduler")
    load_text_encoder(text_encoder, max_text_tokens).save_pretrained(folder / "text_encoder")


def load_scheduler(folder: str | Path) -> Any:
    """The scheduler in a diffusers `scheduler/` folder, of whichever class it names.

    A learned variance is replaced by a fixed one: of the networks' output only the mean is used
    (`lumiere.diffusion.objective.without_variance`).

    Raises:
        ValueError: when there is none, its class is unknown, or it has no noise schedule in discrete steps.
    """
    path = Path(folder) / SCHEDULER_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a scheduler saved by diffusers")
    name = json.loads(path.read_text(encoding="utf-8")).get("_class_name", "")
    if not hasattr(diffusers, name):
        raise ValueError(f"{path}: scheduler class {name!r} is not in diffusers")
    scheduler = getattr(diffusers, name).from_pretrained(str(folder))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{path}: {name} has no alphas_cumprod; allowed: one that has, such as DDPMScheduler")
    if scheduler.config.get("variance_type") in LEARNED_VARIANCES:
        scheduler = type(scheduler).from_config(scheduler.config, variance_type="fixed_small")
    return scheduler


def load_text_to_image(source: str | Path) -> TextToImage:
    """Load a pixel-space T2I; weights in float32, from safetensors.

    Args:
        source: a folder of ours; a diffusers pipeline's folder with `unet/`, `scheduler/`, `text_encoder/` and
            `tokenizer/`; or the hub name of such a pipeline.

    Raises:
        ValueError: when a part is missing, or the model cannot be trained on frames and sentences alone: latent
            models, super-resolution, models conditioned on more than text.
    """
    folder = pipeline_folder(str(source))
    text_file = folder / "text_encoder" / TEXT_FILE
    if text_file.is_file():
        folder = pipeline_folder(str(source), "unet", "scheduler", "text_encoder")
        text = json.loads(text_file.read_text(encoding="utf-8"))
        unet, scheduler = _load_unet(folder / "unet"), load_scheduler(folder / "scheduler")
        size_file = folder / SIZE_FILE
        trained_size = json.loads(size_file.read_text(encoding="utf-8"))["trained"] if size_file.is_file() else None
        return TextToImage(unet, scheduler, text["name"], text["max_tokens"], trained_size)
    if not (folder / "text_encoder" / "config.json").is_file():
        raise ValueError(
            f"{text_file}: no such file, and no config.json beside it; expected a folder with unet/, scheduler/ and "
            "text_encoder/ as prepare_t2i or a diffusers pipeline writes them"
        )
    config = read_stored_config(folder / "unet")
    if (folder / "vae").is_dir():
        raise ValueError(_latent(folder / "unet"))
    check_pixel_space(config, str(folder / "unet"))
    encoder = DiffusersTextEncoder(str(source))
    if (width := text_width(config)) != encoder.embed_dim:
        raise ValueError(f"{folder / 'unet'}: takes text {width} wide, but its text encoder gives {encoder.embed_dim}")
    folder = pipeline_folder(str(source), "unet", "scheduler", "text_encoder", "tokenizer")
    return TextToImage(
        _load_unet(folder / "unet"), load_scheduler(folder / "scheduler"), encoder.name, encoder.max_tokens
    )


def load_image_network(source: str | Path) -> tuple[UNet2DConditionModel, Any]:
    """A U-Net and its scheduler without text, such as an image super-resolution network; weights in float32.

    Raises:
        ValueError: when it holds no U-Net or scheduler.
    """
    folder = Path(source)
    if not (folder / "unet" / "config.json").is_file():
        raise ValueError(f"{folder}: no unet/config.json; expected a folder with unet/ and scheduler/")
    return _load_unet(folder / "unet"), load_scheduler(folder / "scheduler")


def read_stored_config(folder: Path) -> dict[str, Any]:
    """The settings of a U-Net that diffusers saved, those that its file leaves out included.

    Raises:
        ValueError: when there is no config.json, or it is of another class.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}/config.json: no such file; expected a U-Net saved by diffusers")
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if stored.get("_class_name") != UNet2DConditionModel.__name__:
        raise ValueError(f"{folder}: a {stored.get('_class_name')}; allowed: {UNet2DConditionModel.__name__}")
    settings = inspect.signature(UNet2DConditionModel.__init__).parameters.values()
    return {setting.name: setting.default for setting in settings} | stored


def text_width(config: Mapping[str, Any]) -> Any:
    """How wide the text states are that a U-Net of these settings takes; a list where its levels differ."""
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    if isinstance(width, (list, tuple)):
        return width[0] if len(set(width)) == 1 else list(width)
    return width


def check_pixel_space(config: Mapping[str, Any], name: str) -> None:
    """Whether the stages can train a network of these settings: pixels and text in, pixels out.

    Args:
        config: the settings of a UNet2DConditionModel, all of them.
        name: what the error calls it.

    Raises:
        ValueError: where they cannot.
    """
    if config["in_channels"] == 4:
        raise ValueError(_latent(name))
    if config["in_channels"] != PIXELS or config["out_channels"] not in (PIXELS, 2 * PIXELS):
        raise ValueError(
            f"{name}: takes {config['in_channels']} channels and gives {config['out_channels']}; allowed: "
            f"{PIXELS}, and {PIXELS} or, with a learned variance, {2 * PIXELS}: an image model, not super-resolution"
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
            raise ValueError(f"{name}: {key} {config[key]!r}; allowed: {words}, as the stages give a model text alone")


def _latent(name: Any) -> str:
    return (
        f"{name}: a latent model, which the stages do not take yet; allowed: one in pixel space, such as DeepFloyd IF "
        "stage I"
    )


def _load_unet(folder: Path) -> UNet2DConditionModel:
    try:
        unet, info = UNet2DConditionModel.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: no U-Net can be read: {one_line(error)}") from None
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise ValueError(f"{folder}: no weights for {lacking[0]!r} ({len(lacking)} lacking)")
    return unet
