"""Adaptive projected guidance, seen through estimates of x_0 that the training objective makes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.objective import PREDICTION_TYPES, Objective, make_scheduler
from lumiere.diffusion.projection import Projection

SHAPE = (2, 3, 4, 8, 8)
NOTHING = torch.zeros(1, 1, 1)
SCALE = 4.0
# With noise prediction, the noisiest timestep has a signal of 0.5 %, and differences in x_0 are 200
# times those of the output.
TIMESTEPS = (0, 300, 700, 998)


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def guidance(projection: Projection, rescale: float = 0.0) -> TextGuidance:
    return TextGuidance(NOTHING, NOTHING, NOTHING, NOTHING, SCALE, rescale, projection=projection)


class Step:
    """One prediction of both halves at a noise level of a real schedule."""

    def __init__(self, prediction_type: str, timestep: int, number: int = 0) -> None:
        scheduler = DDIMScheduler.from_config(
            make_scheduler().config, prediction_type=prediction_type, rescale_betas_zero_snr=False
        )
        self.prediction_type, self.objective = prediction_type, Objective(scheduler)
        self.timesteps = torch.full((SHAPE[0],), timestep)
        self.x_t, self.negative, self.positive = torch.randn(3, *SHAPE, generator=seed(number))

    def pred_x_0(self, model_output: Tensor) -> Tensor:
        return self.objective.pred_x_0(model_output, self.x_t, self.timesteps)

    def guide(self, projection: Projection, rescale: float = 0.0) -> Tensor:
        alpha, sigma = self.objective.levels(self.timesteps[:1], 0)
        return guidance(projection, rescale).combine_projected(
            torch.cat([self.negative, self.positive], dim=1),
            self.x_t,
            self.prediction_type,
            alpha.squeeze(),
            sigma.squeeze(),
        )

    def moved(self, projection: Projection) -> Tensor:
        """By how much guidance moves the estimate of x_0, as a share of its scale."""
        guided = self.pred_x_0(self.guide(projection))
        return (guided - self.pred_x_0(self.positive)) / (SCALE - 1)

    def difference(self) -> Tensor:
        return self.pred_x_0(self.positive) - self.pred_x_0(self.negative)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each clip, (b,)."""
    return (a.double() * b.double()).flatten(1).sum(1)


def rms(a: Tensor) -> Tensor:
    return (inner(a, a) / math.prod(SHAPE[1:])).sqrt()


every_level = pytest.mark.parametrize("timestep", TIMESTEPS)
every_prediction = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)


@every_prediction
@every_level
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_the_settings_of_plain_guidance_give_plain_guidance(
    prediction_type: str, timestep: int, rescale: float
) -> None:
    step = Step(prediction_type, timestep)
    plain = guidance(Projection(), rescale).combine(step.negative, step.positive)
    torch.testing.assert_close(step.guide(Projection(), rescale), plain, rtol=1e-5, atol=1e-5)
    assert Projection().is_plain


@pytest.mark.parametrize(
    "projection", [Projection(eta=0.9), Projection(threshold=9.0), Projection(momentum=-0.1)]
)
def test_every_setting_is_noticed(projection: Projection) -> None:
    assert not projection.is_plain
    guided = guidance(projection)
    assert guided.is_projected_at(5) and not guidance(Projection()).is_projected_at(5)
    outside = TextGuidance(
        NOTHING, NOTHING, NOTHING, NOTHING, SCALE, 0.0, (6.0, 9.0), projection=projection
    )
    assert not outside.is_projected_at(5)


@every_prediction
@every_level
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_eta_weighs_the_parallel_part_and_nothing_else(
    prediction_type: str, timestep: int, eta: float
) -> None:
    step = Step(prediction_type, timestep)
    moved, difference = step.moved(Projection(eta=eta)), step.difference()
    reference = step.pred_x_0(step.positive)
    size = (inner(difference, difference) * inner(reference, reference)).sqrt()
    along = inner(moved, reference) / size
    assert torch.allclose(along, eta * inner(difference, reference) / size, atol=1e-4)
    # What changed is parallel to the reference: its cosine is 1 or -1.
    change = moved - difference
    cosine = inner(change, reference) / (rms(change) * rms(reference) * math.prod(SHAPE[1:]))
    assert torch.allclose(cosine.abs(), torch.ones(2, dtype=torch.float64), atol=1e-3)


