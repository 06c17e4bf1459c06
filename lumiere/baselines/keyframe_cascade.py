"""The keyframe cascade, a baseline for the Space-Time U-Net: distant keyframes, then temporal
super-resolution (TSR).

The paper (section 1) says that such systems cannot resolve fast motion: keyframes alias it, and TSR
sees one short segment at a time. Both networks are Space-Time U-Nets, and both tasks are the
product's own tasks, on other frames of the same clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from lumiere.data.pixel_values import bytes_to_model
from lumiere.diffusion.noise import video_generators
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Clips, Text
from lumiere.training.masks import draw_conditioning
from lumiere.training.space_time_task import SpaceTimeTask

ENDS = "first_and_last"  # the mask kind of a segment: its keyframes are known


# --- training -----------------------------------------------------------------------------------


@dataclass(eq=False, repr=False)
class KeyframeTask(SpaceTimeTask):
    """Trains the first network, on every `stride`-th frame of a clip.

    The first keyframe is random, among the frames that leave room for as many keyframes as fit into
    the clip.

    Attributes:
        stride: frames from one keyframe to the next.
    """

    stride: int = field(kw_only=True)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw as many keyframes as fit into the clip, and a caption."""
        example = super().draw(data, clip, generator, training, one_frame)
        num_strides, spare = divmod(example["video"].shape[1] - 1, self.stride)
        start = int(torch.randint(spare + 1, (), generator=generator))
        keyframes = slice(start, start + num_strides * self.stride + 1, self.stride)
        return example | {"video": example["video"][:, keyframes]}


@dataclass(eq=False, repr=False)
class TemporalSuperResolutionTask(ConditionedTask):
    """Trains the second network, on segments of `stride` + 1 frames.

    The first and the last frame of a segment are known.

    Attributes:
        stride: frames from one keyframe to the next.
    """

    mask_weights: Mapping[str, float] = field(default_factory=lambda: {ENDS: 1.0}, kw_only=True)
    stride: int = field(kw_only=True)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw a segment that begins at any frame, because the keyframes of a video may begin at
        any frame too.
        """
        example = super().draw(data, clip, generator, training, one_frame)
        start = int(torch.randint(example["video"].shape[1] - self.stride, (), generator=generator))
        segment = example["video"][:, start : start + self.stride + 1]
        _, known_mask = draw_conditioning(bytes_to_model(segment).unsqueeze(0), ENDS, generator)
        return example | {"video": segment, "known_mask": known_mask[0].to(torch.uint8)}


# --- sampling -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyframeCascade:
    """Samples keyframes from text, and fills in the frames between each two of them.

    Attributes:
        keyframes: a pipeline of the network that `KeyframeTask` trained.
        tsr: a pipeline of the network that `TemporalSuperResolutionTask` trained.
        stride: frames from one keyframe to the next, at least 2.
    """

    keyframes: LumierePipeline
    tsr: LumierePipeline
    stride: int

    def sample(
        self,
        num_keyframes: int,
        text: Text,
        generator: Sequence[torch.Generator],
        image_strength: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """Make one video per sentence.

        Args:
            num_keyframes: at least 2.
            text: states (b, n, d) and masks (b, n).
            generator: one per video.
            image_strength: as in `fill_in`.
            options: arguments of both pipelines, such as negative_prompt_embeds and
                num_inference_steps.

        Returns: (b, stride * (num_keyframes - 1) + 1, 3, h, w) in [0, 1]; every `stride`-th frame
            is a keyframe.

        Raises:
            ValueError: if there are fewer keyframes, or no frames between them.
        """
        if num_keyframes < 2 or self.stride < 2:
            raise ValueError(
                f"num_keyframes {num_keyframes}, stride {self.stride}; allowed: at least 2 each"
            )
        output = self.keyframes(
            num_frames=num_keyframes,
            generator=generator,
            prompt_embeds=text[0],
            prompt_attention_mask=text[1],
            upscale=False,
            output_type="pt",
            **options,
        )
        return self.fill_in(_frames(output), text, generator, image_strength, **options)

    def fill_in(
        self,
        keyframes: Tensor,
        text: Text,
        generator: Sequence[torch.Generator],
        image_strength: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """Fill in the frames between keyframes (temporal super-resolution); two segments share a
        keyframe and nothing else.

        Args:
            keyframes: (b, m, 3, h, w) in [0, 1]; they are returned unchanged.
            text, generator, options: as in `sample`.
            image_strength: 1 starts from noise; below 1, from one keyframe that fades into the
                next, noised.

        Returns:
            (b, stride * (m - 1) + 1, 3, h, w) in [0, 1].
        """
        num_segments = keyframes.shape[1] - 1
        generators: list[torch.Generator] = []
        for source in generator:
            generators += video_generators(source, num_segments)
        output = self.tsr(  # all segments of all videos in one batch
            image=keyframes[:, :-1].flatten(0, 1),
            last_image=keyframes[:, 1:].flatten(0, 1),
            image_strength=image_strength,
            num_frames=self.stride + 1,
            generator=generators,
            prompt_embeds=text[0].repeat_interleave(num_segments, dim=0),
            prompt_attention_mask=text[1].repeat_interleave(num_segments, dim=0),
            upscale=False,
            output_type="pt",
            **options,
        )
        between = _frames(output).unflatten(0, (len(keyframes), num_segments))[:, :, 1:-1]
        segments = torch.cat([keyframes[:, :-1, None], between], dim=2)  # (b, s, k, 3, h, w)
        return torch.cat([segments.flatten(1, 2), keyframes[:, -1:]], dim=1)


def _frames(output: Any) -> Tensor:
    return cast(LumierePipelineOutput, output).frames
