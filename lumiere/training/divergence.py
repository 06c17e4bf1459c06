"""When a training is given up: a loss that is no number or blows up, gradients that are never finite."""

from __future__ import annotations

import math
from typing import Any

from lumiere.config import OptimConfig
from lumiere.errors import LumiereError

SMOOTHING = 0.98
SETTLED = 30  # losses; the mean of fewer, of batches of one, is noise
SKIPPED = 50  # steps in a row without a finite gradient: loss scaling, which halves at each, found none that works
REMEMBERED = ("mean", "count", "best", "skipped")


class TrainingDiverged(LumiereError):
    """The loss became NaN or blew up, which other params mend; the last good checkpoint is kept."""


class LossWatch:
    """The running mean of a training's loss against its best.

    Attributes:
        best: the lowest mean since it settled; infinite before.
    """

    def __init__(self, config: OptimConfig, scales_loss: bool = False) -> None:
        """`scales_loss`: in fp16 some steps without a finite gradient are usual, and skipped."""
        after_warmup = config.steps - config.warmup_steps
        self.settling = max(SETTLED, config.warmup_steps + min(50, after_warmup // 4))
        self.factor, self.scales_loss = config.divergence_factor, scales_loss
        self.mean, self.count, self.best, self.skipped = 0.0, 0, math.inf, 0

    @property
    def smoothed(self) -> float:
        """The mean of the latest losses, some 50; without the bias of its start at 0 (Kingma and Ba 2015)."""
        return self.mean / (1 - SMOOTHING**self.count) if self.count else 0.0

    @property
    def is_rising(self) -> bool:
        """Half-way to a blow-up, on a log scale."""
        return self.smoothed > math.sqrt(self.factor) * self.best

    def add(self, loss: float, grad_norm: float) -> str:
        """A step's loss and gradient norm; returns what is wrong, or nothing."""
        self.skipped = 0 if math.isfinite(grad_norm) else self.skipped + 1
        if not math.isfinite(loss) or (self.skipped and not self.scales_loss):
            return f"loss {loss}, gradient norm {grad_norm}"
        if self.skipped == SKIPPED:
            return f"{SKIPPED} steps in a row without a finite gradient, which were all skipped,"
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * loss
        self.count += 1
        if self.count > self.settling:
            self.best = min(self.best, self.smoothed)
        if self.smoothed > self.factor * self.best:
            return f"the smoothed loss rose from {self.best:.4f} to {self.smoothed:.4f}"
        return ""

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name in REMEMBERED:
            setattr(self, name, state[name])
