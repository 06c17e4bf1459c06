"""A request is told which of its settings have no effect."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.request_notes import unused_motion
from lumiere.pipelines.run_request import check_request, complete_request, run_request
from lumiere.requests import Request, make_request

VIDEO, IMAGE = {"mode": "video_to_video"}, {"mode": "image_to_video"}
HIGH = "it acts at the noise levels 0.35 to 0.95, and no step is there"
LOW = "it acts at the noise levels 0 to 0.3, and no step is there"


@pytest.fixture
def tuned(pipe: LumierePipeline) -> LumierePipeline:
    """A model with the demo's intervals, whose 2 steps are at the noise levels 1 and 0.25."""
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    pipe.register_to_config(
        num_inference_steps=2, timestep_power=2.0, image_strength=0.7,
        motion_scale=1.0, motion_interval=(0.35, 0.95),
        temporal_smoothing=0.0, smoothing_interval=(0.0, 0.3),
    )  # fmt: skip
    return pipe


@pytest.mark.parametrize(
    "values, note",
    [
        ({"motion": 2}, f"motion 2 has no effect, because {HIGH}; take more steps"),
        ({**VIDEO, "strength": 0.3, "motion": 3, "steps": 9}, f"{HIGH}; take a strength above 0.35"),
        # One step, at 0.25; with more steps there is one nearer to 0.5.
        ({**VIDEO, "strength": 0.5, "motion": 3}, f"{HIGH}; take more steps"),
        ({**IMAGE, "strength": 0.1, "motion": 0}, f"motion 0 has no effect, because {HIGH}; take a"),
        ({"smoothing": 0.5, "steps": 1}, f"smoothing 0.5 has no effect, because {LOW}; take more"),
        ({**VIDEO, "strength": 0, "smoothing": 1}, f"{LOW}; take a strength above 0"),
    ],
)  # fmt: skip
def test_settings_that_no_step_reaches_are_noted(
    tuned: LumierePipeline, values: dict[str, Any], note: str
) -> None:
    (said,) = unused_motion(tuned, Request("a cat", **values), 5, True)
    assert note in said


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"motion": 1},
        {"smoothing": 0, "steps": 1},
        {"motion": 2, "smoothing": 1, "steps": 4},
        {**VIDEO, "strength": 0.5, "motion": 3, "steps": 4},
        {**IMAGE, "motion": 0, "steps": 4},
    ],
)
def test_settings_that_have_an_effect_need_no_note(
    tuned: LumierePipeline, values: dict[str, Any]
) -> None:
    assert unused_motion(tuned, Request("a cat", **values), 5, True) == []


@pytest.mark.parametrize(
    "values, notes",
    [
        ({"motion": 2}, ["motion has no effect on a video of 1 frame"]),
        ({"motion": 0, "smoothing": 1}, ["motion and smoothing have no effect on a video of 1 frame"]),
        ({}, []),
    ],
)  # fmt: skip
def test_one_frame_neither_moves_nor_flickers(
    tuned: LumierePipeline, values: dict[str, Any], notes: list[str]
) -> None:
    tuned.register_to_config(motion_scale=1.6)
    request = make_request({"prompt": "a cat", "frames": 1, "upscale": False, **values})
    assert check_request(tuned, request).notes == notes


def test_a_distilled_network_is_offered_no_other_steps(tuned: LumierePipeline) -> None:
    request = make_request({"prompt": "a cat", "motion": 2, "upscale": False})
    (note,) = check_request(tuned, request, can_take_more_steps=False).notes
    assert note.endswith("no step is there; leave out --fast for more steps")


def test_the_models_own_motion_is_noted_where_steps_pass_over_it(
    tuned: LumierePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    tuned.register_to_config(motion_scale=1.6)
    request = make_request({"prompt": "a cat", "upscale": False})
    (note,) = check_request(tuned, request).notes
    assert note.startswith(f"the model's motion of 1.6 has no effect, because {HIGH}")
    run_request(tuned, complete_request(tuned, request, 2, 0), {})
    assert caplog.messages == []  # the note says it
    tuned("a cat", num_frames=2, upscale=False)
    assert len(caplog.messages) == 1 and "motion_scale is 1.6" in caplog.messages[0]
    # Without the noise levels of motion nothing is passed over, and the user set nothing.
    low = Request("a cat", mode="video_to_video", strength=0.3)
    assert unused_motion(tuned, low, 5, True) == []


def test_a_scheduler_with_its_own_spacing_is_asked_quietly(
    tuned: LumierePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    tuned.scheduler = DDIMScheduler.from_config(tuned.scheduler.config)
    assert unused_motion(tuned, Request("a cat", motion=2), 5, True) == []  # it has a step at 0.5
    assert caplog.messages == []


def test_what_a_scheduler_has_left_of_a_call_is_not_copied(
    tuned: LumierePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left:
        def __deepcopy__(self, memo: Any) -> None:
            raise AssertionError("copied")

    monkeypatch.setattr(tuned.scheduler, "model_outputs", [Left()], raising=False)
    assert len(unused_motion(tuned, Request("a cat", motion=2), 5, True)) == 1
