"""Makes the optimizer of a training and computes its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from lumiere.config import OptimConfig


def learning_rate(config: OptimConfig, step: int) -> float:
    """Warm up linearly, then follow a cosine down to learning_rate * final_learning_rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    final = config.final_learning_rate
    return config.learning_rate * (final + (1 - final) * cosine)


def make_optimizer(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make AdamW or Adafactor (Shazeer and Stern 2018).

    For a weight's last two axes, Adafactor keeps only one row and one column of statistics.
    """
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
