"""Loads networks that diffusers stored: a folder with config.json and safetensors."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors import SafetensorError

from lumiere.errors import one_line
from lumiere.files import check_readable, is_file, read_json

NAMES = {"UNet2DConditionModel": "U-Net", "AutoencoderKL": "VAE"}


def read_stored_config(
    folder: Path, kind: type[ModelMixin] = UNet2DConditionModel
) -> dict[str, Any]:
    """Read the settings of a network that diffusers saved, with defaults for those that the file
    leaves out.

    Args:
        folder: the folder with the network's config.json.
        kind: its class.

    Raises:
        ValueError: if there is no config.json, or it describes another class.
    """
    if not is_file(folder / "config.json"):
        raise ValueError(
            f"{folder}/config.json: no such file; expected a {NAMES[kind.__name__]} saved by diffusers"
        )
    stored = read_json(folder / "config.json")
    if stored.get("_class_name") != kind.__name__:
        raise ValueError(f"{folder}: a {stored.get('_class_name')}; allowed: {kind.__name__}")
    settings = inspect.signature(kind.__init__).parameters.values()
    return {setting.name: setting.default for setting in settings} | stored


def load_network(folder: Path, kind: type[ModelMixin] = UNet2DConditionModel) -> ModelMixin:
    """Load the network in a folder, in float32, from safetensors.

    Args:
        folder: the folder with the network's config and weights.
        kind: its class.

    Raises:
        ValueError: if they cannot be read, or weights are missing.
        DiskError: if a permission is missing, or the disk fails.
    """
    try:
        check_readable(folder)
        network, info = kind.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: no {NAMES[kind.__name__]} can be read: {one_line(error)}"
        ) from None
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise ValueError(f"{folder}: no weights for {lacking[0]!r} ({len(lacking)} missing)")
    return network
