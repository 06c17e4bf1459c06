"""Backbones in the format of transformers: a folder with config.json and safetensors.

VideoMAE and V-JEPA 2 for videos, DINO and DINOv2 for frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lumiere.errors import DataError, one_line
from lumiere.evaluation.backbones.interface import FrameNetwork, VideoNetwork
from lumiere.evaluation.backbones.resizing import (
    centre_crop,
    channels_first,
    normalise_imagenet,
    resize_antialiased,
    resize_bilinear,
    with_shorter_side,
)
from lumiere.evaluation.backbones.weight_files import Weights, check_folder
from lumiere.loading.silence import silent_transformers
from lumiere.plurals import shortened

LETTERS = {192: "ti", 384: "s", 768: "b", 1024: "l", 1280: "h", 1408: "g"}  # of ViT's widths
DINO_SIZE = 224  # pixels
VJEPA2_FRAMES = 16


class VideoMAEBackbone(VideoNetwork):
    """VideoMAE (Tong et al., 2022): the last layer's tokens, averaged.

    The content-debiased FVD (Ge et al., 2024) uses VideoMAE V2 of another size and with another
    head, so a Fréchet distance of these features is not that one.
    """

    def __init__(self, path: str | Path, sha256: str | None = None) -> None:
        """
        Args:
            path: a folder of transformers with a model of type "videomae".
            sha256: the expected hash of the folder, as `weight_files.check_folder` computes it.

        Raises:
            DataError: if the folder cannot be used or has another hash.
        """
        network, config, weights = _load(Path(path), sha256, "videomae")
        self.size = config.image_size
        self.num_frames = config.num_frames
        self.name = f"videomae_{_vit(config)}"
        self.preprocessing = (
            f"VideoMAE ({_vit(config)}): the first {self.num_frames} frames, neighbours; the "
            f"shorter side resized to {self.size} by PIL's antialiased bilinear filter on 32-bit "
            f"floats; the middle {self.size}×{self.size}; ImageNet's mean and deviation; the "
            f"last layer's tokens averaged ({config.hidden_size} features)."
        )
        super().__init__(network, weights)

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize, crop and normalise: uint8 (t, h, w, 3) → float32 (1, t, 3, size, size)."""
        return _antialiased_square(frames, self.size, self.size)[None]

    def features(self, batch: Tensor) -> Tensor:
        """Compute (1, t, 3, h, w) → (1, d)."""
        return self.network(pixel_values=batch).last_hidden_state.mean(dim=1)


