"""Runs a request: fills in the model's settings, calls the pipeline and describes the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from lumiere.diffusion.latents import LatentSpace
from lumiere.modes import DEFAULT_ALPHA, DEFAULT_STRENGTH, strength_applies_to
from lumiere.pipelines.call_warnings import silent_on_notes
from lumiere.pipelines.input_files import Clips, Pixels, read_pixels
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput
from lumiere.pipelines.prompts import has_negative_prompt
from lumiere.pipelines.request_notes import unused_motion
from lumiere.requests import Request
from lumiere.text import TextEncoder, lost_words

MAX_DECIBELS = 99.0  # written for exact pixels, because JSON has no infinity
# Settings of the model that no request sets.
MODEL_SETTINGS = (
    "fps", "timestep_power", "guidance_rescale", "guidance_interval", "guidance_type", "guidance_eta",
    "guidance_threshold", "guidance_momentum", "noise_correlation", "motion_interval", "smoothing_interval",
    "spatial_smoothing", "long_noise", "ssr_steps",
    "ssr_window_size", "ssr_overlap", "ssr_noise_correlation", "prediction_type",
)  # fmt: skip


def check_request(
    pipe: LumierePipeline,
    request: Request,
    clips: Clips | None = None,
    can_take_more_steps: bool = True,
) -> Pixels:
    """Read the pixels of a request, and check the request against the model.

    Args:
        pipe: the model.
        request: what to make.
        clips: the training clips, if the request names one.
        can_take_more_steps: whether notes may propose more steps; a distilled network takes no
            other number.

    Raises:
        ValueError: if the model cannot do the mode, would not read the negative prompt, has no such
            style or no super-resolution, or the pixels cannot be used.
    """
    pipe.check_mode(request.mode)
    guidance = pipe.config.guidance_scale if request.guidance is None else request.guidance
    has_negative = has_negative_prompt(request.negative_prompt)
    pipe.check_guidance(pipe.config.guidance_type, guidance, has_negative)
    if request.upscale and pipe.ssr_unet is None:
        raise ValueError(
            "upscale is yes, but the model has no super-resolution; "
            "set it to no (--no-upscale on the command line)"
        )
    if request.style is not None:
        alpha = DEFAULT_ALPHA if request.alpha is None else request.alpha
        pipe.styles.check(request.style, alpha)
    size = LatentSpace(pipe.vae).frame_size(None, None, pipe.unet.unet.config.sample_size)
    pixels = read_pixels(request, pipe.config.fps, pipe.config.num_frames, size, clips)
    unused = unused_motion(pipe, request, pixels.num_frames, can_take_more_steps)
    return replace(pixels, notes=[*pixels.notes, *_unread_words(pipe, request), *unused])


def _unread_words(pipe: LumierePipeline, request: Request) -> list[str]:
    """Return notes on words of the prompts that the text encoder does not read."""
    encoder = pipe.text_encoder
    if not isinstance(encoder, TextEncoder):
        return []
    prompts = [text for text in (request.prompt, request.negative_prompt) if text]
    return lost_words.notes(lost_words.find_losses(prompts, encoder), encoder)


def complete_request(
    pipe: LumierePipeline, request: Request, num_frames: int, seed: int
) -> Request:
    """Fill in the model's own settings where a request leaves them open.

    Args:
        pipe: the model.
        request: a checked request.
        num_frames: how many frames to make.
        seed: used if the request has none.
    """
    config = pipe.config
    defaults: dict[str, Any] = {
        "negative_prompt": "",
        "frames": num_frames,
        "seed": seed,
        "steps": config.num_inference_steps,
        "guidance": config.guidance_scale,
        "motion": config.motion_scale,
        "smoothing": config.temporal_smoothing,
        "upscale": True,
        "alpha": DEFAULT_ALPHA if request.style else None,
        "strength": {"image": config.image_strength, "video": DEFAULT_STRENGTH, None: None}[
            strength_applies_to(request.mode)
        ],
    }
    settings = {name: getattr(request, name) for name in defaults}
    settings = {
        name: defaults[name] if value is None else value for name, value in settings.items()
    }
    settings["upscale"] = settings["upscale"] and pipe.ssr_unet is not None
    return replace(request, **{**settings, "frames": num_frames})


def run_request(
    pipe: LumierePipeline, request: Request, pixels: Mapping[str, Any]
) -> LumierePipelineOutput:
    """Make the videos of a complete request.

    Args:
        pipe: the model.
        request: as `complete_request` returns it.
        pixels: the `arguments` of `Pixels`.
    """
    assert request.seed is not None, "complete the request first"
    options: dict[str, Any] = dict(pixels)
    if request.strength is not None:
        is_image = strength_applies_to(request.mode) == "image"
        options["image_strength" if is_image else "strength"] = request.strength
    if request.style is not None:
        options |= {"style": request.style, "alpha": request.alpha}
    seeds = range(request.seed, request.seed + request.num_videos)
    with silent_on_notes():  # those of `check_request`
        output = pipe(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_frames=request.frames,
            mode=request.mode,
            keep_known=request.keep_known,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            motion_scale=request.motion,
            temporal_smoothing=request.smoothing,
            num_videos_per_prompt=request.num_videos,
            upscale=bool(request.upscale),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            **options,
        )
    return cast(LumierePipelineOutput, output)


def describe_output(
    pipe: LumierePipeline, output: LumierePipelineOutput, index: int = 0
) -> dict[str, Any]:
    """Return what a sidecar says about one video beyond its request."""
    base = output.frames if output.base_frames is None else output.base_frames
    return {
        "known_psnr": _decibels(output.known_psnr, index),
        "size": list(output.frames.shape[-2:]),
        "base_size": list(base.shape[-2:]),
        **{name: pipe.config[name] for name in MODEL_SETTINGS},
    }


def _decibels(values: torch.Tensor | None, index: int) -> float | None:
    """Return the PSNR of the given pixels of a video, in dB; None if no pixels were given."""
    if values is None or math.isnan(values[index]):
        return None
    return round(min(MAX_DECIBELS, float(values[index])), 1)
