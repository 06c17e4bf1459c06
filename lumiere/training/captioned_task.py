"""The base task of trainings on captioned clips or pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumiere.config import TextOptimConfig
from lumiere.data.pixel_values import bytes_to_model
from lumiere.training.diffusion_task import Batch, DiffusionTask, NetworkInput, NoisedBatch
from lumiere.training.examples import Clips, draw_captioned


@dataclass(eq=False, repr=False)
class CaptionedTask(DiffusionTask[Clips]):
    """Trains a network that denoises captioned clips or pictures."""

    config: TextOptimConfig

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw one caption, and either all frames of a clip or a single one."""
        text_dropout = self.config.text_dropout if training else 0.0
        return draw_captioned(data, clip, generator, text_dropout, one_frame)

    def noised(self, batch: Batch) -> NoisedBatch:
        """Add noise to the pixels or latents, and pass the text along."""
        timesteps = batch["timesteps"]
        x_0 = self.clean(batch)
        noise = self.draw_noise(batch, x_0)
        inputs = NetworkInput(
            self.objective.add_noise(x_0, noise, timesteps),
            timesteps,
            prompt_embeds=batch["prompt_embeds"],
            prompt_mask=batch["prompt_mask"],
        )
        return NoisedBatch(inputs, x_0, noise)

    def clean(self, batch: Batch) -> Tensor:
        """Return the batch's clips in the network's space: pixels or latents (b, c, t, h, w)."""
        video = bytes_to_model(batch["video"])
        return self.space.on(video.device).encode(video)
