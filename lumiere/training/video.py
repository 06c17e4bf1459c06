"""Training of the base Space-Time U-Net, on text alone or on <J, C, M>: temporal weights only (paper, 3.1 and 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.data.clips import batch_indices
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.captioned import CaptionedClips
from lumiere.training.masks import draw_conditioning, draw_kind
from lumiere.training.seeding import generator_for

VALIDATION_CLIPS = 16


class SpaceTimeTask:
    """The loop's view of base training, and of conditioned training where `mask_weights` is given."""

    def __init__(
        self,
        name: str,
        unet: SpaceTimeUNet,
        scheduler: object,
        train_clips: CaptionedClips,
        validation_clips: CaptionedClips,
        config: OptimConfig,
        mask_weights: Mapping[str, float] | None = None,
    ) -> None:
        """`scheduler`: the one that the text-to-image model was trained with."""
        self.name, self.unet, self.config, self.mask_weights = name, unet.train(), config, mask_weights
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_clips, self.validation_clips = train_clips, validation_clips

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The temporal parameters."""
        return {name: p for name, p in self.unet.named_parameters() if not name.startswith("unet.")}

    def _loss(self, data: CaptionedClips, clips: list[int], generator: torch.Generator, dropout: float) -> Tensor:
        x_0, embeds, mask = data.draw(clips, generator, dropout)
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
        output = self.unet(sample, timesteps, embeds, mask).sample
        return self.objective.loss(output, x_0, noise, timesteps)

    def loss(self, step: int) -> Tensor:
        """One batch's loss."""
        seed, size = self.config.seed, self.config.batch_size
        clips = batch_indices(len(self.train_clips), size, step, seed)
        return self._loss(self.train_clips, clips, generator_for(self.name, seed, 0, step), self.config.text_dropout)

    def validation_loss(self) -> float | None:
        """Mean loss over held-out clips at fixed noise, timesteps and masks; None without any."""
        if not len(self.validation_clips):
            return None
        self.unet.eval()
        clips = torch.linspace(0, len(self.validation_clips) - 1, VALIDATION_CLIPS).round().int().tolist()
        loss = self._loss(self.validation_clips, clips, generator_for(f"{self.name}-validation"), 0.0)
        self.unet.train()
        return float(loss)
