"""When a training is given up: soon where it blows up, never for its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from lumiere.config import OptimConfig
from lumiere.training.divergence import SKIPPED, LossWatch

# Losses of a network that does not learn, at batches of one: they differ by their timestep, 300 times at the most.
NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "by timestep": lambda random, steps: np.exp(random.uniform(math.log(0.01), math.log(3), steps)),
    "exponential": lambda random, steps: random.exponential(size=steps),
}
LENGTHS = [(3, 1), (12, 3), (40, 10), (60, 10), (150, 20), (1000, 10)]  # steps, of the warm-up


def given_up(watch: LossWatch, losses: Iterable[float]) -> int | None:
    """The step."""
    return next((step for step, loss in enumerate(losses) if watch.add(float(loss), 1.0)), None)


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("steps, warmup", LENGTHS)
def test_noise_is_no_blow_up(name: str, steps: int, warmup: int) -> None:
    config = OptimConfig(steps=steps, warmup_steps=warmup, batch_size=1)
    for seed in range(200):
        losses = NOISE[name](np.random.default_rng(seed), steps)
        assert given_up(LossWatch(config), losses) is None, seed


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("start", [40, 500])
def test_a_blow_up_in_noise_is_soon_seen(name: str, start: int) -> None:
    config = OptimConfig(steps=1000, warmup_steps=10, batch_size=1)
    for seed in range(50):
        losses = NOISE[name](np.random.default_rng(seed), 1000)
        losses[start:] *= 1.2 ** np.arange(1000 - start)
        watch = LossWatch(config)
        step = given_up(watch, losses)
        assert step is not None and start < step < start + 40, seed
        assert watch.is_rising


def test_the_mean_has_no_bias_and_its_best_is_of_settled_ones() -> None:
    watch = LossWatch(OptimConfig(steps=1000, warmup_steps=100))
    assert watch.settling == 150
    for loss in (0.01, 0.03):
        watch.add(loss, 1.0)
    assert watch.smoothed == pytest.approx((0.98 * 0.01 + 0.03) / 1.98)
    for _ in range(149):
        watch.add(0.5, 1.0)
    assert math.isfinite(watch.best) and watch.best == watch.smoothed > 0.4


@pytest.mark.parametrize(
    "loss, grad_norm", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_what_is_no_number_is_seen_at_once(loss: float, grad_norm: float) -> None:
    watch = LossWatch(OptimConfig())
    assert not watch.add(1.0, 1.0)
    assert f"loss {loss}, gradient norm {grad_norm}" in watch.add(loss, grad_norm)


def test_fp16_skips_some_steps_but_not_all() -> None:
    config = OptimConfig()
    watch = LossWatch(config, scales_loss=True)
    for _ in range(3):
        assert not any(watch.add(1.0, math.inf) for _ in range(SKIPPED - 1))
        assert not watch.add(1.0, 2.0)
    assert not any(watch.add(1.0, math.nan) for _ in range(SKIPPED - 5))
    resumed = LossWatch(config, scales_loss=True)
    resumed.load_state_dict(watch.state_dict())
    assert not any(resumed.add(1.0, math.inf) for _ in range(4))
    assert "50 steps in a row without a finite gradient" in resumed.add(1.0, math.inf)
    assert LossWatch(config, scales_loss=True).add(math.nan, 1.0)


def test_a_restored_watch_goes_on() -> None:
    config = OptimConfig(steps=100, warmup_steps=10)
    whole, first, second = (LossWatch(config) for _ in range(3))
    losses = np.random.default_rng(0).exponential(size=80)
    for loss in losses:
        whole.add(loss, 1.0)
    for loss in losses[:45]:
        first.add(loss, 1.0)
    second.load_state_dict(first.state_dict())
    for loss in losses[45:]:
        second.add(loss, 1.0)
    assert second.state_dict() == whole.state_dict()