class VJEPA2Backbone(VideoNetwork):
    """V-JEPA 2 (Assran et al., 2025): the encoder's tokens, averaged.

    This is not the network of JEDi (Luo et al., "Beyond FVD", 2024). JEDi takes the first V-JEPA,
    ViT-L/16, with an attentive probe trained on Something-Something v2, and neither is available
    for transformers. A kernel distance of these features has JEDi's form but other values, so it
    is named after V-JEPA 2.
    """

    num_frames = VJEPA2_FRAMES

    def __init__(self, path: str | Path, sha256: str | None = None) -> None:
        """
        Args:
            path: a folder of transformers with a model of type "vjepa2".
            sha256: the expected hash of the folder, as `weight_files.check_folder` computes it.

        Raises:
            DataError: if the folder cannot be used or has another hash.
        """
        network, config, weights = _load(Path(path), sha256, "vjepa2")
        self.size = config.crop_size
        self.resized = int(self.size * 256 / 224)
        self.name = f"vjepa2_{_vit(config)}"
        self.preprocessing = (
            f"V-JEPA 2 ({_vit(config)}), not JEDi's network: the first {self.num_frames} frames, "
            f"neighbours; the shorter side resized to {self.resized} by PIL's antialiased bilinear "
            f"filter on 32-bit floats; the middle {self.size}×{self.size}; ImageNet's mean and "
            f"deviation; the encoder's tokens averaged ({config.hidden_size} features)."
        )
        super().__init__(network, weights)

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize, crop and normalise: uint8 (t, h, w, 3) → float32 (1, t, 3, size, size)."""
        return _antialiased_square(frames, self.resized, self.size)[None]

    def features(self, batch: Tensor) -> Tensor:
        """Compute (1, t, 3, h, w) → (1, d)."""
        output = self.network(pixel_values_videos=batch, skip_predictor=True)
        return output.last_hidden_state.mean(dim=1)


class DINOBackbone(FrameNetwork):
    """DINO (Caron et al., 2021) or DINOv2 (Oquab et al., 2023): the class token.

    VBench's subject consistency takes DINO ViT-B/16 with this preprocessing (Huang et al., 2023).
    """

    def __init__(self, path: str | Path, sha256: str | None = None) -> None:
        """
        Args:
            path: a folder of transformers with a model of type "vit" (DINO) or "dinov2".
            sha256: the expected hash of the folder, as `weight_files.check_folder` computes it.

        Raises:
            DataError: if the folder cannot be used or has another hash.
        """
        network, config, weights = _load(Path(path), sha256, "vit", "dinov2")
        # DINOv2 always fits its position table to the number of patches; ViTModel has to be asked.
        self.options = {"interpolate_pos_encoding": True} if config.model_type == "vit" else {}
        family = {"vit": "dino", "dinov2": "dinov2"}[config.model_type]
        self.name = f"{family}_{_vit(config)}"
        self.preprocessing = (
            f"{family.upper()} ({_vit(config)}): the shorter side resized to {DINO_SIZE} by "
            "torch's bilinear interpolation (align_corners=False, no antialiasing), rounded to "
            "whole values, not cropped (as VBench); ImageNet's mean and deviation; the class "
            f"token after the last norm ({config.hidden_size} features)."
        )
        super().__init__(network, weights)

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise: uint8 (n, h, w, 3) → float32 (n, 3, height, width)."""
        size = with_shorter_side(frames, DINO_SIZE)
        return normalise_imagenet(resize_bilinear(frames, *size).round())

    def features(self, batch: Tensor) -> Tensor:
        """Compute (n, 3, height, width) → (n, d)."""
        return self.network(pixel_values=batch, **self.options).last_hidden_state[:, 0]


def _antialiased_square(frames: np.ndarray, shorter: int, side: int) -> Tensor:
    size = with_shorter_side(frames, shorter)
    resized = resize_antialiased(frames, *size, Image.Resampling.BILINEAR)
    return normalise_imagenet(centre_crop(channels_first(resized), side))


def _vit(config: Any) -> str:
    """Return a name such as "vitb16": the width's letter and the patch size."""
    letter = LETTERS.get(config.hidden_size, f"_{config.hidden_size}_")
    return f"vit{letter}{config.patch_size}"


def _load(path: Path, sha256: str | None, *model_types: str) -> tuple[nn.Module, Any, Weights]:
    """Load the bare network of a folder, which may hold a network with a head as well."""
    import transformers  # takes seconds

    weights = check_folder(path, sha256)
    try:
        model_type = json.loads((path / "config.json").read_text())["model_type"]
    except (ValueError, KeyError, TypeError, OSError):
        raise DataError(f"{path}/config.json: not a configuration of transformers") from None
    if model_type not in model_types:
        allowed = " or ".join(model_types)
        raise DataError(f"{path}: a model of type {model_type!r}; allowed: {allowed}")
    classes = {
        "videomae": transformers.VideoMAEModel,
        "vjepa2": transformers.VJEPA2Model,
        "vit": transformers.ViTModel,
        "dinov2": transformers.Dinov2Model,
    }
    options = {"add_pooling_layer": False} if model_type == "vit" else {}
    try:
        # The initial weights are replaced. Drawing them must not change the caller's random
        # numbers.
        with torch.random.fork_rng(devices=[]), silent_transformers():
            network, loaded = classes[model_type].from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **options,
            )
    except Exception as error:  # transformers raises many kinds
        raise DataError(f"{path}: cannot be loaded: {shortened(one_line(error))}") from None
    lacking = sorted([*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])])
    if lacking:
        raise DataError(
            f"{path}: weights of the network are missing or have another shape ({len(lacking)} in all, "
            f"such as {lacking[0]}); get the folder again"
        )
    return network, network.config, weights
