"""Ways to guide and to start long clips: projected guidance, autoguidance, rescheduled noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.sampling import VARIANTS, block_steps, choose_variants, stand_still
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import load_guide
from lumiere.pipelines.run_request import check_request, describe_output
from lumiere.requests import Request
from lumiere.sample_files import SetEntry
from tests.copies import copy_network
from tests.pipelines.conftest import shaken, text_to_image_unet
from tests.pipelines.test_files_and_styles import style_weights
from tests.pipelines.test_modes import IMAGE, STEPS, seed

PLAIN = {"guidance_rescale": 0.0, "upscale": False, **STEPS}
APG = {"guidance_eta": 0.0, "guidance_threshold": 0.05, "guidance_momentum": -0.5}
# Projected guidance that is plain guidance: no difference is as large.
WIDE = {"guidance_threshold": 1e6}


def weaker(unet: SpaceTimeUNet) -> SpaceTimeUNet:
    """A copy with other temporal weights."""
    torch.manual_seed(7)
    return shaken(copy_network(unet))


@pytest.fixture
def guided(pipe: LumierePipeline) -> LumierePipeline:
    pipe.add_guide(weaker(pipe.unet))
    return pipe


def clips_through(network: SpaceTimeUNet) -> list[int]:
    """Return a list that gets the number of clips of every forward pass."""
    counts: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


# --- adaptive projected guidance ------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [5, 12])
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_projected_guidance_without_effect_is_plain_guidance(
    pipe: LumierePipeline, name: str, num_frames: int
) -> None:
    """A clip of several windows is combined after its windows are reconciled."""
    # Heun counts in sigma / alpha. With cosine betas these are thousands, and so is the rounding.
    settings = {"rescale_betas_zero_snr": False, "beta_schedule": "linear"}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    options = {"num_frames": num_frames, "guidance_scale": 4.0, **PLAIN}
    plain = pipe("a cat", generator=seed(), **options).frames
    projected = pipe("a cat", generator=seed(), **WIDE, **options).frames
    torch.testing.assert_close(projected, plain, rtol=0, atol=1e-4)


def test_projected_guidance_changes_the_video_and_forgets_it_after_the_call(
    pipe: LumierePipeline,
) -> None:
    options = {"guidance_scale": 4.0, **PLAIN}
    plain = pipe("a cat", generator=seed(), **options).frames
    made = [plain]
    for name, value in APG.items():
        made.append(pipe("a cat", generator=seed(), **{name: value}, **options).frames)
    for index, frames in enumerate(made):
        assert all(not torch.allclose(frames, other, atol=1e-4) for other in made[:index])
    again = [pipe("a cat", generator=seed(), **APG, **options).frames for _ in range(2)]
    assert torch.equal(*again)
    # A call with plain guidance is still the same, to the bit.
    assert torch.equal(pipe("a cat", generator=seed(), **options).frames, plain)


def test_a_projected_video_does_not_depend_on_its_batch(pipe: LumierePipeline) -> None:
    options = {"guidance_scale": 4.0, "num_frames": 12, **APG, **PLAIN}
    prompts = ["a cat", "a red dog"]
    both = pipe(prompts, generator=[seed(5), seed(6)], batch_size=3, **options).frames
    for row, (prompt, number) in enumerate(zip(prompts, (5, 6), strict=True)):
        alone = pipe(prompt, generator=seed(number), **options).frames
        torch.testing.assert_close(both[row : row + 1], alone, rtol=0, atol=1e-4)


def test_projected_guidance_acts_inside_the_interval_alone(pipe: LumierePipeline) -> None:
    options = {**PLAIN, "num_inference_steps": 4, "guidance_scale": 4.0}
    counts = clips_through(pipe.unet)
    part = pipe("a cat", generator=seed(), guidance_interval=[0.4, 0.8], **APG, **options).frames
    assert counts == [1, 2, 2, 1]
    outside = pipe("a cat", generator=seed(), guidance_interval=[0.3, 0.4], **APG, **options)
    unguided = pipe("a cat", generator=seed(), **{**options, "guidance_scale": 1.0})
    assert torch.equal(outside.frames, unguided.frames)
    assert not torch.allclose(part, unguided.frames)


def test_given_pixels_are_held_under_projected_guidance(pipe: LumierePipeline) -> None:
    frames = pipe("a cat", image=IMAGE, guidance_scale=4.0, generator=seed(), **APG, **PLAIN).frames
    torch.testing.assert_close(frames[0, 0], IMAGE[0], rtol=0, atol=1e-4)


def test_projected_guidance_of_a_network_that_predicts_the_noise(
    base_only: LumierePipeline,
) -> None:
    scheduler = base_only.scheduler.from_config(
        base_only.scheduler.config, prediction_type="epsilon", rescale_betas_zero_snr=False
    )
    pipe = LumierePipeline(base_only.unet, scheduler, base_only.text_encoder, num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 4.0, **PLAIN}
    plain = pipe("a cat", generator=seed(), **options).frames
    projected = pipe("a cat", generator=seed(), **WIDE, **options).frames
    torch.testing.assert_close(projected, plain, rtol=0, atol=1e-3)
    made = pipe("a cat", generator=seed(), **APG, **options).frames
    assert made.isfinite().all() and not torch.allclose(made, plain, atol=1e-3)


# --- autoguidance ---------------------------------------------------------------------------------


def test_a_guide_equal_to_the_network_leaves_the_conditional_prediction(
    pipe: LumierePipeline,
) -> None:
    pipe.add_guide(copy_network(pipe.unet))
    options = {"num_frames": 12, **PLAIN}
    auto = pipe(
        "a cat", guidance_type="auto", guidance_scale=4.0, generator=seed(), **options
    ).frames
    plain = pipe("a cat", guidance_scale=1.0, generator=seed(), **options).frames
    assert torch.equal(auto, plain)


@torch.no_grad()
def test_autoguidance_moves_away_from_the_guide_for_the_same_prompt(
    guided: LumierePipeline,
) -> None:
    """One step from pure noise, where x_0 = -v."""
    options = {**PLAIN, "num_inference_steps": 1}
    made = guided("a cat", guidance_type="auto", guidance_scale=3.0, generator=seed(), **options)
    generators = video_generators(seed(), 1)
    video_generators(generators, 1)  # super-resolution's
    noise = draw_noise((1, 3, 5, 16, 16), generators, torch.device("cpu"))
    model_input = torch.cat([noise, torch.zeros(1, 4, 5, 16, 16)], dim=1)
    embeds, mask = guided.text_encoder.encode(["a cat"])
    weak, strong = (
        network(model_input, torch.tensor(999), embeds, encoder_attention_mask=mask).sample
        for network in (guided.guide_unet, guided.unet)
    )
    x_0 = -(weak + 3 * (strong - weak))
    frames = x_0.clamp(-1, 1).transpose(1, 2).add(1).div(2)
    torch.testing.assert_close(made.frames, frames, rtol=0, atol=1e-4)


def test_the_guide_runs_inside_the_interval_alone(guided: LumierePipeline) -> None:
    own, guides = clips_through(guided.unet), clips_through(guided.guide_unet)
    options = {**PLAIN, "num_inference_steps": 4, "guidance_interval": [0.4, 0.8]}
    guided(["a cat", "a dog"], guidance_type="auto", generator=seed(), **options)
    assert (own, guides) == ([2, 2, 2, 2], [2, 2])
    own.clear()
    guides.clear()
    guided("a cat", generator=seed(), **options)  # the default is still "cfg"
    assert (own, guides) == ([1, 2, 2, 1], [])


def test_autoguidance_can_be_projected(guided: LumierePipeline) -> None:
    options = {"guidance_type": "auto", "guidance_scale": 4.0, **PLAIN}
    plain = guided("a cat", generator=seed(), **options).frames
    wide = guided("a cat", generator=seed(), **WIDE, **options).frames
    torch.testing.assert_close(wide, plain, rtol=0, atol=1e-4)
    projected = guided("a cat", generator=seed(), **APG, **options).frames
    assert not torch.allclose(projected, plain, atol=1e-4)


def test_a_style_acts_on_the_guide_too(pipe: LumierePipeline) -> None:
    pipe.add_guide(copy_network(pipe.unet))
    pipe.add_style("ink", style_weights(pipe))
    before = [weight.clone() for weight in pipe.guide_unet.parameters()]
    options = {"style": "ink", "alpha": 0.5, **PLAIN}
    auto = pipe("a cat", guidance_type="auto", generator=seed(), **options).frames
    plain = pipe("a cat", guidance_scale=1.0, generator=seed(), **options).frames
    assert torch.equal(auto, plain)
    assert all(map(torch.equal, before, pipe.guide_unet.parameters()))


def test_a_style_that_does_not_fit_the_guide_is_told(pipe: LumierePipeline) -> None:
    config = {**text_to_image_unet().config, "layers_per_block": 2}
    unet2d = UNet2DConditionModel.from_config(config)
    pipe.add_guide(SpaceTimeUNet.from_unet2d(unet2d, conditioning_channels=4, temporal_head_dim=8))
    pipe.add_style("ink", style_weights(pipe))
    options = {"style": "ink", "alpha": 0.5, "generator": seed(), **PLAIN}
    with pytest.raises(ValueError, match=r"model of guide_unet \(guidance_type 'cfg' does without"):
        pipe("a cat", guidance_type="auto", **options)
    pipe("a cat", **options)


def test_autoguidance_needs_no_negative_prompt(guided: LumierePipeline) -> None:
    embeds, mask = guided.text_encoder.encode(["a cat"])
    options = {"guidance_type": "auto", **PLAIN}
    expected = guided("a cat", negative_prompt=[""], generator=seed(), **options).frames
    guided.text_encoder = None
    made = guided(
        prompt_embeds=embeds, prompt_attention_mask=mask, generator=seed(), **options
    ).frames
    torch.testing.assert_close(made, expected)


def test_a_guide_may_have_another_precision(guided: LumierePipeline) -> None:
    options = {"guidance_type": "auto", **PLAIN}
    expected = guided("a cat", generator=seed(), **options).frames
    guided.guide_unet.to(torch.float64)
    made = guided("a cat", generator=seed(), **options).frames
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)


def test_a_guide_is_saved_loaded_and_handed_on(guided: LumierePipeline, tmp_path: Path) -> None:
    options = {"guidance_type": "auto", **PLAIN}
    expected = guided("a cat", generator=seed(), **options).frames
    guided.save_pretrained(tmp_path / "whole")
    handed_on = LumierePipeline.from_pipe(guided)
    loaded = LumierePipeline.from_pretrained(tmp_path / "whole")
    guide = guided.guide_unet
    guided.add_guide(None)
    guided.save_pretrained(tmp_path / "bare")
    given = LumierePipeline.from_pretrained(tmp_path / "bare", guide_unet=guide)
    for other in (handed_on, loaded, given):
        other.set_progress_bar_config(disable=True)
        assert torch.equal(other("a cat", generator=seed(), **options).frames, expected)
    assert LumierePipeline.from_pretrained(tmp_path / "bare").guide_unet is None


def test_a_guide_is_offloaded_in_its_turn(guided: LumierePipeline) -> None:
    options = {"guidance_type": "auto", **PLAIN}
    expected = guided("a cat", generator=seed(), **options).frames
    guided.enable_model_cpu_offload(device="cpu")
    offloaded = [hook.model for hook in guided._all_hooks]
    assert offloaded == [guided.guide_unet, guided.unet, guided.ssr_unet]
    guide, base, _ = guided._all_hooks
    # Each sends the other away, because they take turns.
    assert guide.hook.prev_module_hook is base and base.hook.prev_module_hook is guide
    assert torch.equal(guided("a cat", generator=seed(), **options).frames, expected)


def test_a_guide_that_comes_later_goes_where_the_base_network_is(
    pipe: LumierePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide, places = weaker(pipe.unet), []
    monkeypatch.setattr(guide, "to", places.append)
    pipe.add_guide(guide)
    assert places == [pipe.unet.device]
    pipe.add_guide(None)
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.add_guide(weaker(pipe.unet))
    assert [hook.model for hook in pipe._all_hooks][:2] == [pipe.guide_unet, pipe.unet]
    pipe.remove_all_hooks()
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="guide_unet cannot be replaced after enable_sequential"):
        pipe.add_guide(guide)


def test_a_guide_is_a_whole_network_or_temporal_weights(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    guide = weaker(pipe.unet)
    guide.save_pretrained(tmp_path / "whole")
    guide.save_temporal(tmp_path / "temporal")
    for name in ("whole", "temporal"):
        loaded = load_guide(pipe.unet, tmp_path / name)
        assert all(map(torch.equal, loaded.parameters(), guide.parameters()))
        assert not any(
            map(torch.equal, loaded.temporal_parameters(), pipe.unet.temporal_parameters())
        )
    with pytest.raises(ValueError, match=r"nowhere.temporal\.safetensors"):
        load_guide(pipe.unet, tmp_path / "nowhere")


def test_a_guide_that_does_not_fit_is_named(pipe: LumierePipeline) -> None:
    other = SpaceTimeUNet.from_unet2d(text_to_image_unet(), temporal_head_dim=8)
    message = "guide_unet takes 0 conditioning channels, unet 4; expected the same"
    with pytest.raises(ValueError, match=message):
        pipe.add_guide(other)
    with pytest.raises(ValueError, match=message):
        LumierePipeline(pipe.unet, pipe.scheduler, guide_unet=other)
    pipe.register_modules(guide_unet=other)
    with pytest.raises(ValueError, match=message):
        pipe("a cat", guidance_type="auto", **PLAIN)
    pipe("a cat", generator=seed(), **PLAIN)  # it is not used


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "guidance_type is 'auto', but this pipeline has no guide_unet; add one with add_guide",
        ),
        ({"guide": True, "negative_prompt": "rain"}, "'auto', where guide_unet takes the place of"),
        ({"guide": True, "negative_prompt": ["", "rain"]}, "leave the negative prompt out"),
        (
            {"guide": True, "negative_prompt_embeds": torch.zeros(1, 6, 8)},
            "or set guidance_type to",
        ),
    ],
)
def test_autoguidance_that_cannot_be_is_one_clear_error(
    pipe: LumierePipeline, arguments: dict[str, Any], message: str
) -> None:
    arguments = dict(arguments)
    if arguments.pop("guide", False):
        pipe.add_guide(weaker(pipe.unet))
    pipe.unet.forward = None  # a mistake shows before any work
    with pytest.raises(ValueError, match=message):
        pipe(["a cat", "a dog"], guidance_type="auto", **arguments)


def test_a_request_with_a_negative_prompt_is_refused_before_any_work(
    guided: LumierePipeline,
) -> None:
    request = Request("a cat", mode="text_to_video", negative_prompt="rain")
    check_request(guided, request)
    guided.register_to_config(guidance_type="auto")
    with pytest.raises(ValueError, match="takes the place of the negative prompt"):
        check_request(guided, request)
    check_request(guided, Request("a cat", mode="text_to_video", negative_prompt=""))


# --- the noise of long clips ----------------------------------------------------------------------


def first_noise(pipe: LumierePipeline, num_frames: int, **options: Any) -> Tensor:
    """The noise that a call starts from: with one step, the network's input."""
    seen: list[Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :3]))
    settings = {**PLAIN, "num_inference_steps": 1, "guidance_scale": 1.0, "batch_size": None}
    pipe("a cat", num_frames=num_frames, generator=seed(), **{**settings, **options})
    hook.remove()
    assert len(seen) == 1
    return seen[0]  # (windows, c, t, h, w)


