"""The outputs of the pipelines, and the conversion of videos to the requested output type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from lumiere.data.pixel_values import unit_to_bytes

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class LumierePipelineOutput(BaseOutput):
    """Generated videos.

    Attributes:
        frames: "pil": a list of frames per video; "np": (b, t, h, w, c) float32 in [0, 1]; "pt":
            (b, t, c, h, w) float32 in [0, 1]; "latent": (b, c, t, h, w) float32, what the base
            network denoised, neither decoded nor enlarged. Videos of one prompt are adjacent.
        fps: frames per second of the videos.
        mode: the mode that made them.
        base_frames: the frames before super-resolution, in the same form; None without
            super-resolution.
        known: (b, t, c, h, w) in [0, 1], the known pixels, as large as `frames`; None in modes
            without known pixels.
        known_mask: (b, t, 1, h, w), 1 = known; None like `known`.
        known_psnr: (b,), in dB, how well `frames` keep the known pixels, before `keep_known` puts
            them back. Infinite if they are exact, NaN if M is 0 everywhere; None like `known`.
    """

    frames: Any
    fps: int
    mode: str
    base_frames: Any = None
    known: Tensor | None = None
    known_mask: Tensor | None = None
    known_psnr: Tensor | None = None


@dataclass
class LumiereUpscalePipelineOutput(BaseOutput):
    """Enlarged videos: `frames` as in `LumierePipelineOutput`."""

    frames: Any


def check_output_type(output_type: str, keep_known: bool = False) -> None:
    """Raise ValueError unless `output_type` is one of `OUTPUT_TYPES`, and has pixels if known ones
    are to be put back.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; allowed: {', '.join(OUTPUT_TYPES)}")
    if output_type == "latent" and keep_known:
        raise ValueError(
            "keep_known puts pixels back, but output_type 'latent' has none; choose one of the two"
        )


def to_output(video: Tensor, output_type: str) -> Any:
    """Convert (b, c, t, h, w) in [-1, 1] to `output_type`; values outside are clamped, except in
    latents.
    """
    if output_type == "latent":
        return video
    frames = video.transpose(1, 2)  # (b, t, c, h, w)
    if output_type != "pt":
        frames = frames.permute(0, 1, 3, 4, 2)
    # Make one copy and do the rest in place, because an enlarged video is large.
    frames = (
        frames.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        .add_(1)
        .div_(2)
        .clamp_(0, 1)
    )
    if output_type == "pt":
        return frames
    frames = frames.cpu()  # (b, t, h, w, c)
    if output_type == "np":
        return frames.numpy()
    return [[Image.fromarray(unit_to_bytes(frame).numpy()) for frame in clip] for clip in frames]
