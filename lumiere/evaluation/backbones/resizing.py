"""Resizes frames as the publications of the backbones do."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels in 0…1, red, green and blue
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def resize_antialiased(
    frames: np.ndarray, height: int, width: int, resample: Image.Resampling
) -> np.ndarray:
    """Resize with PIL's antialiased filters, each channel in 32-bit floats, and clip to [0, 255].

    This is what clean-fid does (Parmar et al., "On Aliased Resizing and Surprising Subtleties in
    GAN Evaluation", 2022).

    Args:
        frames: uint8 (n, h, w, 3).
        height: of the result, in pixels. The aspect ratio need not be kept.
        width: of the result, in pixels.
        resample: the filter, such as `Image.Resampling.BICUBIC`.

    Returns:
        float32 (n, height, width, 3) in [0, 255].
    """
    resized = np.empty((len(frames), height, width, 3), np.float32)
    for i, frame in enumerate(frames):
        for channel in range(3):
            plane = Image.fromarray(frame[:, :, channel].astype(np.float32))
            resized[i, :, :, channel] = np.asarray(plane.resize((width, height), resample))
    return resized.clip(0, 255)


def resize_bilinear(frames: np.ndarray, height: int, width: int) -> Tensor:
    """Resize with torch's bilinear filter without antialiasing, in 32-bit floats.

    Args:
        frames: uint8 (n, h, w, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        float32 (n, 3, height, width) in [0, 255].
    """
    planes = channels_first(frames.astype(np.float32))
    return F.interpolate(
        planes, size=(height, width), mode="bilinear", align_corners=False, antialias=False
    )


def with_shorter_side(frames: np.ndarray, side: int, *, round_up: bool = False) -> tuple[int, int]:
    """Compute height and width after scaling the shorter side to `side`.

    Args:
        frames: (n, h, w, 3).
        side: in pixels.
        round_up: what becomes of a fraction in the longer side; False cuts it off.
    """
    height, width = frames.shape[1:3]
    longer = side * max(height, width) / min(height, width)
    length = math.ceil(longer) if round_up else int(longer)
    return (length, side) if height > width else (side, length)


def centre_crop(planes: Tensor, side: int) -> Tensor:
    """Cut the middle square out of (n, 3, h, w) with h, w ≥ `side`: (n, 3, side, side)."""
    top = (planes.shape[2] - side) // 2
    left = (planes.shape[3] - side) // 2
    return planes[:, :, top : top + side, left : left + side]


def channels_first(frames: np.ndarray) -> Tensor:
    """Turn float32 (n, h, w, 3) into a tensor (n, 3, h, w)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def normalise_imagenet(planes: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its deviation: (n, 3, h, w) in [0, 255]."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float32)[:, None, None]
    deviation = torch.tensor(IMAGENET_DEVIATION, dtype=torch.float32)[:, None, None]
    return (planes / 255 - mean) / deviation
