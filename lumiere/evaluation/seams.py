"""Measures whether the windows of temporal MultiDiffusion are visible (Lumiere, section 3.3).

A long video is super-resolved in short windows. If the windows are made independently, each invents
its own details, and the video jumps where one window ends and the next begins. The paper shows this
as peaks of the mean squared error between consecutive frames. The seam ratio is that error at the
borders of windows divided by the error elsewhere; it is 1 if borders look like any other pair of
frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def consecutive_mse(frames: np.ndarray) -> np.ndarray:
    """Return the mean squared error between consecutive frames.

    Args:
        frames: (t, h, w, c), uint8 in [0, 255] or float in [0, 1], at least 2 frames.

    Returns:
        float64 (t − 1,) on the scale of [0, 1]; entry i compares frames i and i + 1.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(
            f"frames of shape {frames.shape}; expected (t, h, w, c) with at least 2 frames"
        )
    white = 255.0 if frames.dtype == np.uint8 else 1.0
    values = frames.astype(np.float64) / white
    return ((values[1:] - values[:-1]) ** 2).mean(axis=(1, 2, 3))


def window_borders(windows: Sequence[tuple[int, int]], num_frames: int) -> list[int]:
    """Return the indices i for which frames i and i + 1 are not covered by the same windows.

    Args:
        windows: half-open (start, stop), as `lumiere.diffusion.windows.temporal_windows` gives
            them.
        num_frames: frames of the video.
    """
    covers = [
        {w for w, (start, stop) in enumerate(windows) if start <= k < stop}
        for k in range(num_frames)
    ]
    return [i for i in range(num_frames - 1) if covers[i] != covers[i + 1]]


def seam_ratio(errors: np.ndarray | Sequence[np.ndarray], borders: Sequence[int]) -> float:
    """Return the mean error at the borders divided by the mean error elsewhere.

    To compare two ways of joining windows, pass the same borders for both.

    Args:
        errors: (t − 1,) from `consecutive_mse`, or (videos, t − 1). Videos are pooled before
            dividing, so that a nearly still video does not dominate the ratio.
        borders: indices into the last axis.

    Returns:
        At least 0; 1 if borders look like other pairs of frames, or if nothing moves at all.

    Raises:
        ValueError: if there is no border, if all pairs are borders, or if a border is outside the
            video.
    """
    errors = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    is_border = np.zeros(errors.shape[-1], dtype=bool)
    if any(not 0 <= border < len(is_border) for border in borders):
        raise ValueError(f"borders {list(borders)}; allowed: 0 to {len(is_border) - 1}")
    is_border[list(borders)] = True
    if is_border.all() or not is_border.any():
        raise ValueError(
            f"{is_border.sum()} of {len(is_border)} pairs are borders; expected some of both"
        )
    at_borders, elsewhere = errors[:, is_border].mean(), errors[:, ~is_border].mean()
    if elsewhere == 0:
        return 1.0 if at_borders == 0 else float("inf")
    return float(at_borders / elsewhere)
