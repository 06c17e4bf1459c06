"""What a preview of a training samples, `sample_whole`, against the pipelines."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lumiere.diffusion.denoising import sample_whole
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.diffusion.objective import make_scheduler
from lumiere.pipelines import LumierePipeline
from tests.pipelines.conftest import SIZE, text_to_image_unet
from tests.pipelines.test_modes import IMAGE, seed


def guidance_of(pipe: LumierePipeline, prompt: str, scale: float) -> TextGuidance:
    embeds, mask = pipe.text_encoder.encode([prompt, ""])
    return TextGuidance(embeds[:1], mask[:1], embeds[1:], mask[1:], scale, rescale=0.0)


def first_noise() -> Tensor:
    """The base model's, (1, c, t, h, w); a pipeline draws super-resolution's seeds before it."""
    generators = video_generators(seed(), 1)
    video_generators(generators, 1)
    return draw_noise((1, 3, 5, SIZE, SIZE), generators, torch.device("cpu"))


@torch.no_grad()
def test_a_clip_sampled_whole_is_the_pipelines_to_the_bit(pipe: LumierePipeline) -> None:
    settings = {
        "num_inference_steps": 3,
        "output_type": "pt",
        "guidance_scale": 2.0,
        "guidance_rescale": 0.0,
    }
    expected = pipe("a red fox", upscale=False, generator=seed(), **settings).frames
    noise = first_noise()
    predict = partial(
        guidance_of(pipe, "a red fox", 2.0).predict, pipe.unet, num_channels=pipe.unet.in_channels
    )
    unknown = torch.zeros(1, 4, 5, SIZE, SIZE)  # C and M
    x_0 = sample_whole(pipe.scheduler, predict, noise, [unknown], 3, [seed()])
    assert torch.equal((x_0.transpose(1, 2) + 1).div(2).clamp(0, 1), expected)


@torch.no_grad()
def test_a_clip_with_a_known_frame_is_the_pipelines(pipe: LumierePipeline) -> None:
    settings = {
        "num_inference_steps": 3,
        "output_type": "pt",
        "guidance_scale": 2.0,
        "guidance_rescale": 0.0,
    }
    output = pipe(
        "a red fox", image=IMAGE, guide_known=False, upscale=False, generator=seed(), **settings
    )
    noise = first_noise()
    predict = partial(
        guidance_of(pipe, "a red fox", 2.0).predict, pipe.unet, num_channels=pipe.unet.in_channels
    )
    known_mask = output.known_mask.transpose(1, 2)
    conditioning = (output.known.transpose(1, 2) * 2 - 1) * known_mask
    x_0 = sample_whole(pipe.scheduler, predict, noise, [conditioning, known_mask], 3, [seed()])
    frames = (x_0.transpose(1, 2) + 1).div(2).clamp(0, 1)
    assert torch.allclose(frames, output.frames, atol=1e-5)


@torch.no_grad()
def test_an_image_network_samples_pictures(pipe: LumierePipeline) -> None:
    torch.manual_seed(0)
    unet = text_to_image_unet().eval()
    noise = torch.randn(1, 3, SIZE, SIZE)
    guidance = guidance_of(pipe, "a red fox", 2.0)
    predict = partial(guidance.predict, unet, num_channels=3)
    scheduler = make_scheduler()
    x_0 = sample_whole(scheduler, predict, noise, [], 3, [seed()])

    x_t = noise
    scheduler.set_timesteps(3)
    for timestep in scheduler.timesteps:
        halves = []
        for embeds, mask in (
            (guidance.negative_embeds, guidance.negative_mask),
            (guidance.prompt_embeds, guidance.prompt_mask),
        ):
            halves.append(unet(x_t, timestep, embeds, encoder_attention_mask=mask).sample)
        guided = halves[0] + 2.0 * (halves[1] - halves[0])
        x_t = scheduler.step(guided, timestep, x_t).prev_sample
    assert x_0.shape == noise.shape
    assert torch.allclose(x_0, x_t, atol=1e-5)
