"""Notes the settings of a request that have no effect on its videos, by the names of its fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from lumiere.diffusion.motion_control import MotionControl
from lumiere.diffusion.schedulers import select_timesteps, takes_timesteps
from lumiere.modes import DEFAULT_STRENGTH, strength_applies_to
from lumiere.plurals import has_or_have
from lumiere.requests import Request

if TYPE_CHECKING:
    from lumiere.pipelines.pipeline_lumiere import LumierePipeline


def unused_motion(
    pipe: LumierePipeline, request: Request, num_frames: int, can_take_more_steps: bool
) -> list[str]:
    """Return notes on `motion` and `smoothing` where they change nothing.

    The model's own motion is noted only where the steps pass over it, as a pipeline's call does.

    Args:
        pipe: the model.
        request: a checked request; values of None are the model's.
        num_frames: how many frames it makes.
        can_take_more_steps: whether the model works with another number of steps.
    """
    asks_motion = request.motion is not None and request.motion != 1
    asks_smoothing = request.smoothing is not None and request.smoothing != 0
    if num_frames == 1:
        return _no_effect_on_one_frame(motion=asks_motion, smoothing=asks_smoothing)
    control = _motion_control(pipe, request)
    if control.scale == 1 and not asks_smoothing:
        return []
    visited = _visited(pipe, request)
    notes = []
    if control.scale != 1 and not any(map(control.scales_at, visited)):
        name = (
            f"motion {control.scale:g}"
            if asks_motion
            else f"the model's motion of {control.scale:g}"
        )
        if asks_motion or control.is_skipped_by(torch.tensor(visited)):
            where = (name, pipe.config.motion_interval, control.scales_at)
            notes.append(_no_effect(pipe, request, *where, can_take_more_steps))
    if asks_smoothing and not any(map(control.smooths_at, visited)):
        name = f"smoothing {control.smoothing:g}"
        where = (name, pipe.config.smoothing_interval, control.smooths_at)
        notes.append(_no_effect(pipe, request, *where, can_take_more_steps))
    return notes


def _no_effect_on_one_frame(**asked: bool) -> list[str]:
    """Return a note on the settings that are asked for, by their names."""
    names = [name for name, is_asked in asked.items() if is_asked]
    if not names:
        return []
    return [f"{' and '.join(names)} {has_or_have(len(names))} no effect on a video of 1 frame"]


def _motion_control(pipe: LumierePipeline, request: Request) -> MotionControl:
    """Return the control of motion that the request's call has."""
    config, num_train = pipe.config, pipe.scheduler.config.num_train_timesteps
    low, high = config.motion_interval
    smooth_low, smooth_high = config.smoothing_interval
    return MotionControl(
        config.motion_scale if request.motion is None else request.motion,
        (low * num_train, high * num_train),
        config.temporal_smoothing if request.smoothing is None else request.smoothing,
        (smooth_low * num_train, smooth_high * num_train),
    )


def _no_effect(
    pipe: LumierePipeline,
    request: Request,
    name: str,
    interval: Sequence[float],
    acts_at: Callable[[float], bool],
    can_take_more_steps: bool,
) -> str:
    """Say that a setting has no effect, and what would help: more steps, or a larger strength."""
    low, high = interval
    cure = ""
    most: list[float] = []
    with suppress(ValueError):  # some schedulers, such as LCM's, do not take so many
        most = _visited(pipe, request, pipe.scheduler.config.num_train_timesteps)
    if any(map(acts_at, most)):
        cure = "; take more steps" if can_take_more_steps else "; leave out --fast for more steps"
    elif _share(pipe, request) < 1:
        cure = f"; take a strength above {low:g}"
    return (
        f"{name} has no effect, because it acts at the noise levels {low:g} to {high:g}, and no "
        f"step is there{cure}"
    )


def _visited(pipe: LumierePipeline, request: Request, num_steps: int | None = None) -> list[float]:
    """Return the timesteps of the request's call, or of one with so many steps."""
    num_steps = num_steps or request.steps or pipe.config.num_inference_steps
    # A new one, because a scheduler remembers its timesteps. A copy would take with it what a call
    # has left, such as estimates of a video's size.
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    # A scheduler that takes no timesteps keeps its own spacing; the call warns about it.
    power = pipe.config.timestep_power if takes_timesteps(scheduler) else 1.0
    share = _share(pipe, request)
    timesteps = select_timesteps(scheduler, num_steps, torch.device("cpu"), share, power)
    return [float(timestep) for timestep in timesteps]


def _share(pipe: LumierePipeline, request: Request) -> float:
    """Return the noise level that the request's call starts from."""
    defaults = {"image": pipe.config.image_strength, "video": DEFAULT_STRENGTH, None: 1.0}
    default = defaults[strength_applies_to(request.mode)]
    return float(default if request.strength is None else request.strength)
