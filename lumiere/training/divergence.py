"""Detects when a training must end, because the loss is NaN or blows up or no gradient is finite."""

from __future__ import annotations

import math
from typing import Any

from lumiere.config import OptimConfig

SMOOTHING = 0.98
# Losses; with batches of one clip, the mean of fewer is too noisy.
SETTLED = 30
# Steps in a row without a finite gradient. Loss scaling halves its scale at each of them; after
# this many, no scale works.
SKIPPED = 50
REMEMBERED = ("mean", "count", "best", "skipped")


class LossWatch:
    """Compares the running mean of a training's loss with its best.

    Attributes:
        best: the lowest mean so far; infinite until there are enough losses.
    """

    def __init__(self, config: OptimConfig, scales_loss: bool = False) -> None:
        """Set `scales_loss` for fp16, where loss scaling skips some steps without a finite
        gradient.
        """
        after_warmup = config.steps - config.warmup_steps
        self.settling = max(SETTLED, config.warmup_steps + min(50, after_warmup // 4))
        self.factor, self.scales_loss = config.divergence_factor, scales_loss
        self.mean, self.count, self.best, self.skipped = 0.0, 0, math.inf, 0

    @property
    def smoothed(self) -> float:
        """The mean of the latest 50 losses or so, corrected for its start at 0, as in Adam."""
        return self.mean / (1 - SMOOTHING**self.count) if self.count else 0.0

    @property
    def is_rising(self) -> bool:
        """Return whether the loss is half-way to a blow-up, on a log scale."""
        return self.smoothed > math.sqrt(self.factor) * self.best

    def add(self, loss: float, grad_norm: float) -> str:
        """Add a step's loss and gradient norm; return why the training must end, or ""."""
        self.skipped = 0 if math.isfinite(grad_norm) else self.skipped + 1
        if not math.isfinite(loss) or (self.skipped and not self.scales_loss):
            return f"loss {loss}, gradient norm {grad_norm}"
        if self.skipped == SKIPPED:
            return f"{SKIPPED} steps in a row without a finite gradient, all of them skipped,"
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * loss
        self.count += 1
        if self.count > self.settling:
            self.best = min(self.best, self.smoothed)
        if self.smoothed > self.factor * self.best:
            return f"the smoothed loss rose from {self.best:.4f} to {self.smoothed:.4f}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return the values to store in a checkpoint."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the values that `state_dict` returned."""
        for name in REMEMBERED:
            setattr(self, name, state[name])
