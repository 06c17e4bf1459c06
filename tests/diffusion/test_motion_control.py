"""Motion that is scaled and frames that are smoothed, in the estimate of x_0 alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumiere.diffusion.motion_control import MotionControl, slow_course, smooth
from lumiere.diffusion.objective import PREDICTION_TYPES, Objective, make_scheduler
from lumiere.diffusion.schedulers import signal_level
from lumiere.diffusion.windows import temporal_windows

CLIP = (2, 3, 6, 4, 4)
WHOLE = [(0, 6)]
EVERYWHERE = (0.0, 1000.0)
TIMESTEP = torch.tensor(600)


def random_tensor(seed: int) -> Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(seed))


def changed_x_0(
    control: MotionControl, kind: str, windows: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Return the estimates of x_0 before and after a change."""
    scheduler = make_scheduler()
    scheduler.register_to_config(prediction_type=kind)
    objective = Objective(scheduler)
    x_t, output, timesteps = random_tensor(0), random_tensor(1), TIMESTEP.expand(2)
    scheduler.set_timesteps(10)
    level = signal_level(scheduler, TIMESTEP)
    after = control.change(output, x_t, TIMESTEP, kind, *level, windows)
    return tuple(objective.pred_x_0(o, x_t, timesteps) for o in (output, after))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_each_frame_goes_away_from_the_mean_of_its_clip(kind: str) -> None:
    before, after = changed_x_0(MotionControl(1.5, EVERYWHERE), kind, WHOLE)
    mean = before.mean(2, keepdim=True)
    torch.testing.assert_close(after, mean + 1.5 * (before - mean), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_each_frame_goes_to_the_median_of_its_neighbours(kind: str) -> None:
    control = MotionControl(smoothing=0.5, smoothing_interval=EVERYWHERE)
    before, after = changed_x_0(control, kind, WHOLE)
    torch.testing.assert_close(after, (before + smooth(before)) / 2, rtol=0, atol=1e-4)
    torch.testing.assert_close(smooth(before)[:, :, 2], before[:, :, 1:4].median(2).values)


def test_a_clip_that_stands_still_stays_as_it_is() -> None:
    still = random_tensor(0)[:, :, :1].expand(CLIP)
    torch.testing.assert_close(smooth(still), still)
    torch.testing.assert_close(slow_course(still, [(0, 4), (2, 6)]), still)


def test_smoothing_takes_out_a_flicker_and_keeps_what_moves() -> None:
    clip = torch.zeros(CLIP)
    clip[:, :, 2] = 1  # one frame flickers
    assert not smooth(clip).any()
    moving = torch.zeros(CLIP)
    moving[:, :, 3:] = 1  # an edge passes, or something moves steadily
    torch.testing.assert_close(smooth(moving), moving)
    steady = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(CLIP)
    torch.testing.assert_close(smooth(steady), steady)


@pytest.mark.parametrize("overlap", [0, 2, 8])
def test_a_long_clip_that_moves_steadily_has_no_jump(overlap: int) -> None:
    steady = torch.arange(60.0).view(1, 1, 60, 1, 1)
    windows = temporal_windows(60, 16, overlap)
    course = slow_course(steady, windows)
    scaled = torch.lerp(course, steady, 1.6)
    assert scaled.diff(dim=2).min() > 0.9 and scaled.diff(dim=2).max() < 1.7
    # What goes back and forth within a window moves more.
    waves = torch.sin(steady)
    waved = torch.lerp(slow_course(waves, windows), waves, 1.6)
    torch.testing.assert_close(waved, 1.6 * waves, rtol=0, atol=0.1)


def test_steps_that_leave_the_interval_out_are_told() -> None:
    control = MotionControl(1.6, (350, 950))
    assert control.is_skipped_by(torch.tensor([999, 249]))
    assert not control.is_skipped_by(torch.tensor([999, 421, 124, 15]))
    # Video to video that begins below the interval has nothing to scale.
    assert not control.is_skipped_by(torch.tensor([249, 100]))
    assert not MotionControl(1.0, (350, 950)).is_skipped_by(torch.tensor([999, 249]))


def test_each_part_acts_in_its_own_interval_and_not_at_its_neutral_value() -> None:
    control = MotionControl(2.0, (400, 900), 0.5, (0, 300))
    parts = [(control.scales_at(t), control.smooths_at(t)) for t in (0, 300, 350, 400, 900, 950)]
    assert parts == [
        (False, True), (False, True), (False, False), (True, False), (True, False), (False, False)
    ]  # fmt: skip
    assert not MotionControl(1.0, EVERYWHERE, 0.0, EVERYWHERE).acts_at(500)
