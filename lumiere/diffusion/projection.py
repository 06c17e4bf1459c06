"""Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

Strong guidance saturates colours. The cause is mainly the part of the guidance that is parallel to
the prediction itself, which only scales the video. So this module splits the guidance in two parts
and weighs the parallel one. It works on estimates of x_0, whatever the network predicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

TINY = 1e-6  # keeps divisions finite


@dataclass
class Projection:
    """The settings of projected guidance, and its running average. Make a new one for each call.

    Attributes:
        eta: the weight of the parallel part, 0 to 1; 1 keeps all of it, as plain guidance does.
        threshold: the largest root mean square of the difference between the two estimates of x_0,
            over all numbers of a clip; 0 for no limit. The paper's threshold is the norm, which
            grows with the size and the length of a clip: norm = threshold * sqrt(c t h w).
        momentum: the weight of earlier steps in the difference, -1 to 0. A negative weight pushes
            the guidance away from where it went before.
    """

    eta: float = 1.0
    threshold: float = 0.0
    momentum: float = 0.0
    _average: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def is_plain(self) -> bool:
        """Return whether these settings leave guidance unchanged."""
        return self.eta == 1 and self.threshold == 0 and self.momentum == 0

    def direct(self, difference: Tensor, pred_x_0: Tensor) -> Tensor:
        """Return the direction of guidance (paper, algorithm 1).

        Args:
            difference: the conditional estimate of x_0 minus the other one, (b, c, ...).
            pred_x_0: the conditional estimate, same shape.
        """
        if self.momentum != 0:
            if self._average is not None:
                difference = difference + self.momentum * self._average
            self._average = difference
        if self.threshold > 0:
            difference = limit_rms(difference, self.threshold)
        if self.eta != 1:
            difference = difference - (1 - self.eta) * parallel_part(difference, pred_x_0)
        return difference


def limit_rms(difference: Tensor, threshold: float) -> Tensor:
    """Scale each clip of (b, c, ...) so that its root mean square is at most `threshold`."""
    axes = tuple(range(1, difference.ndim))
    rms = difference.square().mean(axes, keepdim=True).sqrt()
    return difference * (threshold / rms.clamp(min=TINY)).clamp(max=1)


def parallel_part(difference: Tensor, reference: Tensor) -> Tensor:
    """Project each clip of `difference` (b, c, ...) on the same clip of `reference`."""
    axes = tuple(range(1, difference.ndim))
    # By the mean, not the sum: it does not overflow, and the ratio is the same.
    product = (difference * reference).mean(axes, keepdim=True)
    square = reference.square().mean(axes, keepdim=True)
    return product / square.clamp(min=TINY**2) * reference


def x_0_line(
    prediction_type: str, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor | float, Tensor | float]:
    """Return (offset, slope), with which pred_x_0 = offset * x_t + slope * model_output.

    The slope is never zero, so that a change of pred_x_0 can be turned back into a change of the
    model output. Epsilon says nothing about x_0 where there is no signal (alpha = 0). There, alpha
    counts as 1e-6: the result stays finite, and a threshold removes the guidance.

    Args:
        prediction_type: the network's.
        alpha, sigma: from `lumiere.diffusion.schedulers.signal_level`.
    """
    if prediction_type == "sample":
        return 0.0, 1.0
    sigma = sigma.clamp(min=TINY)
    if prediction_type == "epsilon":
        alpha = alpha.clamp(min=TINY)
        return 1 / alpha, -sigma / alpha
    return alpha, -sigma  # v = alpha noise - sigma x_0
