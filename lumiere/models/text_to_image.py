"""The text-to-image model that is inflated: a U-Net, the scheduler it was trained with, its text encoder's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

import diffusers
import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError

SCHEDULER_FILE = "scheduler_config.json"


@dataclass
class TextToImage:
    """A frozen image model.

    Attributes:
        unet: the network.
        scheduler: the diffusers scheduler it was trained with.
        text_encoder, max_text_tokens: name and length for `lumiere.text.load_text_encoder`; the pooled text embedding
            sees padding, so a model is always used at the length that it was trained with.
    """

    unet: UNet2DConditionModel
    scheduler: Any
    text_encoder: str
    max_text_tokens: int = 32

    def save(self, folder: str | Path) -> None:
        """Write `unet/`, `scheduler/` and `text_encoder/`, as a diffusers pipeline has them."""
        folder = Path(folder)
        self.unet.save_pretrained(folder / "unet")
        save_companions(folder, self.scheduler, self.text_encoder, self.max_text_tokens)


def save_companions(folder: str | Path, scheduler: Any, text_encoder: str, max_text_tokens: int = 32) -> None:
    """Write `scheduler/` and `text_encoder/` beside a network's weights."""
    from lumiere.text import load_text_encoder

    folder = Path(folder)
    scheduler.save_pretrained(folder / "scheduler")
    load_text_encoder(text_encoder, max_text_tokens).save_pretrained(folder / "text_encoder")


def load_scheduler(folder: str | Path) -> Any:
    """The scheduler in a diffusers `scheduler/` folder, of whichever class it names.

    Raises:
        ValueError: when there is none, or its class is unknown.
    """
    path = Path(folder) / SCHEDULER_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a scheduler saved by diffusers")
    name = json.loads(path.read_text(encoding="utf-8")).get("_class_name", "")
    if not hasattr(diffusers, name):
        raise ValueError(f"{path}: scheduler class {name!r} is not in diffusers")
    return getattr(diffusers, name).from_pretrained(str(folder))


def load_text_to_image(source: str | Path) -> TextToImage:
    """Load a T2I from a folder of ours, a diffusers pipeline folder, or a hub name; weights in float32.

    Raises:
        ValueError: when it holds no U-Net or scheduler.
    """
    if not (Path(source) / "unet").is_dir():
        return _from_hub(str(source))
    folder = Path(source)
    text_file = folder / "text_encoder" / "text_encoder.json"
    if not text_file.is_file():
        raise ValueError(f"{text_file}: no such file; it names the text encoder, e.g. {{'name': 'minilm', ...}}")
    text = json.loads(text_file.read_text(encoding="utf-8"))
    return TextToImage(
        _load_unet(folder / "unet"), load_scheduler(folder / "scheduler"), text["name"], text["max_tokens"]
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


def _load_unet(folder: Path) -> UNet2DConditionModel:
    try:
        return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: no U-Net can be read: {_one_line(error)}") from None


def _from_hub(name: str) -> TextToImage:
    try:
        folder = diffusers.DiffusionPipeline.download(
            name, allow_patterns=["unet/*", "scheduler/*", "text_encoder/*.json"]
        )
    except Exception as error:
        raise ValueError(
            f"{name}: neither a folder with unet/ and scheduler/ nor a hub name that can be fetched: {_one_line(error)}"
        ) from None
    return load_text_to_image(folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
