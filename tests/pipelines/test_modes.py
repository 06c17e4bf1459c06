"""Every mode of the base pipeline, with tiny random networks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
)
from diffusers.callbacks import PipelineCallback
from PIL import Image
from torch import Tensor

from lumiere.config import GenerateConfig
from lumiere.diffusion.noise import draw_noise, draw_seeds, video_generators
from lumiere.inspection.networks import _count_steps
from lumiere.pipelines import LumierePipeline, LumierePipelineOutput

STEPS: dict[str, Any] = {"num_inference_steps": 2, "ssr_steps": 2, "output_type": "pt"}


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def box(height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


IMAGE = torch.rand(1, 3, 16, 16, generator=seed(1))
VIDEO = torch.rand(1, 5, 3, 16, 16, generator=seed(2))
INPUTS = {
    "text_to_video": {},
    "image_to_video": {"image": IMAGE},
    "inpainting": {"video": VIDEO, "mask": box(16, 16)},
    "outpainting": {"video": VIDEO, "mode": "outpainting"},
    "cinemagraph": {"image": IMAGE, "mask": box(16, 16)},
    "video_to_video": {"video": VIDEO, "strength": 0.5},
}


@pytest.mark.parametrize("mode", INPUTS)
def test_a_mode_is_inferred_or_named(pipe: LumierePipeline, mode: str) -> None:
    options = {**INPUTS[mode], "upscale": False, **STEPS}
    inferred, named = (
        pipe("a cat", generator=seed(), **{**options, **name}) for name in ({}, {"mode": mode})
    )
    assert inferred.mode == named.mode == mode and torch.equal(inferred.frames, named.frames)


@pytest.mark.parametrize("mode", INPUTS)
def test_every_mode_gives_frames_at_both_sizes(pipe: LumierePipeline, mode: str) -> None:
    output = pipe("a cat", generator=seed(), **INPUTS[mode], **STEPS)
    assert isinstance(output, LumierePipelineOutput) and output.mode == mode and output.fps == 16
    assert output.base_frames.shape == (1, 5, 3, 16, 16) and output.frames.shape == (
        1,
        5,
        3,
        32,
        32,
    )
    for frames in (output.frames, output.base_frames):
        assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0.01
    again = pipe("a cat", generator=seed(), **INPUTS[mode], **STEPS)
    other = pipe("a cat", generator=seed(1), **INPUTS[mode], **STEPS)
    assert torch.equal(output.frames, again.frames) and not torch.equal(output.frames, other.frames)
    assert (output.known is None) == (mode in ("text_to_video", "video_to_video"))


def test_known_pixels_are_the_input(pipe: LumierePipeline) -> None:
    def known(mode: str) -> tuple[Tensor, Tensor]:
        output = pipe(
            "a cat", keep_known=True, upscale=False, generator=seed(), **INPUTS[mode], **STEPS
        )
        where = output.known_mask.bool().expand_as(output.frames)
        torch.testing.assert_close(output.frames[where], output.known[where])
        assert not torch.equal(output.frames, output.known)
        return output.frames[0], output.known_mask[0, :, 0]

    frames, mask = known("image_to_video")
    torch.testing.assert_close(frames[0], IMAGE[0])
    assert mask[0].all() and not mask[1:].any()

    frames, mask = known("inpainting")
    outside = box(16, 16) == 0
    torch.testing.assert_close(frames[..., outside], VIDEO[0][..., outside])
    assert torch.equal(mask, (1 - box(16, 16)).expand(5, -1, -1))

    frames, mask = known("cinemagraph")
    torch.testing.assert_close(frames[0], IMAGE[0])
    torch.testing.assert_close(frames[..., outside], IMAGE[..., outside].expand(5, -1, -1))

    frames, mask = known("outpainting")
    assert mask[:, 2:14, 2:14].all() and mask.sum() == 5 * 12 * 12


@pytest.mark.parametrize(("scale", "margin"), [(0.5, 4), (0.75, 2), (0.99, 1), (1.0, 0)])
def test_outpainting_leaves_the_margin_of_its_scale(
    pipe: LumierePipeline, scale: float, margin: int
) -> None:
    output = pipe(
        "a cat",
        outpaint_scale=scale,
        upscale=False,
        generator=seed(),
        **INPUTS["outpainting"],
        **STEPS,
    )
    mask = torch.zeros(5, 16, 16)
    mask[:, margin : 16 - margin, margin : 16 - margin] = 1
    assert torch.equal(output.known_mask[0, :, 0], mask)
    if scale == 1:
        torch.testing.assert_close(output.known, VIDEO)


def test_known_pixels_survive_super_resolution_at_their_own_detail(pipe: LumierePipeline) -> None:
    large = torch.rand(1, 3, 32, 32, generator=seed(3))
    output = pipe(
        "a cat", image=large, mask=box(32, 32), keep_known=True, generator=seed(), **STEPS
    )
    known = output.known_mask[0, 1, 0].bool()
    torch.testing.assert_close(output.frames[0, 3][:, known], large[0][:, known])
    torch.testing.assert_close(output.frames[0, 0], large[0])


def test_a_video_does_not_depend_on_its_batch(pipe: LumierePipeline) -> None:
    # The latter adds noise as it goes.
    for scheduler in (
        type(pipe.scheduler),
        EulerAncestralDiscreteScheduler,
    ):
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        both = pipe(
            ["a cat", "a red dog"], negative_prompt="a fish", generator=[seed(5), seed(6)], **STEPS
        ).frames
        alone = pipe("a red dog", negative_prompt="a fish", generator=seed(6), **STEPS).frames
        torch.testing.assert_close(both[1:], alone, rtol=0, atol=5e-5)
    several = pipe(
        "a cat", num_videos_per_prompt=3, generator=seed(5), batch_size=2, **STEPS
    ).frames
    torch.testing.assert_close(
        several[:1], pipe("a cat", generator=seed(5), **STEPS).frames, rtol=0, atol=5e-5
    )
    assert not torch.allclose(several[0], several[1], atol=1e-2)


@pytest.mark.parametrize("mode", INPUTS)
def test_every_video_of_a_batch_is_its_own_and_equals_its_seed_alone(
    pipe: LumierePipeline, mode: str
) -> None:
    prompts, options = ["a cat", "a red dog"], {**INPUTS[mode], **STEPS}
    seeds = [3, 7, 2**31, 5]  # videos of one prompt follow each other
    batch = pipe(
        prompts,
        num_videos_per_prompt=2,
        generator=[seed(n) for n in seeds],
        batch_size=3,
        ssr_batch_size=5,
        **options,
    ).frames
    for i, number in enumerate(seeds):
        alone = pipe(prompts[i // 2], generator=seed(number), **options).frames
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-4)
    shared = pipe(prompts, num_videos_per_prompt=3, generator=seed(), **options).frames
    for one, other in itertools.combinations([*batch, *shared], 2):
        assert not torch.allclose(one, other, atol=1e-2)


def test_videos_of_one_generator_never_share_their_noise() -> None:
    """torch's generator on the CPU knows seeds by 32 bits, in which two of the first 40,000 drawn are alike."""
    noise = [torch.randn(4, generator=seed(number)) for number in (1, 1 + 2**32)]
    assert torch.equal(*noise)
    bits = [number % 2**32 for number in draw_seeds(seed(5), 40_000)]
    assert len(bits) == len(set(bits)) == 40_000
    children, alone = video_generators(seed(4), 3), video_generators([seed(4)], 1)
    assert children[0].initial_seed() == alone[0].initial_seed()
    assert len({child.initial_seed() for child in children}) == 3


