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


def picture_scores(sharpness: float, signature: np.ndarray | None) -> dict[str, float]:
    """Return the scores of a clip's pictures by their column of the manifest.

    Args:
        sharpness: see `filters.sharpness`.
        signature: uint8 (4, h, w, 3), the clip's small frames; None leaves out those that need them.
    """
    if signature is None:
        return {"sharpness": sharpness}
    dark, bright = dark_and_bright(signature)
    return {"sharpness": sharpness, "dark_share": dark, "bright_share": bright}
