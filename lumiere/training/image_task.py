"""Training of a text-to-image U-Net: from scratch on curated frames, or fine-tuned on the pictures of a style."""

from __future__ import annotations

import torch

from lumiere.data.pixel_values import bytes_to_model
from lumiere.training.diffusion_task import Batch, DiffusionTask, NetworkCall
from lumiere.training.examples import Clips, draw_captioned


class TextToImageTask(DiffusionTask[Clips]):
    """Plain captioned pictures: a frame of each clip."""

    validation_clips = 64

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """A frame of a clip and a caption."""
        text_dropout = getattr(self.config, "text_dropout", 0.0) if training else 0.0
        return draw_captioned(data, clip, generator, text_dropout, one_frame=True)

    def call(self, batch: Batch) -> NetworkCall:
        """The noisy frames (b, c, h, w), pixels or latents."""
        video, timesteps = bytes_to_model(batch["video"]), batch["timesteps"]  # of one frame
        x_0 = self.space.on(video.device).encode(video)[:, :, 0]
        noise = self.noise_for(batch, x_0)
        x_t = self.objective.add_noise(x_0, noise, timesteps)
        text = {
            "encoder_hidden_states": batch["prompt_embeds"],
            "encoder_attention_mask": batch["prompt_mask"],
        }
        return NetworkCall((x_t, timesteps), text, x_0, noise, timesteps)
