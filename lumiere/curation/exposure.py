"""Measures how much of a clip is so dark or so bright that it shows nothing."""

from __future__ import annotations

import numpy as np

# Of 255: no channel of a nearly black pixel is above the one, none of a nearly white one below the
# other.
DARK, BRIGHT = 32, 245


def dark_and_bright(frames: np.ndarray) -> tuple[float, float]:
    """Return the shares of the pixels that are nearly black, and nearly white.

    All three channels count, because a deep blue is dark in brightness only.

    Args:
        frames: uint8 (t, h, w, 3).
    """
    dark = float((frames.max(axis=-1) <= DARK).mean())
    bright = float((frames.min(axis=-1) >= BRIGHT).mean())
    return round(dark, 5), round(bright, 5)
