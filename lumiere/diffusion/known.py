"""Holding the estimate of x_0 to known pixels, with any diffusers scheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def signal_level(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t, alpha_t^2 + sigma_t^2 = 1, where the scheduler is now.

    `timestep` may stand for a level between two training timesteps, and twice among the scheduler's.
    """
    if not hasattr(scheduler, "sigmas"):
        alpha_squared = scheduler.alphas_cumprod[int(timestep)].float()
    else:  # these count in sigma_t / alpha_t
        # Some step in x_t / alpha_t and scale it for the network, by the level that they are at, midpoints included.
        # The others step in x_t, from one of their levels to the next.
        alpha_squared = scheduler.scale_model_input(torch.ones(()), timestep) ** 2
        if alpha_squared == 1:
            index = (
                (scheduler.begin_index or 0)
                if scheduler.step_index is None
                else scheduler.step_index
            )
            alpha_squared = 1 / (1 + scheduler.sigmas[index].float() ** 2)
    alpha_squared = alpha_squared.to(timestep.device)
    return alpha_squared.sqrt(), (1 - alpha_squared).sqrt().clamp(min=1e-6)


def hold_known(
    scheduler: Any,
    prediction_type: str,
    model_output: Tensor,
    scaled_x_t: Tensor,
    timestep: Tensor,
    known: Tensor,
    known_mask: Tensor,
) -> Tensor:
    """The model output whose estimate of x_0 is the given pixels where they are known.

    x_t's known part is then the given pixels with their share of noise at every step, as it was in training, and the
    rest is painted to fit.

    Args:
        scheduler: with its timesteps set.
        prediction_type: of the network.
        model_output: (b, c, t, h, w).
        scaled_x_t: what the network saw, likewise.
        timestep: 0-d.
        known, known_mask: C (b, c, t, h, w) and M (b, 1, t, h, w).
    """
    if prediction_type == "sample":
        wanted = known
    else:
        alpha, sigma = signal_level(scheduler, timestep)
        if prediction_type == "epsilon":
            wanted = (scaled_x_t - alpha * known) / sigma
        else:  # v = alpha noise - sigma x_0
            wanted = (alpha * scaled_x_t - known) / sigma
    return torch.where(known_mask > 0.5, wanted, model_output.float())
