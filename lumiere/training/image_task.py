"""Trains a text-to-image U-Net on the frames of clips or on the pictures of a style."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lumiere.training.captioned_task import CaptionedTask
from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Clips


@dataclass(eq=False, repr=False)
class TextToImageTask(CaptionedTask):
    """Trains an image network on captioned pictures; each picture is a frame of a clip."""

    network: UNet2DConditionModel

    validation_clips = 64

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw one frame of a clip and one caption."""
        return super().draw(data, clip, generator, training, one_frame=True)

    def clean(self, batch: Batch) -> Tensor:
        """Return the frames of a batch (b, c, h, w), pixels or latents."""
        return super().clean(batch)[:, :, 0]
