"""Training of a text-to-image U-Net: from scratch on curated frames, or fine-tuned on the pictures of a style."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.data.clips import batch_indices
from lumiere.diffusion.objective import Objective
from lumiere.training.captioned import CaptionedClips
from lumiere.training.seeding import generator_for

VALIDATION_IMAGES = 64


class TextToImageTask:
    """The loop's view of T2I training: every parameter, plain captioned pictures."""

    def __init__(
        self,
        name: str,
        unet: Any,
        scheduler: Any,
        train_clips: CaptionedClips,
        validation_clips: CaptionedClips,
        config: OptimConfig,
    ) -> None:
        """`train_clips`: a frame of each is a picture."""
        self.name, self.unet, self.config = name, unet.train(), config
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_clips, self.validation_clips = train_clips, validation_clips

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All of the U-Net's parameters."""
        return dict(self.unet.named_parameters())

    def _loss(self, data: CaptionedClips, clips: list[int], generator: torch.Generator, dropout: float) -> Tensor:
        x_0, embeds, mask = data.draw(clips, generator, dropout, one_frame=True)
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = self.objective.sample_timesteps(len(x_0), generator)
        x_t = self.objective.add_noise(x_0, noise, timesteps)
        output = self.unet(x_t, timesteps, encoder_hidden_states=embeds, encoder_attention_mask=mask).sample
        return self.objective.loss(output, x_0, noise, timesteps)

    def loss(self, step: int) -> Tensor:
        """One batch's loss."""
        seed, size = self.config.seed, self.config.batch_size
        clips = batch_indices(len(self.train_clips), size, step, seed)
        return self._loss(self.train_clips, clips, generator_for(self.name, seed, 0, step), self.config.text_dropout)

    def validation_loss(self) -> float | None:
        """Mean loss over frames of held-out clips at fixed noise and timesteps; None without any."""
        if not len(self.validation_clips):
            return None
        self.unet.eval()
        clips = torch.linspace(0, len(self.validation_clips) - 1, VALIDATION_IMAGES).round().int().tolist()
        loss = self._loss(self.validation_clips, clips, generator_for(f"{self.name}-validation"), 0.0)
        self.unet.train()
        return float(loss)
