"""Trains the base Space-Time U-Net on captioned clips (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lumiere.models import SpaceTimeUNet
from lumiere.training.captioned_task import CaptionedTask
from lumiere.training.seeding import generator_for


@dataclass(eq=False, repr=False)
class SpaceTimeTask(CaptionedTask):
    """Trains on captioned clips, and on single frames for a share of the steps.

    Attributes:
        image_share: the share of the steps that train on single frames.
    """

    network: SpaceTimeUNet
    image_share: float = field(default=0.0, kw_only=True)

    def one_frame(self, step: int) -> bool:
        """Return whether a step trains on single frames; all clips of a batch have the same length."""
        if self.image_share == 0:
            return False
        generator = generator_for(self.name, self.config.seed, "images", step)
        draw = torch.rand((), generator=generator, dtype=torch.float32)
        return bool(draw < self.image_share)

    def one_frame_choices(self) -> tuple[bool, ...]:
        """Return what `one_frame` returns for one step or another."""
        return (False, True) if self.image_share else (False,)