def test_rows_belong_to_their_prompt_and_picture(pipe: LumierePipeline) -> None:
    images = torch.rand(2, 3, 16, 16, generator=seed(7))
    prompts = ["a cat", "a red dog"]
    many = pipe(
        prompts,
        image=images,
        num_videos_per_prompt=2,
        keep_known=True,
        upscale=False,
        generator=seed(),
        **STEPS,
    ).frames
    for row, image in zip(many, images.repeat_interleave(2, dim=0), strict=True):
        torch.testing.assert_close(row[0], image)


def test_guidance_moves_the_result_and_scale_one_is_half_the_work(pipe: LumierePipeline) -> None:
    batches: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    options = {"upscale": False, **STEPS}
    guided = pipe("a cat", guidance_scale=4.0, generator=seed(), **options).frames
    plain = pipe("a cat", guidance_scale=1.0, generator=seed(), **options).frames
    assert batches == [2, 2, 1, 1] and not torch.allclose(guided, plain)
    same = pipe(
        "a cat", negative_prompt="a cat", guidance_scale=4.0, generator=seed(), **options
    ).frames
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-4)


def test_guidance_acts_inside_its_interval_alone(pipe: LumierePipeline) -> None:
    clips_in_network: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: clips_in_network.append(len(args[0])))

    def sample(scale: float, *interval: float) -> Tensor:
        clips_in_network.clear()
        return pipe(
            "a cat",
            guidance_scale=scale,
            guidance_interval=interval or None,
            num_inference_steps=4,
            output_type="pt",
            upscale=False,
            generator=seed(),
        ).frames

    whole = sample(4.0)
    assert clips_in_network == [2, 2, 2, 2]
    assert torch.equal(sample(4.0, 0.0, 1.0), whole)
    part = sample(4.0, 0.4, 0.8)  # the timesteps are 999, 749, 499 and 249
    assert clips_in_network == [1, 2, 2, 1]
    plain = sample(1.0)
    assert not torch.allclose(part, whole) and not torch.allclose(part, plain)
    assert torch.equal(sample(4.0, 0.3, 0.4), plain)
    assert clips_in_network == [1, 1, 1, 1]


