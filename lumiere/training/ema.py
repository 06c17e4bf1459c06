"""Exponential moving average of the trained weights, with a warm-up that suits short runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EMA:
    """average <- decay_k average + (1 - decay_k) weight, decay_k = min(decay, (1 + k) / (10 + k)).

    Attributes:
        average: the averages by name; they start at the weights.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Fold in the weights after update number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        latest = [weights[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), latest, 1 - decay)

    @torch.no_grad()
    def swap(self, weights: Mapping[str, Tensor]) -> None:
        """Exchange the averages with the weights, in place; a second call undoes the first."""
        for name, weight in weights.items():
            latest = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(latest)
