"""Motion and flicker as settings of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from lumiere.diffusion.schedulers import power_timesteps
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import DEMO_DEFAULTS
from lumiere.pipelines.run_request import complete_request, describe_output, run_request
from lumiere.requests import make_request
from tests.pipelines.test_modes import IMAGE, STEPS, seed

OPTIONS: dict[str, Any] = {"upscale": False, **STEPS, "num_inference_steps": 4}
MORE = {"motion_scale": 2.0, "motion_interval": (0.4, 1.0)}
SMOOTHER = {"temporal_smoothing": 0.5, "smoothing_interval": (0.0, 0.5)}
FILTER = {"spatial_smoothing": 100.0}


def motion(frames: torch.Tensor) -> float:
    """Return the mean change from frame to frame of frames (b, t, c, h, w)."""
    return float(frames.diff(dim=1).abs().mean())


def test_a_video_moves_more_or_less_and_as_it_did_at_neutral_values(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **OPTIONS).frames
    neutral = {**MORE, **SMOOTHER, "motion_scale": 1.0, "temporal_smoothing": 0.0}
    assert torch.equal(pipe("a cat", generator=seed(), **neutral, **OPTIONS).frames, plain)
    more = pipe("a cat", generator=seed(), **MORE, **OPTIONS).frames
    smoother = pipe("a cat", generator=seed(), **SMOOTHER, **OPTIONS).frames
    assert motion(smoother) < motion(plain) < motion(more)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_with_no_motion_left_all_schedulers_make_still_videos(
    pipe: LumierePipeline, name: str
) -> None:
    settings = {"rescale_betas_zero_snr": False, "beta_schedule": "linear"}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    still = {"motion_scale": 0.0, "motion_interval": (0.0, 1.0)}
    frames = pipe("a cat", generator=seed(), **still, **OPTIONS).frames
    assert motion(frames) < 1e-3 < motion(pipe("a cat", generator=seed(), **OPTIONS).frames)


def test_given_pixels_are_held(pipe: LumierePipeline) -> None:
    frames = pipe("a cat", image=IMAGE, generator=seed(), **MORE, **SMOOTHER, **OPTIONS).frames
    torch.testing.assert_close(frames[0, 0], IMAGE[0], rtol=0, atol=1e-4)


def test_a_long_video_does_not_depend_on_its_batch(pipe: LumierePipeline) -> None:
    options = {**MORE, **SMOOTHER, **OPTIONS, "num_frames": 12}
    both = pipe(["a cat", "a red dog"], generator=[seed(5), seed(6)], batch_size=3, **options)
    alone = pipe("a red dog", generator=seed(6), **options).frames
    torch.testing.assert_close(both.frames[1:], alone, rtol=0, atol=1e-4)


def test_settings_are_saved_and_described(pipe: LumierePipeline, tmp_path: Path) -> None:
    given = MORE | SMOOTHER | FILTER
    settings = {name: list(v) if "interval" in name else v for name, v in given.items()}
    tuned = LumierePipeline(**pipe.components, num_frames=5, **settings)
    tuned.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    made = loaded("a cat", generator=seed(), **OPTIONS)
    expected = pipe("a cat", generator=seed(), num_frames=5, **settings, **OPTIONS)
    assert torch.equal(made.frames, expected.frames)
    request = complete_request(loaded, make_request({"prompt": "a cat", "motion": 0}), 5, 0)
    assert (request.motion, request.smoothing) == (0, settings["temporal_smoothing"])
    described = describe_output(loaded, made)
    # A request has its own, so the model's would not be those of the video.
    of_requests = {"motion_scale", "temporal_smoothing"}
    assert described.keys().isdisjoint(of_requests)
    of_model = settings.keys() - of_requests
    assert {name: described[name] for name in of_model} == {
        name: settings[name] for name in of_model
    }


def test_a_request_sets_motion_and_smoothing(pipe: LumierePipeline) -> None:
    model = {**MORE, **SMOOTHER, **FILTER}
    del model["motion_scale"], model["temporal_smoothing"]
    pipe.register_to_config(**model)
    values = {"prompt": "a cat", "motion": "2", "smoothing": "0.5", "upscale": "no", "seed": 0}
    request = complete_request(pipe, make_request({**values, "steps": 4}), 5, 0)
    made = run_request(pipe, request, {}).frames
    options = {**MORE, **SMOOTHER, **FILTER, **OPTIONS, "num_frames": 5}
    assert torch.equal(made, pipe("a cat", generator=seed(0), **options).frames)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"motion_scale": -1.0}, "motion_scale is -1.0; allowed: at least 0"),
        ({"motion_interval": (0.9, 0.1)}, "motion_interval is"),
        ({"temporal_smoothing": 1.5}, "temporal_smoothing is 1.5"),
        ({"smoothing_interval": 0.3}, "smoothing_interval is 0.3"),
        ({"spatial_smoothing": -1.0}, "spatial_smoothing is -1.0; allowed: at least 0"),
    ],
)
def test_a_value_out_of_range_is_named(
    pipe: LumierePipeline, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pipe("a cat", **settings, **OPTIONS)


def test_the_demos_fast_network_has_a_step_where_motion_is_scaled() -> None:
    low, high = DEMO_DEFAULTS["motion_interval"]
    visited = [timestep / 1000 for timestep in power_timesteps(4, 1000, 3.0)]
    assert [low <= level <= high for level in visited] == [False, True, False, False]