def frame_sums(window: Tensor) -> list[float]:
    """Return a number for each frame of (c, t, h, w) that no other frame has."""
    return [round(float(total), 3) for total in window.double().sum((0, 2, 3))]


def test_windows_of_rescheduled_noise_have_the_same_frames(pipe: LumierePipeline) -> None:
    independent, rescheduled = (
        first_noise(pipe, 12, long_noise=name) for name in ("independent", "rescheduled")
    )
    assert len(rescheduled) == 4  # windows of 5 frames that share 2; the last one shares 4
    assert torch.equal(rescheduled[0], independent[0])
    for window in rescheduled:
        assert sorted(frame_sums(window)) == sorted(frame_sums(independent[0]))
    assert not torch.equal(rescheduled[1], rescheduled[0])
    assert torch.equal(first_noise(pipe, 12), independent)
    assert torch.equal(first_noise(pipe, 12, long_noise="rescheduled"), rescheduled)


def test_short_clips_are_the_same_with_rescheduled_noise(pipe: LumierePipeline) -> None:
    ours = pipe("a cat", generator=seed(), **STEPS).frames
    assert torch.equal(
        pipe("a cat", long_noise="rescheduled", generator=seed(), **STEPS).frames, ours
    )
    longer = pipe("a cat", num_frames=9, generator=seed(), **STEPS).frames
    rescheduled = pipe(
        "a cat", num_frames=9, long_noise="rescheduled", generator=seed(), **STEPS
    ).frames
    assert not torch.allclose(longer, rescheduled)


