"""Training of a keyframe cascade, a baseline for the Space-Time U-Net: distant keyframes, then the frames between.

The paper (section 1) holds that such systems cannot resolve fast motion: keyframes alias it, and temporal
super-resolution (TSR) sees a short segment at a time. Both networks are Space-Time U-Nets, and both tasks are the
product's own on other frames of the same clips. `lumiere.baselines.cascade_sampling` samples from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Clips, pixels
from lumiere.training.masks import draw_conditioning
from lumiere.training.video_task import ConditionedTask, SpaceTimeTask

ENDS = "first_and_last"  # the mask kind of a segment: its keyframes are known


@dataclass(eq=False, repr=False)
class KeyframeTask(SpaceTimeTask):
    """The cascade's first network, on every `stride`-th frame of a clip.

    The first keyframe is any frame that leaves room for as many keyframes as fit into the clip.

    Attributes:
        stride: frames from one keyframe to the next.
    """

    stride: int = field(kw_only=True)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """As many keyframes as fit into the clip, and a caption."""
        example = super().draw(data, clip, generator, training, one_frame)
        num_strides, spare = divmod(example["video"].shape[1] - 1, self.stride)
        start = int(torch.randint(spare + 1, (), generator=generator))
        keyframes = slice(start, start + num_strides * self.stride + 1, self.stride)
        return example | {"video": example["video"][:, keyframes]}


@dataclass(eq=False, repr=False)
class SegmentTask(ConditionedTask):
    """The cascade's second network, TSR on <J, C, M>: `stride` + 1 frames, of which the first and the last are known.

    Attributes:
        stride: frames from one keyframe to the next.
    """

    mask_weights: Mapping[str, float] = field(default_factory=lambda: {ENDS: 1.0}, kw_only=True)
    stride: int = field(kw_only=True)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """A segment from any frame on, because the keyframes of a video may begin at any frame too."""
        example = super().draw(data, clip, generator, training, one_frame)
        start = int(torch.randint(example["video"].shape[1] - self.stride, (), generator=generator))
        segment = example["video"][:, start : start + self.stride + 1]
        _, known_mask = draw_conditioning(pixels(segment).unsqueeze(0), ENDS, generator)
        return example | {"video": segment, "known_mask": known_mask[0].to(torch.uint8)}
