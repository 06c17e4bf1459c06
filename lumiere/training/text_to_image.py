"""Training of a text-to-image U-Net: from scratch on curated frames, or fine-tuned on the pictures of a style."""

from __future__ import annotations

import torch
from torch import Tensor

from lumiere.training.captioned import CaptionedClips
from lumiere.training.task import DiffusionTask


class TextToImageTask(DiffusionTask[CaptionedClips]):
    """Plain captioned pictures: a frame of each clip."""

    validation_clips = 64

    def batch_loss(
        self, data: CaptionedClips, clips: list[int], generator: torch.Generator, text_dropout: float
    ) -> Tensor:
        """The loss of a frame of each of b clips."""
        x_0, embeds, mask = data.draw(clips, generator, text_dropout, one_frame=True)
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = self.objective.sample_timesteps(len(x_0), generator)
        x_t = self.objective.add_noise(x_0, noise, timesteps)
        output = self.network(x_t, timesteps, encoder_hidden_states=embeds, encoder_attention_mask=mask).sample
        return self.objective.loss(output, x_0, noise, timesteps)
