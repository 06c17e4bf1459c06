"""MultiDiffusion over time (paper, section 3.2; Bar-Tal et al. 2023).

The super-resolution network sees short, overlapping windows of the clip. At every denoising step their predictions are
reconciled into one that fits them all best, argmin over J' of sum_i ||J'|window_i - Phi(J_i)||^2, which is the mean
over the windows that cover a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def temporal_windows(num_frames: int, window_size: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open windows that cover every frame.

    Neighbours overlap by exactly `overlap` frames; only the last pair by more, where the tail does not fill a window.

    Args:
        num_frames: frames of the clip, at least 1.
        window_size: frames of a window; a shorter clip is one window.
        overlap: shared frames, 0 to window_size - 1.

    Raises:
        ValueError: outside these ranges.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}; allowed: at least 1")
    if not 0 <= overlap < window_size:
        raise ValueError(f"overlap {overlap} with window_size {window_size}; allowed: 0 <= overlap < window_size")
    if num_frames <= window_size:
        return [(0, num_frames)]
    stride = window_size - overlap
    starts = [*range(0, num_frames - window_size, stride), num_frames - window_size]
    return [(start, start + window_size) for start in starts]


def independent_windows(num_frames: int, window_size: int) -> list[tuple[int, int]]:
    """Windows that share no frame, the last one shorter: what MultiDiffusion is compared with."""
    return [(start, min(start + window_size, num_frames)) for start in range(0, num_frames, window_size)]


def reconcile(predictions: Sequence[Tensor], windows: Sequence[tuple[int, int]], num_frames: int) -> Tensor:
    """The clip that fits all windows' predictions best in the least-squares sense: their mean where they overlap.

    Args:
        predictions: one (b, c, t_i, h, w) per window.
        windows: half-open frame ranges, in any order.
        num_frames: t of the result.

    Returns:
        (b, c, t, h, w) in the predictions' dtype, accumulated in float32.

    Raises:
        ValueError: when counts or shapes do not match, or a frame is in no window.
    """
    if len(predictions) != len(windows) or not windows:
        raise ValueError(f"{len(predictions)} predictions for {len(windows)} windows; expected one each, at least one")
    first = predictions[0]
    if first.ndim != 5:
        raise ValueError(f"a prediction has shape {tuple(first.shape)}; expected (b, c, t, h, w)")
    total = first.new_zeros((*first.shape[:2], num_frames, *first.shape[3:]), dtype=torch.float32)
    counts = total.new_zeros(num_frames)
    for prediction, (start, end) in zip(predictions, windows, strict=True):
        shape = (*first.shape[:2], end - start, *first.shape[3:])
        if not 0 <= start < end <= num_frames or tuple(prediction.shape) != shape:
            raise ValueError(
                f"window ({start}, {end}) of {num_frames} frames with a prediction of shape {tuple(prediction.shape)}"
            )
        total[:, :, start:end] += prediction
        counts[start:end] += 1
    uncovered = (counts == 0).nonzero().flatten().tolist()
    if uncovered:
        raise ValueError(f"frame {uncovered[0]} is in no window ({len(uncovered)} uncovered of {num_frames})")
    return (total / counts.view(-1, 1, 1)).to(first.dtype)
