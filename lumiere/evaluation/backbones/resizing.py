"""Resizes frames as the publications of the backbones do."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_antialiased(
    frames: np.ndarray, height: int, width: int, resample: Image.Resampling
) -> np.ndarray:
    """Resize with PIL's antialiased filters, each channel in 32-bit floats, and clip to [0, 255].

    This is what clean-fid does (Parmar et al., "On Aliased Resizing and Surprising Subtleties in
    GAN Evaluation", 2022). The aspect ratio is not kept.

    Args:
        frames: uint8 (n, h, w, 3).
        height: of the result, in pixels.
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