def test_strength_goes_from_the_source_to_pure_noise(base_only: LumierePipeline) -> None:
    def edit(strength: float) -> Tensor:
        return base_only(
            "a cat",
            video=VIDEO,
            strength=strength,
            num_inference_steps=4,
            output_type="pt",
            generator=seed(),
        ).frames

    torch.testing.assert_close(edit(0.0), VIDEO)
    distances = [(edit(strength) - VIDEO).pow(2).mean() for strength in (0.25, 0.5, 1.0)]
    assert distances == sorted(distances) and distances[0] < distances[2] / 2
    # Terminal SNR is zero: at full strength nothing of the source is left.
    from_text = base_only("a cat", num_inference_steps=4, output_type="pt", generator=seed()).frames
    torch.testing.assert_close(edit(1.0), from_text, rtol=0, atol=1e-4)


def test_inputs_of_every_kind_are_one(pipe: LumierePipeline) -> None:
    pixels = (torch.rand(16, 16, 3, generator=seed(8)) * 255).round().to(torch.uint8).numpy()
    kinds = [
        Image.fromarray(pixels), pixels, pixels.astype(np.float32) / 255,
        torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
    ]  # fmt: skip
    options = {"upscale": False, "num_inference_steps": 1, "output_type": "pt"}
    results = [pipe("a cat", image=image, generator=seed(), **options).frames for image in kinds]
    assert all(torch.equal(result, results[0]) for result in results)
    frames = np.stack([pixels] * 5)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    videos = [
        frames,
        tensor,
        tensor[None].float() / 255,
        list(frames),
        list(tensor),
        tuple(tensor.float() / 255),
    ]
    videos += [
        [Image.fromarray(frame) for frame in frames],
        [frames],
        [list(tensor)],
        [tensor[None]],
    ]
    masks = [
        box(16, 16).numpy(),
        Image.fromarray((box(16, 16).numpy() * 255).astype(np.uint8)),
        box(16, 16).bool(),
    ]
    masks += [box(16, 16).to(torch.uint8), box(16, 16).expand(5, -1, -1)]
    results = [
        pipe("a cat", video=video, mask=masks[0], generator=seed(), **options).frames
        for video in videos
    ]
    results += [
        pipe("a cat", video=frames, mask=mask, generator=seed(), **options).frames for mask in masks
    ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_output_types(pipe: LumierePipeline) -> None:
    as_tensor = pipe("a cat", generator=seed(), **STEPS).frames
    as_array = pipe("a cat", generator=seed(), **{**STEPS, "output_type": "np"}).frames
    plain = {**STEPS, "output_type": "pil"}
    as_pictures = pipe("a cat", generator=seed(), return_dict=False, **plain)[0]
    assert as_array.shape == (1, 5, 32, 32, 3)
    np.testing.assert_array_equal(as_array, as_tensor.permute(0, 1, 3, 4, 2).numpy())
    assert len(as_pictures[0]) == 5 and as_pictures[0][0].size == (32, 32)


def test_other_sizes_lengths_and_schedulers(pipe: LumierePipeline) -> None:
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    wide = torch.rand(1, 3, 20, 50, generator=seed(9))
    output = pipe(
        "a cat", image=wide, height=16, width=24, num_frames=7, fps=8, generator=seed(), **STEPS
    )
    assert output.frames.shape == (1, 7, 3, 32, 48) and output.fps == 8
    # Centre crop: 50 wide at 20 high is cut to 30 wide, the aspect ratio of 24 x 16.
    middle = torch.nn.functional.interpolate(
        wide[..., 10:40], size=(32, 48), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(output.known[0, 0], middle[0])


def test_base_model_in_windows(base_only: LumierePipeline) -> None:
    """Against the loop written out: each window through the network by itself, the mean where they overlap."""
    options = {
        "num_frames": 9,
        "num_inference_steps": 3,
        "output_type": "pt",
        "guidance_scale": 1.0,
    }
    made = base_only("a cat", window_size=4, overlap=2, generator=seed(), **options).frames
    scheduler, unet = base_only.scheduler, base_only.unet
    text, mask = base_only.text_encoder.encode(["a cat"])
    generators = video_generators(seed(), 1)
    video_generators(generators, 1)  # super-resolution's
    x_t = draw_noise((1, 3, 9, 16, 16), generators, torch.device("cpu"))
    scheduler.set_timesteps(3)
    for timestep in scheduler.timesteps:
        total, count = torch.zeros_like(x_t), torch.zeros(9, 1, 1)
        for start, end in ((0, 4), (2, 6), (4, 8), (5, 9)):
            with torch.no_grad():
                total[:, :, start:end] += unet(x_t[:, :, start:end], timestep, text, mask).sample
            count[start:end] += 1
        x_t = scheduler.step(total / count, timestep, x_t).prev_sample
    torch.testing.assert_close(made, (x_t.transpose(1, 2).clamp(-1, 1) + 1) / 2, rtol=0, atol=1e-5)
    whole = base_only("a cat", window_size=20, generator=seed(), **options).frames
    assert not torch.allclose(made, whole, atol=1e-3)
    # Beyond the trained length, which is 5 here, windows are the default.
    usual, trained = (
        base_only("a cat", window_size=size, generator=seed(), **options).frames
        for size in (None, 5)
    )
    assert torch.equal(usual, trained) and not torch.allclose(usual, whole, atol=1e-3)
    short = LumierePipeline(
        base_only.unet, base_only.scheduler, base_only.text_encoder, num_frames=2
    )
    # With an overlap of 1.
    assert (
        short("a cat", num_frames=5, num_inference_steps=1, output_type="pt").frames.shape[1] == 5
    )
    tapered = base_only("a cat", window_weights="tapered", generator=seed(), **options).frames
    assert not torch.allclose(usual, tapered, atol=1e-4)
    torch.testing.assert_close(usual, tapered, rtol=0, atol=0.2)


def test_base_model_in_windows_of_what_is_known(pipe: LumierePipeline) -> None:
    options = {"keep_known": True, "upscale": False, "generator": seed(), **STEPS}
    frames = pipe("a cat", image=IMAGE, num_frames=9, window_size=4, overlap=2, **options).frames
    assert frames.shape == (1, 9, 3, 16, 16)
    torch.testing.assert_close(frames[0, 0], IMAGE[0])


def test_callback_sees_and_changes_every_step(pipe: LumierePipeline) -> None:
    seen = []

    def callback(
        called: object, step: int, timestep: Tensor, kwargs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        seen.append((type(called).__name__, step, int(timestep), kwargs["latents"].shape[-1]))
        return {"latents": torch.zeros_like(kwargs["latents"])}

    output = pipe("a cat", generator=seed(), callback_on_step_end=callback, **STEPS)
    first, last = "LumierePipeline", "LumiereUpscalePipeline"
    assert seen == [
        (first, 0, 999, 16),
        (first, 1, 499, 16),
        (last, 0, 999, 32),
        (last, 1, 499, 32),
    ]
    torch.testing.assert_close(output.frames, torch.full_like(output.frames, 0.5))


def test_a_callback_may_return_nothing_or_the_dict(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **STEPS).frames
    for returned in (None, {}):
        made = pipe(
            "a cat",
            generator=seed(),
            callback_on_step_end=lambda *_, value=returned: value,
            **STEPS,
        ).frames
        assert torch.equal(made, plain)
    with pytest.raises(
        ValueError,
        match=r"callback_on_step_end: latents came back as \(1, 3\) .*; expected \(1, 3, 5, 16, 16\)",
    ):
        pipe("a cat", callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 3)}, **STEPS)
    for wrong in (plain, {"x_t": plain}):
        with pytest.raises(
            ValueError,
            match=r'callback_on_step_end: expected {"latents": latents}, or None for no change',
        ):
            pipe("a cat", callback_on_step_end=lambda *_, value=wrong: value, **STEPS)


def test_a_callback_interrupts_as_in_diffusers(pipe: LumierePipeline) -> None:
    """The steps that are left are not done, nor is super-resolution; the next call is whole again."""
    seen: list[tuple[int, int]] = []

    def callback(called: LumierePipeline, step: int, _: Tensor, __: dict[str, Tensor]) -> None:
        seen.append((step, called.num_timesteps))
        called._interrupt = step == 1

    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt", "ssr_steps": 2}
    output = pipe("a cat", generator=seed(), callback_on_step_end=callback, **options)
    assert seen == [(0, 4), (1, 4)] and pipe.interrupt
    assert output.frames.shape == (1, 5, 3, 16, 16) and output.base_frames is None
    assert pipe("a cat", generator=seed(), **options).frames.shape == (1, 5, 3, 32, 32)


@pytest.mark.parametrize("whose", ["the caller's", "super-resolution's"])
def test_super_resolution_is_interrupted_too(pipe: LumierePipeline, whose: str) -> None:
    seen: list[str] = []

    def callback(called: Any, _: int, __: Tensor, ___: dict[str, Tensor]) -> None:
        seen.append(type(called).__name__)
        if len(seen) == 4:
            (pipe if whose == "the caller's" else called)._interrupt = True

    options: dict[str, Any] = {
        "num_inference_steps": 2,
        "output_type": "pt",
        "ssr_steps": 4,
        "image": IMAGE,
    }
    output = pipe("a cat", generator=seed(), callback_on_step_end=callback, **options)
    assert seen == ["LumierePipeline"] * 2 + ["LumiereUpscalePipeline"] * 2 and pipe.interrupt
    whole = pipe("a cat", generator=seed(), **options)
    assert torch.equal(output.frames, whole.base_frames) and output.base_frames is None
    assert output.known.shape == output.frames.shape


def test_a_callback_of_diffusers_own_kind_says_which_tensors_it_wants(
    pipe: LumierePipeline,
) -> None:
    class Watching(PipelineCallback):
        tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012  as diffusers has it

        def callback_fn(
            self, _: Any, __: int, ___: Tensor, tensors: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            seen.append(set(tensors))
            return tensors

    seen: list[set[str]] = []
    pipe("a cat", callback_on_step_end=Watching(cutoff_step_ratio=1.0), **STEPS)
    assert seen == [{"latents", "prompt_embeds"}] * 2


@pytest.mark.parametrize(
    ("interval", "scale"),
    [((0.0, 1.0), 3.0), ((0.25, 0.75), 3.0), ((0.5, 1.0), 3.0), ((0.0, 1.0), 1.0)],
)
@pytest.mark.parametrize("sampler", [DDIMScheduler, DDPMScheduler])
def test_inspection_counts_the_clips_that_pass_through_the_network(
    base_only: LumierePipeline, sampler: Any, interval: tuple[float, float], scale: float
) -> None:
    base_only.scheduler = sampler.from_config(base_only.scheduler.config)
    clips_in_network: list[int] = []
    base_only.unet.register_forward_pre_hook(lambda _, args: clips_in_network.append(len(args[0])))
    base_only(
        "a cat",
        guidance_scale=scale,
        guidance_interval=interval,
        num_inference_steps=8,
        timestep_power=2.0,  # which DDIM does not take
        output_type="pt",
        generator=seed(),
    )
    config = GenerateConfig(
        num_inference_steps=8,
        guidance_scale=scale,
        guidance_interval=interval,
        timestep_power=2.0,
    )
    counted = _count_steps(config, config.num_inference_steps, base_only.scheduler)
    assert sum(counted) == sum(clips_in_network)