@every_prediction
@every_level
def test_the_threshold_limits_large_differences_alone(prediction_type: str, timestep: int) -> None:
    step = Step(prediction_type, timestep)
    size = rms(step.difference())
    limit = float(size.min()) / 2
    moved = step.moved(Projection(threshold=limit))
    torch.testing.assert_close(rms(moved), torch.full_like(size, limit), rtol=1e-3, atol=1e-6)
    cosine = inner(moved, step.difference()) / (rms(moved) * size * math.prod(SHAPE[1:]))
    assert (cosine > 0.999).all()
    unlimited = step.moved(Projection(threshold=2 * float(size.max())))
    scale = float(size.max())
    torch.testing.assert_close(unlimited, step.difference(), rtol=1e-3, atol=1e-3 * scale)


def test_momentum_adds_up_what_was_before() -> None:
    projection = Projection(momentum=-0.5)
    steps = [Step("v_prediction", 700, number) for number in range(3)]
    moved = [step.moved(projection) for step in steps]
    first, second, third = (step.difference() for step in steps)
    expected = [first, second - 0.5 * first, third - 0.5 * second + 0.25 * first]
    for one, other in zip(moved, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_limit_comes_after_momentum_and_before_the_split() -> None:
    """The order of algorithm 1. The average itself is not limited."""
    projection = Projection(eta=0.0, threshold=0.2, momentum=-0.5)
    steps = [Step("sample", 700, number) for number in range(2)]
    moved = [step.moved(projection) for step in steps]
    difference = steps[1].difference() - 0.5 * steps[0].difference()
    difference = difference * (0.2 / rms(difference)).view(-1, 1, 1, 1, 1)
    reference = steps[1].positive
    along = inner(difference, reference) / inner(reference, reference)
    expected = difference - along.view(-1, 1, 1, 1, 1) * reference
    torch.testing.assert_close(moved[1].double(), expected, rtol=1e-4, atol=1e-4)


def test_clips_do_not_see_each_other() -> None:
    step = Step("v_prediction", 300)
    make: Callable[[], Projection] = lambda: Projection(0.0, 0.1, -0.5)  # noqa: E731
    both = step.guide(make())
    step.x_t, step.negative, step.positive = (
        tensor[1:] for tensor in (step.x_t, step.negative, step.positive)
    )
    torch.testing.assert_close(step.guide(make()), both[1:])


def test_pictures_are_guided_as_clips_of_one_frame() -> None:
    halves, x_t = torch.randn(2, 6, 1, 8, 8, generator=seed()), torch.randn(2, 3, 1, 8, 8)
    level = torch.tensor(0.6), torch.tensor(0.8)
    make = [
        guidance(Projection(0.0, 0.1)).combine_projected(*tensors, "v_prediction", *level)
        for tensors in ((halves, x_t), (halves[:, :, 0], x_t[:, :, 0]))
    ]
    torch.testing.assert_close(make[0][:, :, 0], make[1])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_without_any_signal_the_result_is_finite(prediction_type: str) -> None:
    """Zero terminal SNR: there, epsilon says nothing about x_0, so a limit leaves no guidance."""
    step = Step(prediction_type, 998)
    level = torch.tensor(0.0), torch.tensor(1.0)
    halves = torch.cat([step.negative, step.positive], dim=1)

    def guide(*settings: float) -> Tensor:
        return guidance(Projection(*settings)).combine_projected(
            halves, step.x_t, prediction_type, *level
        )

    plain = guidance(Projection()).combine(step.negative, step.positive)
    torch.testing.assert_close(guide(), plain, rtol=1e-4, atol=1e-4)
    for settings in ((0.0, 0.0, 0.0), (0.5, 0.1, -0.5)):
        assert guide(*settings).isfinite().all()
    if prediction_type == "epsilon":
        torch.testing.assert_close(guide(1.0, 0.1), step.positive, rtol=0, atol=1e-5)


def test_equal_halves_and_an_empty_estimate_are_no_division_by_zero() -> None:
    step = Step("sample", 300)
    step.negative = step.positive
    torch.testing.assert_close(step.guide(Projection(0.0, 0.1, -0.5)), step.positive)
    step = Step("sample", 300)
    step.positive = torch.zeros_like(step.positive)  # nothing is parallel to zero
    plain = guidance(Projection()).combine(step.negative, step.positive)
    torch.testing.assert_close(step.guide(Projection(eta=0.0)), plain)