# --- settings -------------------------------------------------------------------------------------


def test_settings_are_saved_and_described(guided: LumierePipeline, tmp_path: Path) -> None:
    settings = {"guidance_type": "auto", "long_noise": "rescheduled", **APG}
    tuned = LumierePipeline(**guided.components, num_frames=5, ssr_window_size=4, **settings)
    tuned.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    options = {"num_frames": 9, "upscale": False, **STEPS}
    expected = guided("a cat", generator=seed(), **settings, **options)
    made = loaded("a cat", generator=seed(), **options)
    assert torch.equal(made.frames, expected.frames)
    described = describe_output(loaded, made)
    assert {name: described[name] for name in settings} == settings


def test_the_benchmark_knows_which_variants_can_run(base_only: LumierePipeline) -> None:
    for variant in VARIANTS.values():
        assert variant.settings.keys() <= dict(base_only.config).keys()
    assert choose_variants("", has_guide=True) == list(VARIANTS)
    without = choose_variants("", has_guide=False)
    assert set(VARIANTS) - set(without) == {name for name in VARIANTS if "autoguidance" in name}
    assert choose_variants("default;no guidance", has_guide=False) == ["default", "no guidance"]
    with pytest.raises(ValueError, match="no variant 'fast'; there are default; "):
        choose_variants("default;fast", has_guide=True)
    with pytest.raises(ValueError, match=r"'autoguidance 2' needs a weaker network; name it with"):
        choose_variants("autoguidance 2", has_guide=False)


def test_the_benchmark_repeats_pictures_and_keeps_videos() -> None:
    entry = SetEntry("a", "text_to_video", 0, 8.0, "clip", "subject")
    picture, video = np.full((1, 2, 2, 3), 7, np.uint8), np.arange(36, dtype=np.uint8)
    clips = [(entry, picture), (entry, video.reshape(3, 2, 2, 3))]

    still, moving = (frames for _, frames in stand_still(clips, 3))

    assert np.array_equal(still, np.full((3, 2, 2, 3), 7))
    assert np.array_equal(moving, video.reshape(3, 2, 2, 3))


def test_the_benchmark_sees_steps_between_blocks_of_frames() -> None:
    frames = np.arange(16).reshape(16, 1, 1, 1) * np.ones((1, 2, 2, 3))
    assert block_steps([frames.astype(np.uint8)] * 2) == 1.0
    blocks = frames.copy()
    blocks[:] = 4 * (frames // 4)
    blocks[1::4] += 1  # 1 within a block, 4 or 3 between blocks
    assert block_steps([blocks.astype(np.uint8)]) > 10
