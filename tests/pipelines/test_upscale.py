"""Super-resolution in windows, and the sampler's parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lumiere.diffusion.denoising import denoise, predict_in_windows
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.diffusion.objective import make_scheduler
from lumiere.diffusion.schedulers import select_timesteps
from lumiere.diffusion.windows import independent_windows, temporal_windows
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline, LumiereUpscalePipeline
from lumiere.pipelines.pipeline_output import to_output
from lumiere.pipelines.pixels import read_video
from lumiere.pipelines.plans import WindowPlan, plan_base_windows
from tests.pipelines.conftest import ssr_unet, text_to_image_unet
from tests.pipelines.test_modes import seed


@pytest.fixture
def upscaler() -> LumiereUpscalePipeline:
    torch.manual_seed(0)
    pipe = LumiereUpscalePipeline(ssr_unet(), make_scheduler(), window_size=4)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_equal_noise_keeps_a_still_video_still(upscaler: LumiereUpscalePipeline) -> None:
    # Temporal layers at their start are the identity, so nothing else can make a difference.
    upscaler.unet = SpaceTimeUNet.from_unet2d(upscaler.unet.unet, temporal_resampling=False)
    still = low(1).expand(-1, 5, -1, -1, -1)
    settings = {
        "num_inference_steps": 2,
        "noise_level": 100,
        "generator": seed(),
        "output_type": "pt",
    }
    made = upscaler(still, noise_correlation=1.0, **settings).frames
    torch.testing.assert_close(made, made[:, :1].expand_as(made), atol=1e-5, rtol=0)
    moving = upscaler(still, **{**settings, "generator": seed()}).frames
    assert (moving - moving[:, :1]).abs().max() > 0.01


def test_a_pipeline_made_of_a_whole_one_has_its_settings(upscaler: LumiereUpscalePipeline) -> None:
    unet = SpaceTimeUNet.from_unet2d(text_to_image_unet())
    whole = LumierePipeline(
        unet, make_scheduler(), None, upscaler.unet, upscaler.scheduler,
        ssr_window_size=4, noise_correlation=0.25, ssr_noise_correlation=1.0,
    )  # fmt: skip
    made = LumiereUpscalePipeline.from_pipe(whole)
    assert made.unet is whole.ssr_unet and made.scheduler is whole.ssr_scheduler
    for name in ("window_size", "noise_correlation", "prediction_type"):
        assert made.config[name] == whole.upscaler().config[name] == whole.config[f"ssr_{name}"]
    assert (
        LumiereUpscalePipeline.from_pipe(whole, noise_correlation=0.5).config["noise_correlation"]
        == 0.5
    )
    again = LumiereUpscalePipeline.from_pipe(made)
    assert again.unet is made.unet and again.config.noise_correlation == 1.0


def low(num_frames: int, batch_size: int = 1, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(batch_size, num_frames, 3, height, width, generator=seed(1))


@pytest.mark.parametrize("num_frames", [1, 5, 8, 9, 16])
def test_any_number_of_frames(upscaler: LumiereUpscalePipeline, num_frames: int) -> None:
    frames = upscaler(
        low(num_frames), num_inference_steps=2, output_type="pt", overlap=2, generator=seed()
    ).frames
    assert frames.shape == (1, num_frames, 3, 32, 32) and frames.min() >= 0 and frames.max() <= 1
    assert (frames.flatten(2).std(dim=2) > 0.01).all()


@pytest.mark.parametrize(
    ("num_frames", "window_size", "overlap"),
    [(9, 4, 0), (9, 4, 3), (7, 3, 1), (5, 2, 1), (4, 1, 0), (10, 6, 5)],
)
@pytest.mark.parametrize("batch_size", [2, None])
def test_any_windows_against_the_loop_written_out(
    upscaler: LumiereUpscalePipeline,
    num_frames: int,
    window_size: int,
    overlap: int,
    batch_size: int | None,
) -> None:
    """Each window through the network by itself; the mean of their predictions at every step."""
    video, scheduler = low(num_frames), upscaler.scheduler
    options = {"window_size": window_size, "overlap": overlap, "batch_size": batch_size}
    made = upscaler(
        video, num_inference_steps=2, output_type="pt", noise_level=100, generator=seed(), **options
    ).frames
    generators, levels = video_generators(seed(), 1), torch.tensor([100])
    enlarged = torch.nn.functional.interpolate(
        video[0] * 2 - 1, size=(32, 32), mode="bilinear", antialias=True, align_corners=False
    ).transpose(0, 1)[None]
    enlarged = scheduler.add_noise(
        enlarged, draw_noise(enlarged.shape, generators, torch.device("cpu")), levels
    )
    x_t = draw_noise(enlarged.shape, generators, torch.device("cpu"))
    stride = window_size - overlap
    starts = sorted(
        {min(start, num_frames - window_size) for start in range(0, num_frames - overlap, stride)}
    )
    scheduler.set_timesteps(2)
    for timestep in scheduler.timesteps:
        total, count = torch.zeros_like(x_t), torch.zeros(num_frames, 1, 1)
        for frames in (slice(start, start + window_size) for start in starts):
            with torch.no_grad():
                both = torch.cat([x_t[:, :, frames], enlarged[:, :, frames]], dim=1)
                total[:, :, frames] += upscaler.unet(both, timestep, class_labels=levels).sample
            count[frames] += 1
        x_t = scheduler.step(total / count, timestep, x_t).prev_sample
    torch.testing.assert_close(made, (x_t.transpose(1, 2).clamp(-1, 1) + 1) / 2, rtol=0, atol=1e-5)


def test_one_window_is_no_windows(upscaler: LumiereUpscalePipeline) -> None:
    results = [
        upscaler(
            low(8), num_inference_steps=2, output_type="pt", generator=seed(), **options
        ).frames
        for options in (
            {"window_size": 8},
            {"window_size": 20},
            {"window_size": 8, "multidiffusion": False},
        )
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_batching_windows_and_videos_changes_nothing(upscaler: LumiereUpscalePipeline) -> None:
    def run(video: Tensor, generators: list[torch.Generator], most: int | None) -> Tensor:
        return upscaler(
            video, num_inference_steps=2, output_type="pt", generator=generators, batch_size=most
        ).frames

    videos = low(9, batch_size=2)
    together = run(videos, [seed(1), seed(2)], None)
    for most in (1, 3):
        torch.testing.assert_close(
            run(videos, [seed(1), seed(2)], most), together, rtol=0, atol=1e-4
        )
    torch.testing.assert_close(run(videos[1:], [seed(2)], None), together[1:], rtol=0, atol=1e-4)


def test_independent_windows_do_not_see_each_other(upscaler: LumiereUpscalePipeline) -> None:
    video = low(8)
    changed = video.clone()
    changed[:, 4:] = 0
    options = {"num_inference_steps": 2, "output_type": "pt", "multidiffusion": False}
    alone, other = (upscaler(v, generator=seed(), **options).frames for v in (video, changed))
    torch.testing.assert_close(alone[:, :4], other[:, :4], rtol=0, atol=1e-5)
    options["multidiffusion"] = True
    joined, other = (upscaler(v, generator=seed(), **options).frames for v in (video, changed))
    assert not torch.allclose(joined[:, :4], other[:, :4], atol=1e-3)


def test_tapered_windows(upscaler: LumiereUpscalePipeline, pipe: LumierePipeline) -> None:
    def make(num_frames: int, weights: str) -> Tensor:
        return upscaler(
            low(num_frames),
            num_inference_steps=2,
            output_type="pt",
            window_weights=weights,
            generator=seed(),
        ).frames

    mean, tapered = make(9, "mean"), make(9, "tapered")
    assert not torch.equal(mean, tapered) and (mean - tapered).abs().mean() < 0.1
    assert torch.equal(make(4, "mean"), make(4, "tapered"))  # one window
    wrong = "window_weights is 'round'; allowed: mean, tapered"
    with pytest.raises(ValueError, match=wrong):
        make(9, "round")
    with pytest.raises(ValueError, match=wrong):
        pipe("a cat", ssr_window_weights="round")
    joined = pipe(
        "a cat",
        ssr_window_weights="tapered",
        num_inference_steps=1,
        output_type="pt",
        ssr_steps=1,
        generator=seed(),
    ).frames
    plain = pipe(
        "a cat", num_inference_steps=1, output_type="pt", ssr_steps=1, generator=seed()
    ).frames
    assert not torch.equal(joined, plain)


def test_size_noise_level_and_errors(upscaler: LumiereUpscalePipeline) -> None:
    wide = low(3, height=16, width=24)
    frames = upscaler(wide, num_inference_steps=1, output_type="pt", generator=seed()).frames
    assert frames.shape[-2:] == (32, 48)
    assert upscaler(wide, num_inference_steps=1, output_type="pt", scale=1.5).frames.shape[-2:] == (
        24,
        36,
    )
    assert not torch.equal(
        frames,
        upscaler(
            wide, num_inference_steps=1, output_type="pt", noise_level=300, generator=seed()
        ).frames,
    )
    with pytest.raises(ValueError, match="noise_level is -1"):
        upscaler(wide, noise_level=-1)
    with pytest.raises(ValueError, match="video is 64 x 64 pixels, more than"):
        upscaler(low(1, height=64, width=64))
    with pytest.raises(ValueError, match="overlap 4 with window_size 4"):
        upscaler(low(9), overlap=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"in_channels": 3},
            "unet takes 3 channels, gives 3 .* a super-resolution network takes twice what it gives",
        ),
        (
            {"class_embed_type": None},
            "class_embed_type None; .* the noise level by class_embed_type 'timestep'",
        ),
        ({"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}, "unet attends to text"),
    ],
)
def test_a_network_that_is_not_for_super_resolution(changes: dict[str, Any], message: str) -> None:
    unet2d = UNet2DConditionModel.from_config(
        ssr_unet().unet.config, cross_attention_dim=8, **changes
    )
    with pytest.raises(ValueError, match=message):
        LumiereUpscalePipeline(SpaceTimeUNet.from_unet2d(unet2d), make_scheduler())


def test_a_conditioned_network_is_not_for_super_resolution() -> None:
    with pytest.raises(ValueError, match="unet has 4 conditioning channels; expected none"):
        LumiereUpscalePipeline(ssr_unet().with_conditioning(4), make_scheduler())


def test_round_trip_and_inside_the_whole_pipeline(
    upscaler: LumiereUpscalePipeline, pipe: LumierePipeline, tmp_path: Path
) -> None:
    upscaler.save_pretrained(tmp_path)
    loaded = LumiereUpscalePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    results = [
        each(low(5), num_inference_steps=2, output_type="pt", generator=seed()).frames
        for each in (upscaler, loaded)
    ]
    assert torch.equal(*results) and loaded.config.window_size == 4
    inside = pipe.upscaler()
    assert inside.unet is pipe.ssr_unet and inside.config.window_size == 4


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "windows", [temporal_windows(9, 4, 2), independent_windows(9, 4), [(0, 9)]]
)
@pytest.mark.parametrize("max_batch", [1, 2, None])
def test_identical_predictions_are_the_identity(
    windows: list[tuple[int, int]], max_batch: int | None
) -> None:
    video = torch.randn(2, 3, 9, 4, 4, generator=seed())
    sizes = []

    def network(model_input: Tensor, rows: Tensor) -> Tensor:
        assert len(model_input) == len(rows)
        sizes.append(len(rows))
        return model_input * (rows + 1).view(-1, 1, 1, 1, 1)  # framewise, and each clip its own

    result = predict_in_windows(network, [video[:, :1], video[:, 1:]], windows, max_batch)
    torch.testing.assert_close(result, video * torch.tensor([1.0, 2.0]).view(-1, 1, 1, 1, 1))
    assert max_batch is None or max(sizes) <= max_batch
    assert sum(sizes) == 2 * len(windows)


def test_independent_windows_cover_every_frame_once() -> None:
    for num_frames in range(1, 20):
        frames = [i for start, end in independent_windows(num_frames, 4) for i in range(start, end)]
        assert frames == list(range(num_frames))


def test_an_oracle_network_is_followed_to_its_video() -> None:
    scheduler = make_scheduler()
    x_0 = torch.rand(1, 3, 2, 4, 4, generator=seed()) * 2 - 1
    alphas = scheduler.alphas_cumprod

    def oracle(x_t: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = alphas[timestep].sqrt(), (1 - alphas[timestep]).sqrt()
        noise = (x_t - alpha * x_0) / sigma
        return alpha * noise - sigma * x_0

    timesteps = select_timesteps(scheduler, 5, torch.device("cpu"))
    result = denoise(
        scheduler, oracle, lambda: torch.randn(x_0.shape, generator=seed()), timesteps, [seed()]
    )
    torch.testing.assert_close(result, x_0, rtol=0, atol=1e-3)


def test_rescaled_guidance_keeps_the_contrast_of_the_conditional_prediction() -> None:
    nothing = torch.zeros(1, 1, 1)
    negative, positive = torch.randn(2, 1, 3, 4, 8, 8, generator=seed())
    for rescale, expected in ((0.0, None), (1.0, positive.std())):
        guided = TextGuidance(nothing, nothing, nothing, nothing, 5.0, rescale).combine(
            negative, positive
        )
        plain = negative + 5 * (positive - negative)
        torch.testing.assert_close(guided.std(), plain.std() if expected is None else expected)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def settings_of(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the annotation and the default of each parameter that only a name can set."""
    return {
        name: (parameter.annotation, parameter.default)
        for name, parameter in parameters_of(function).items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def test_a_plan_takes_the_settings_of_a_call() -> None:
    call = parameters_of(LumiereUpscalePipeline.__call__)
    planned = settings_of(LumiereUpscalePipeline.plan)
    pixels_and_output = {
        "self", "video", "generator", "output_type", "return_dict", "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }  # fmt: skip
    assert planned.keys() == call.keys() - pixels_and_output
    base_call, base_planned = (
        parameters_of(LumierePipeline.__call__),
        settings_of(plan_base_windows),
    )
    assert base_planned.keys() == {"window_size", "overlap", "window_weights", "batch_size"}
    for name, (annotation, default) in planned.items():
        assert call[name].annotation == annotation, name
        assert default in (inspect.Parameter.empty, None), name
    for name, (annotation, default) in base_planned.items():
        assert (base_call[name].annotation, base_call[name].default) == (annotation, default), name


def test_super_resolution_has_the_same_defaults_within_a_pipeline_and_alone() -> None:
    alone = parameters_of(LumiereUpscalePipeline.__call__)
    within = parameters_of(LumierePipeline.__call__)
    stored = parameters_of(LumierePipeline.__init__)
    for name, own_name in (
        ("noise_level", "noise_level"),
        ("multidiffusion", "multidiffusion"),
        ("window_weights", "ssr_window_weights"),
        ("batch_size", "ssr_batch_size"),
    ):
        assert alone[name].default == within[own_name].default, name
    # Within a pipeline, None stands for the value that the pipeline was saved with.
    for name, own_name in (("num_inference_steps", "ssr_steps"), ("overlap", "ssr_overlap")):
        assert within[own_name].default is None
        assert alone[name].default == stored[own_name].default, name
    stored_alone = parameters_of(LumiereUpscalePipeline.__init__)
    for name in ("window_size", "noise_correlation"):
        assert stored_alone[name].default == stored[f"ssr_{name}"].default, name
    # Without windows of its own, the base model takes those of a plan.
    plan = parameters_of(WindowPlan)
    for name in ("window_weights", "batch_size"):
        assert within[name].default == plan[name].default == alone[name].default


def test_a_plan_is_what_a_call_does(upscaler: LumiereUpscalePipeline) -> None:
    settings = {
        "num_inference_steps": 2,
        "noise_level": 100,
        "noise_correlation": None,
        "window_size": None,
        "overlap": 1,
        "multidiffusion": True,
        "window_weights": "mean",
        "batch_size": 2,
    }
    video = low(7)
    called = upscaler(video, generator=seed(), output_type="pt", **settings).frames
    plan = upscaler.plan(7, (16, 16), **settings)
    made = upscaler.upscale(read_video(video), plan, video_generators(seed(), 1))
    assert torch.equal(to_output(made, "pt"), called)
