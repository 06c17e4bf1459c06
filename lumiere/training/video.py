"""Training of the base Space-Time U-Net, on text alone or on <J, C, M>: temporal weights only (paper, 3.1 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumiere.config import OptimConfig
from lumiere.models import SpaceTimeUNet
from lumiere.training.captioned import CaptionedClips
from lumiere.training.masks import draw_conditioning, draw_kind
from lumiere.training.task import DiffusionTask


class SpaceTimeTask(DiffusionTask[CaptionedClips]):
    """Base training, and conditioned training where `mask_weights` is given."""

    def __init__(
        self,
        name: str,
        unet: SpaceTimeUNet,
        scheduler: Any,
        train_data: CaptionedClips,
        validation_data: CaptionedClips,
        config: OptimConfig,
        mask_weights: Mapping[str, float] | None = None,
    ) -> None:
        """`mask_weights`: how often each kind of conditioning is drawn, relative to the others; None for text alone."""
        super().__init__(name, unet, scheduler, train_data, validation_data, config)
        self.mask_weights = mask_weights

    def batch_loss(
        self, data: CaptionedClips, clips: list[int], generator: torch.Generator, text_dropout: float
    ) -> Tensor:
        """The loss of b clips of all their frames."""
        x_0, embeds, mask = data.draw(clips, generator, text_dropout)
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = self.objective.sample_timesteps(len(x_0), generator)
        sample = self.objective.add_noise(x_0, noise, timesteps)
        if self.mask_weights is not None:
            drawn_conditions = [
                draw_conditioning(video.unsqueeze(0), draw_kind(self.mask_weights, generator), generator)
                for video in x_0
            ]
            known = [torch.cat(pair, dim=1) for pair in drawn_conditions]  # <C, M>
            sample = torch.cat([sample, torch.cat(known)], dim=1)  # <J, C, M>
        output = self.network(sample, timesteps, embeds, mask).sample
        return self.objective.loss(output, x_0, noise, timesteps)
