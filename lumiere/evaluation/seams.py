"""Are the windows of temporal MultiDiffusion visible? (Lumiere, section 3.3: consecutive-frame MSE.)

A long video is super-resolved in short windows. Made independently, each window invents its own details, and
the video jumps where one window ends and the next begins; the paper shows it as peaks of the mean squared
error between consecutive frames. The ratio here is that error at the borders over that elsewhere: 1 says
that borders look like any other pair of frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def consecutive_mse(frames: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame with the one before it.

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
    values = frames.astype(np.float64) / (255.0 if frames.dtype == np.uint8 else 1.0)
    return ((values[1:] - values[:-1]) ** 2).mean(axis=(1, 2, 3))


def window_borders(windows: Sequence[tuple[int, int]], num_frames: int) -> list[int]:
    """Pairs of frames that different windows made: i where frames i and i + 1 are not covered by the same ones.

    Args:
        windows: half-open (start, stop), as `lumiere.diffusion.windows.temporal_windows` gives them.
        num_frames: the video's length.
    """
    covers = [
        {w for w, (start, stop) in enumerate(windows) if start <= k < stop}
        for k in range(num_frames)
    ]
    return [i for i in range(num_frames - 1) if covers[i] != covers[i + 1]]


def seam_ratio(errors: np.ndarray | Sequence[np.ndarray], borders: Sequence[int]) -> float:
    """Mean error at the borders over the mean error elsewhere.

    Compare two ways of joining windows on the same pairs of frames: pass the same borders for both.

    Args:
        errors: (t − 1,) from `consecutive_mse`, or (videos, t − 1) of one length, pooled before dividing, so
            that a nearly still video does not rule the ratio.
        borders: indices into the last axis.

    Returns:
        At least 0; 1 where borders look like everything else, also where nothing moves at all.

    Raises:
        ValueError: on no border, no pair that is not a border, or a border outside the video.
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
