"""Training of a cascade, what the Space-Time U-Net is compared with: distant keyframes, then the frames between.

The paper (section 1) holds that such systems cannot resolve fast motion: keyframes alias it, and temporal
super-resolution (TSR) sees a short segment at a time. Both networks are Space-Time U-Nets, both tasks the product's own
on other frames of the same clips. `lumiere.baselines.cascade_sampling` samples.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lumiere.config import OptimConfig
from lumiere.data.pixel_values import bytes_to_model
from lumiere.models import SpaceTimeUNet
from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Clips
from lumiere.training.masks import draw_conditioning
from lumiere.training.video_task import SpaceTimeTask

ENDS = "first_and_last"  # the mask kind of a segment: its keyframes are known


class CascadeTask(SpaceTimeTask):
    """A network of the cascade, on frames that follow from the keyframes' distance."""

    masks: ClassVar[dict[str, float] | None] = None

    def __init__(
        self,
        name: str,
        unet: SpaceTimeUNet,
        scheduler: Any,
        train_data: Clips,
        validation_data: Clips,
        config: OptimConfig,
        stride: int,
    ) -> None:
        """
        Args:
            name, unet, scheduler, train_data, validation_data, config: as in `DiffusionTask`.
            stride: from one keyframe to the next, in frames.
        """
        super().__init__(
            name, unet, scheduler, train_data, validation_data, config, mask_weights=self.masks
        )
        self.stride = stride


class KeyframeTask(CascadeTask):
    """Every `stride`-th frame of a clip, from any of the frames that leave room for all keyframes."""

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """As many keyframes as fit into the clip."""
        example = super().draw(data, clip, generator, training, one_frame)
        spare = (example["video"].shape[1] - 1) % self.stride
        start = int(torch.randint(spare + 1, (), generator=generator))
        return example | {
            "video": example["video"][:, start :: self.stride][
                :, : _keyframes(example, self.stride)
            ]
        }


class SegmentTask(CascadeTask):
    """`stride` + 1 frames from anywhere in a clip, the first and the last of them known: TSR on <J, C, M>."""

    masks: ClassVar[dict[str, float] | None] = {ENDS: 1.0}

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """A segment, at any frame and not at keyframes alone, since those too may begin at any frame of a video."""
        example = super().draw(data, clip, generator, training, one_frame)
        start = int(torch.randint(example["video"].shape[1] - self.stride, (), generator=generator))
        segment = example["video"][:, start : start + self.stride + 1]
        _, known_mask = draw_conditioning(bytes_to_model(segment).unsqueeze(0), ENDS, generator)
        return example | {"video": segment, "known_mask": known_mask[0].to(torch.uint8)}


def _keyframes(example: Batch, stride: int) -> int:
    return (example["video"].shape[1] - 1) // stride + 1
