"""Speckle that is taken out of a finished video of the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.speckle import GREY_LEVEL, smooth_in_space
from tests.pipelines.test_modes import IMAGE, STEPS, seed

OPTIONS: dict[str, Any] = {"upscale": False, **STEPS}
FILTER = {"spatial_smoothing": 40.0}


def filtered(frames: torch.Tensor) -> torch.Tensor:
    """Filter frames (b, t, c, h, w) from 0 to 1, by 40 grey levels."""
    return (smooth_in_space(frames.transpose(1, 2) * 2 - 1, 40.0) / 2 + 0.5).transpose(1, 2)


def test_speckle_goes_and_edges_stay() -> None:
    clean = torch.full((1, 3, 2, 16, 16), -0.5)
    clean[..., 8:] = 0.5
    noisy = clean + 2 * GREY_LEVEL * torch.randn(clean.shape, generator=torch.manual_seed(0))
    smooth = smooth_in_space(noisy, 14.0)
    before, after = ((clip - clean).std() for clip in (noisy, smooth))
    assert after < 0.5 * before
    assert (smooth - noisy).abs().max() < 14 * GREY_LEVEL  # no pixel takes from over the edge
    torch.testing.assert_close(smooth_in_space(clean, 14.0), clean)
    assert smooth_in_space(noisy, 0.0) is noisy


def test_neighbours_weigh_by_their_largest_difference() -> None:
    clip = torch.zeros(1, 3, 1, 1, 2)
    clip[0, 0, 0, 0, 1], clip[0, 2, 0, 0, 1] = 2 * GREY_LEVEL, -6 * GREY_LEVEL
    # Three rows of the pixel itself and its neighbour, at the edge two columns of the former.
    weight = 1 - 6 / 8
    expected = clip[..., 1] * 3 * weight / (6 + 3 * weight)
    torch.testing.assert_close(smooth_in_space(clip, 8.0)[..., 0], expected)
    assert torch.equal(smooth_in_space(clip, 6.0), clip)


def test_what_is_kept_stays_and_is_read() -> None:
    video = torch.rand(1, 3, 2, 4, 6, generator=torch.manual_seed(0)) / 10
    kept = torch.zeros(1, 1, 2, 4, 6)
    kept[..., :3] = 1
    smooth, whole = smooth_in_space(video, 40.0, kept), smooth_in_space(video, 40.0)
    assert torch.equal(smooth[..., :3], video[..., :3])
    assert torch.equal(smooth[..., 3:], whole[..., 3:])


@pytest.mark.parametrize(
    "name",
    ["DDPMScheduler", "DDIMScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "DEISMultistepScheduler"],
)  # fmt: skip
def test_the_filter_is_the_same_with_each_scheduler(pipe: LumierePipeline, name: str) -> None:
    settings = {"rescale_betas_zero_snr": False, "beta_schedule": "linear"}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    options = {**OPTIONS, "num_inference_steps": 6}
    plain = pipe("a cat", generator=seed(), **options).frames
    smooth = pipe("a cat", generator=seed(), **FILTER, **options).frames
    assert not torch.allclose(smooth, plain, atol=1e-2)
    torch.testing.assert_close(smooth, filtered(plain), rtol=0, atol=1e-5)


def test_it_comes_before_super_resolution(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **STEPS)
    smooth = pipe("a cat", generator=seed(), **FILTER, **STEPS)
    torch.testing.assert_close(smooth.base_frames, filtered(plain.base_frames), rtol=0, atol=1e-5)
    assert not torch.allclose(smooth.frames, plain.frames, atol=1e-3)


def test_held_pixels_stay_as_they_are(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", image=IMAGE, generator=seed(), **OPTIONS).frames
    smooth = pipe("a cat", image=IMAGE, generator=seed(), **FILTER, **OPTIONS).frames
    assert torch.equal(smooth[:, 0], plain[:, 0])
    torch.testing.assert_close(smooth[:, 1:], filtered(plain)[:, 1:], rtol=0, atol=1e-5)
    free = {**OPTIONS, "guide_known": False}
    plain = pipe("a cat", image=IMAGE, generator=seed(), **free).frames
    smooth = pipe("a cat", image=IMAGE, generator=seed(), **FILTER, **free).frames
    torch.testing.assert_close(smooth, filtered(plain), rtol=0, atol=1e-5)


def test_a_video_of_no_steps_and_an_interrupted_one_stay(pipe: LumierePipeline) -> None:
    video = torch.rand(1, 5, 3, 16, 16, generator=torch.manual_seed(0))
    options = {**OPTIONS, "generator": seed(), "video": video}
    plain = pipe("a cat", strength=0.0, **options).frames
    assert torch.equal(pipe("a cat", strength=0.0, **FILTER, **options).frames, plain)

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return tensors

    interrupted = {**OPTIONS, "callback_on_step_end": stop}
    plain = pipe("a cat", generator=seed(), **interrupted).frames
    assert torch.equal(pipe("a cat", generator=seed(), **FILTER, **interrupted).frames, plain)


def test_a_pipeline_that_was_saved_without_the_setting_does_not_filter(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(line for line in lines if '"spatial_smoothing"' not in line))
    assert len(index.read_text().splitlines()) == len(lines) - 1
    assert LumierePipeline.from_pretrained(tmp_path).config.spatial_smoothing == 0
