"""Exponential moving average of the trained weights, with a warm-up that fits short runs."""

from __future__ import annotations

import torch
from torch import Tensor


class EMA:
    """average <- decay_k average + (1 - decay_k) weight, decay_k = min(decay, (1 + k) / (10 + k)) at update k."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], step: int) -> None:
        """Fold in the weights after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.average)
        torch._foreach_lerp_(
            [self.average[n] for n in names], [weights[n].detach() for n in names], 1 - decay
        )

    @torch.no_grad()
    def swap(self, weights: dict[str, Tensor]) -> None:
        """Exchange the averages with the live weights, in place; a second call undoes the first."""
        for name, weight in weights.items():
            held = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(held)
