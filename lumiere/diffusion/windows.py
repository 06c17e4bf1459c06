"""MultiDiffusion over time (paper, section 3.2; Bar-Tal et al. 2023).

The super-resolution network sees short, overlapping windows of the clip. At every denoising step
their predictions are reconciled into one that fits them all best, argmin over J' of sum_i
||J'|window_i - Phi(J_i)||^2, which is the mean over the windows that cover a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def temporal_windows(num_frames: int, window_size: int, overlap: int) -> list[tuple[int, int]]:
    """Return half-open windows that cover every frame.

    Neighbours overlap by exactly `overlap` frames; only the last pair overlaps by more, if the tail
    does not fill a window.

    Args:
        num_frames: frames of the clip, at least 1.
        window_size: frames of a window; a shorter clip is one window.
        overlap: shared frames, 0 to window_size - 1.

    Raises:
        ValueError: if a value is out of range.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}; allowed: at least 1")
    if not 0 <= overlap < window_size:
        raise ValueError(
            f"overlap {overlap} with window_size {window_size}; allowed: 0 <= overlap < window_size"
        )
    if num_frames <= window_size:
        return [(0, num_frames)]
    stride = window_size - overlap
    starts = [*range(0, num_frames - window_size, stride), num_frames - window_size]
    return [(start, start + window_size) for start in starts]


def independent_windows(num_frames: int, window_size: int) -> list[tuple[int, int]]:
    """Return windows that share no frame, the last one shorter; MultiDiffusion is compared with
    them.
    """
    return [
        (start, min(start + window_size, num_frames)) for start in range(0, num_frames, window_size)
    ]


def check_window_weights(name: str) -> None:
    """Raise ValueError unless `name` is "mean", as in the paper, or "tapered"."""
    if name not in ("mean", "tapered"):
        raise ValueError(f"window_weights is {name!r}; allowed: mean, tapered")


def tapered_weights(windows: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return a weight (t_i,) for every frame of every window, larger towards its middle.

    Where two windows overlap, the clip fades linearly from one into the next.
    """
    rising = [torch.arange(1, end - start + 1, dtype=torch.float32) for start, end in windows]
    return [torch.minimum(weights, weights.flip(0)) for weights in rising]


class Reconciler:
    """Adds up the predictions of windows one by one, so that none has to be kept.

    argmin over J' of sum_i w_i ||J'|window_i - prediction_i||^2 = sum_i w_i prediction_i / sum_i
    w_i, frame by frame, accumulated in float32.
    """

    def __init__(
        self,
        windows: Sequence[tuple[int, int]],
        num_frames: int,
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        """
        Args:
            windows: half-open frame ranges, in any order.
            num_frames: t of the result.
            weights: (t_i,) per window, above zero; equal by default.

        Raises:
            ValueError: if a window lies outside the clip, weights do not fit, or a frame is in no
                window.
        """
        self.windows, self.num_frames = windows, num_frames
        self.weights = (
            [torch.ones(end - start, dtype=torch.float32) for start, end in windows]
            if weights is None
            else list(weights)
        )
        self.is_mean = weights is None
        if len(self.weights) != len(windows):
            raise ValueError(
                f"weights has length {len(self.weights)}; expected {len(windows)}, one per window"
            )
        self.sums = torch.zeros(num_frames, dtype=torch.float32)
        for (start, end), weight in zip(windows, self.weights, strict=True):
            if not 0 <= start < end <= num_frames:
                raise ValueError(
                    f"window ({start}, {end}) of {num_frames} frames; expected a part of the clip"
                )
            if tuple(weight.shape) != (end - start,) or not bool((weight > 0).all()):
                raise ValueError(
                    f"weight of window ({start}, {end}): expected {end - start} numbers above zero"
                )
            self.sums[start:end] += weight.cpu()
        uncovered = (self.sums == 0).nonzero().flatten().tolist()
        if uncovered:
            raise ValueError(
                f"frame {uncovered[0]} is in no window ({len(uncovered)} uncovered of {num_frames})"
            )
        self.total: Tensor | None = None

    def add(self, index: int, prediction: Tensor, batch_size: int, row: int) -> None:
        """Add the prediction (c, t_i, h, w) of window `index` for clip `row` of `batch_size` clips."""
        start, end = self.windows[index]
        if self.total is None:
            channels, _, height, width = prediction.shape
            shape = (batch_size, channels, self.num_frames, height, width)
            self.total = prediction.new_zeros(shape, dtype=torch.float32)
        target = self.total[row, :, start:end]
        if prediction.shape != target.shape:
            raise ValueError(
                f"window ({start}, {end}) of {self.num_frames} frames with a prediction "
                f"(c, t, h, w) of shape {tuple(prediction.shape)}"
            )
        if self.is_mean:
            target += prediction
        else:
            target.addcmul_(
                prediction.float(), self.weights[index].to(prediction.device).view(-1, 1, 1)
            )

    def result(self) -> Tensor:
        """Return (b, c, t, h, w), float32; call it once, after all windows of all clips are
        added.
        """
        assert self.total is not None
        total, self.total = self.total, None
        return total.div_(self.sums.to(total.device).view(-1, 1, 1))


def reconcile(
    predictions: Sequence[Tensor],
    windows: Sequence[tuple[int, int]],
    num_frames: int,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the clip that fits all predictions best in the least-squares sense: their mean.

    Args:
        predictions: one (b, c, t_i, h, w) per window.
        windows: half-open frame ranges, in any order.
        num_frames: t of the result.
        weights: (t_i,) per window, above zero, for a weighted mean.

    Returns:
        (b, c, t, h, w) in the predictions' dtype, accumulated in float32.

    Raises:
        ValueError: when counts or shapes do not match, or a frame is in no window.
    """
    if len(predictions) != len(windows) or not windows:
        raise ValueError(
            f"predictions has length {len(predictions)}; expected {len(windows)}, one per window, and at "
            "least one"
        )
    first = predictions[0]
    if first.ndim != 5:
        raise ValueError(f"a prediction has shape {tuple(first.shape)}; expected (b, c, t, h, w)")
    reconciler = Reconciler(windows, num_frames, weights)
    for index, prediction in enumerate(predictions):
        if prediction.ndim != 5 or len(prediction) != len(first):
            raise ValueError(
                f"window {windows[index]} with a prediction of shape {tuple(prediction.shape)}"
            )
        for row, clip in enumerate(prediction):
            reconciler.add(index, clip, len(first), row)
    return reconciler.result().to(first.dtype)
