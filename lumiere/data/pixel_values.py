"""Converts pixels between bytes and numbers, and computes their PSNR.

The package converts pictures and videos only here. Benchmarks, scripts and tests also have formulas
of their own.

bytes         uint8 in [0, 255], as files store them; whole videos as (t, h, w, c)
model range   float32 in [-1, 1], as networks see them; whole videos as (c, t, h, w)
unit range    float32 in [0, 1], as pipelines take and return them; whole videos as (t, c, h, w)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def bytes_to_model(pixels: Tensor) -> Tensor:
    """Convert uint8 of any shape to float32 in [-1, 1]."""
    return pixels.to(torch.float32, copy=True).div_(127.5).sub_(1)


def model_to_bytes(pixels: Tensor) -> Tensor:
    """Convert numbers in [-1, 1] of any shape to uint8; clamps."""
    return ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def bytes_to_unit(pixels: Tensor) -> Tensor:
    """Convert uint8 of any shape to float32 in [0, 1]."""
    return pixels.to(torch.float32, copy=True).div_(255)


def unit_to_bytes(pixels: Tensor) -> Tensor:
    """Convert numbers in [0, 1] of any shape to uint8; values outside that range are undefined."""
    return (pixels * 255).round().to(torch.uint8)


def to_model_range(frames: np.ndarray) -> Tensor:
    """Convert uint8 (t, h, w, c) to float32 (c, t, h, w) in [-1, 1]."""
    return bytes_to_model(_tensor(frames).permute(3, 0, 1, 2))


def from_model_range(video: Tensor) -> np.ndarray:
    """Undo `to_model_range`: (c, t, h, w) in [-1, 1] to uint8 (t, h, w, c); clamp."""
    return model_to_bytes(video).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def to_unit_range(frames: np.ndarray) -> Tensor:
    """Convert uint8 (t, h, w, c) to float32 (t, c, h, w) in [0, 1]."""
    return bytes_to_unit(_tensor(frames).permute(0, 3, 1, 2))


def from_unit_range(video: Tensor) -> np.ndarray:
    """Undo `to_unit_range`: (t, c, h, w) in [0, 1] to uint8 (t, h, w, c)."""
    return unit_to_bytes(video.permute(0, 2, 3, 1)).cpu().numpy()


def psnr(mean_squared_error: float, value_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for an error of 0, NaN for an error of
    NaN.

    Args:
        mean_squared_error: the mean over the compared pixels.
        value_range: the difference between white and black: 255 for bytes, 2 in the model range.
    """
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(value_range**2 / mean_squared_error)


def _tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(frames))  # a copy: the source may be read-only
