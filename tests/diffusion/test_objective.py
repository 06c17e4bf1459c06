"""The training objective: targets and estimates are inverses, weights are those of x_0 space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumiere.diffusion.objective import (
    PREDICTION_TYPES,
    Objective,
    make_scheduler,
    without_variance,
)


def make_objective(prediction_type: str = "v_prediction", gamma: float = 0.0) -> Objective:
    scheduler = make_scheduler()
    scheduler.register_to_config(prediction_type=prediction_type)
    return Objective(scheduler, gamma)


def draw(batch_size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(batch_size, 3, 2, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(x_0.shape, generator=generator)
    return x_0, noise, torch.tensor([0, 100, 500, 900])[:batch_size]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_pred_x_0_is_the_inverse_of_target(prediction_type: str) -> None:
    objective = make_objective(prediction_type)
    x_0, noise, timesteps = draw()
    x_t = objective.add_noise(x_0, noise, timesteps)
    output = objective.target(x_0, noise, timesteps)
    torch.testing.assert_close(
        objective.pred_x_0(output, x_t, timesteps), x_0, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_noising_and_estimates_are_those_of_diffusers(prediction_type: str) -> None:
    scheduler = make_scheduler()
    scheduler.register_to_config(prediction_type=prediction_type, clip_sample=False)
    objective = Objective(scheduler)
    x_0, noise, timesteps = draw()
    x_t = objective.add_noise(x_0, noise, timesteps)
    torch.testing.assert_close(
        x_t, scheduler.add_noise(x_0, noise, timesteps), atol=1e-6, rtol=1e-5
    )
    if prediction_type == "v_prediction":
        torch.testing.assert_close(
            objective.target(x_0, noise, timesteps), scheduler.get_velocity(x_0, noise, timesteps)
        )
    scheduler.set_timesteps(1000)
    step = scheduler.step(noise[1:2], 100, x_t[1:2])
    ours = objective.pred_x_0(noise[1:2], x_t[1:2], timesteps[1:2])
    torch.testing.assert_close(step.pred_original_sample, ours, atol=1e-4, rtol=1e-4)


def test_the_schedule_ends_in_pure_noise() -> None:
    objective = make_objective()
    x_0, noise, _ = draw()
    last = torch.full((4,), 999)
    assert torch.equal(objective.add_noise(x_0, noise, last), noise)
    assert torch.equal(objective.target(x_0, noise, last), -x_0)
    assert torch.equal(objective.pred_x_0(-x_0, noise, last), x_0)
    assert make_scheduler().config.timestep_spacing == "trailing"
    scheduler = make_scheduler()
    scheduler.set_timesteps(7)
    assert int(scheduler.timesteps[0]) == 999


def test_alpha_and_sigma_lie_on_the_circle() -> None:
    objective = make_objective()
    alpha, sigma = objective.levels(torch.arange(1000), 5)
    assert alpha.shape == sigma.shape == (1000, 1, 1, 1, 1)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert (alpha.diff(dim=0) < 0).all()


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weighs_every_prediction_type_alike_in_x_0_space(gamma: float) -> None:
    """A network whose x_0 estimate is off by d is charged min(SNR, gamma) d^2, whatever it predicts."""
    x_0, noise, timesteps = draw()
    off = 0.01 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    charges = []
    for prediction_type in PREDICTION_TYPES:
        objective = make_objective(prediction_type, gamma)
        alpha, sigma = objective.levels(timesteps, 5)
        # The change of the output that moves pred_x_0 by `off`.
        change = {"sample": off, "epsilon": -alpha / sigma * off, "v_prediction": -off / sigma}[
            prediction_type
        ]
        output = objective.target(x_0, noise, timesteps) + change
        charges.append(objective.losses(output, x_0, noise, timesteps))
    snr = (alpha / sigma).flatten() ** 2
    expected = snr.clamp(max=gamma) * off.square().flatten(1).mean(1)  # (b,)
    for charge in charges:
        torch.testing.assert_close(charge, expected, atol=1e-6, rtol=1e-2)


def test_without_gamma_all_weights_are_one() -> None:
    assert torch.equal(make_objective().weight(torch.tensor([0, 999])), torch.ones(2))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_weights_are_finite_and_not_negative_everywhere(prediction_type: str) -> None:
    weights = make_objective(prediction_type, 5.0).weight(torch.arange(1000))
    assert weights.isfinite().all() and (weights >= 0).all() and weights[:990].min() > 0


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_the_loss_is_float32(
    prediction_type: str, dtype: torch.dtype
) -> None:
    objective = make_objective(prediction_type, 5.0)
    x_0, noise, timesteps = draw()
    x_0, noise = x_0.to(dtype), noise.to(dtype)
    x_t = objective.add_noise(x_0, noise, timesteps)
    assert x_t.dtype == dtype and objective.pred_x_0(noise, x_t, timesteps).dtype == dtype
    assert objective.losses(noise, x_0, noise, timesteps).dtype == torch.float32


def test_an_unknown_prediction_type_is_named() -> None:
    scheduler: Any = SimpleNamespace(
        config=SimpleNamespace(prediction_type="flow", num_train_timesteps=10)
    )
    with pytest.raises(ValueError, match="'flow'; allowed: epsilon, sample, v_prediction"):
        Objective(scheduler)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_learned_variance_behind_the_mean_is_not_charged(prediction_type: str) -> None:
    objective = make_objective(prediction_type, 5.0)
    x_0, noise, timesteps = draw()
    output = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    both = torch.cat([output, torch.full_like(output, 9.0)], dim=1).requires_grad_()
    losses = objective.losses(both, x_0, noise, timesteps)
    assert torch.equal(losses, objective.losses(output, x_0, noise, timesteps))
    losses.mean().backward()
    assert both.grad is not None and both.grad[:, :3].any() and not both.grad[:, 3:].any()
    x_t = objective.add_noise(x_0, noise, timesteps)
    estimates = [objective.pred_x_0(each, x_t, timesteps) for each in (both, output)]
    assert torch.equal(*estimates)


def test_another_number_of_channels_is_told() -> None:
    with pytest.raises(
        ValueError, match="has 4 channels; expected 3, or 6 with a learned variance"
    ):
        without_variance(torch.zeros(1, 4, 2, 8, 8), 3)
