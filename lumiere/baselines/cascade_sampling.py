"""Sampling of a cascade: keyframes from text, then the frames between each two of them, segment by segment.

What `lumiere.baselines.cascade_training` trains; a baseline for `LumierePipeline`, which makes all frames at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lumiere.diffusion.noise import video_generators
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput


def sample_cascade(
    keyframes: LumierePipeline,
    tsr: LumierePipeline,
    num_keyframes: int,
    stride: int,
    generator: Sequence[torch.Generator],
    prompt_embeds: Tensor,
    prompt_attention_mask: Tensor,
    image_strength: float = 1.0,
    **options: Any,
) -> Tensor:
    """Make one video per row of `prompt_embeds`.

    Args:
        keyframes: of a network trained on every `stride`-th frame.
        tsr: of a conditioned network trained on segments of `stride` + 1 frames.
        num_keyframes: at least 2.
        stride: from one keyframe to the next, in frames; at least 2.
        generator: one per video.
        prompt_embeds, prompt_attention_mask: (b, n, d) and (b, n).
        image_strength: as in `fill_in`.
        options: of either call, such as negative_prompt_embeds and num_inference_steps.

    Returns:
        (b, stride * (num_keyframes - 1) + 1, 3, h, w) in [0, 1]; every `stride`-th frame is a keyframe.

    Raises:
        ValueError: on fewer keyframes, or none to fill in between.
    """
    if num_keyframes < 2 or stride < 2:
        raise ValueError(
            f"num_keyframes {num_keyframes}, stride {stride}; allowed: at least 2 each"
        )
    text: dict[str, Any] = {
        "prompt_embeds": prompt_embeds,
        "prompt_attention_mask": prompt_attention_mask,
    }
    known = _frames(
        keyframes(num_frames=num_keyframes, generator=generator, upscale=False, **text, **options)
    )
    return fill_in(tsr, known, stride, generator, image_strength=image_strength, **text, **options)


def fill_in(
    tsr: LumierePipeline,
    keyframes: Tensor,
    stride: int,
    generator: Sequence[torch.Generator],
    prompt_embeds: Tensor,
    prompt_attention_mask: Tensor,
    image_strength: float = 1.0,
    **options: Any,
) -> Tensor:
    """Temporal super-resolution; segments share their keyframes and nothing else.

    Args:
        tsr, stride, generator, prompt_embeds, prompt_attention_mask, options: as in `sample_cascade`.
        keyframes: (b, m, 3, h, w) in [0, 1]; they are kept to the bit.
        image_strength: 1 starts from noise, below 1 from one keyframe fading into the next, noised.

    Returns:
        (b, stride * (m - 1) + 1, 3, h, w) in [0, 1].
    """
    num_segments = keyframes.shape[1] - 1
    text: dict[str, Any] = {
        "prompt_embeds": prompt_embeds,
        "prompt_attention_mask": prompt_attention_mask,
    }
    output = tsr(  # all segments of all videos in one batch
        image=keyframes[:, :-1].flatten(0, 1),
        last_image=keyframes[:, 1:].flatten(0, 1),
        image_strength=image_strength,
        num_frames=stride + 1,
        generator=[
            child for source in generator for child in video_generators(source, num_segments)
        ],
        upscale=False,
        **{name: value.repeat_interleave(num_segments, dim=0) for name, value in text.items()},
        **options,
    )
    between = _frames(output).unflatten(0, (len(keyframes), num_segments))[:, :, 1:-1]
    segments = torch.cat([keyframes[:, :-1, None], between], dim=2)  # (b, s, k, 3, h, w)
    return torch.cat([segments.flatten(1, 2), keyframes[:, -1:]], dim=1)


def _frames(output: Any) -> Tensor:
    return cast(LumierePipelineOutput, output).frames
