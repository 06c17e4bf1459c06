"""Training of the base Space-Time U-Net, on text alone or on <J, C, M>: temporal weights only (paper, 3.1 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lumiere.config import OptimConfig
from lumiere.data.pixel_values import bytes_to_model
from lumiere.models import SpaceTimeUNet
from lumiere.training.diffusion_task import Batch, DiffusionTask, NetworkCall
from lumiere.training.examples import Clips, draw_captioned
from lumiere.training.masks import draw_conditioning, draw_kind
from lumiere.training.seeding import generator_for

WHOLE_FRAMES = (
    "first_frame",
    "last_frame",
    "first_and_last",
    "cinemagraph",
)  # mask kinds that know some


class SpaceTimeTask(DiffusionTask[Clips]):
    """Base training, and conditioned training where `mask_weights` is given."""

    def __init__(
        self,
        name: str,
        unet: SpaceTimeUNet,
        scheduler: Any,
        train_data: Clips,
        validation_data: Clips,
        config: OptimConfig,
        mask_weights: Mapping[str, float] | None = None,
        image_share: float = 0.0,
        vae: Any | None = None,
    ) -> None:
        """
        Args:
            name, unet, scheduler, train_data, validation_data, config, vae: as in `DiffusionTask`.
            mask_weights: how often each kind of conditioning is drawn, relative to the others; None for text alone.
            image_share: share of the steps that train on single frames.
        """
        super().__init__(name, unet, scheduler, train_data, validation_data, config, vae)
        self.mask_weights, self.image_share = mask_weights, image_share

    def one_frame(self, step: int) -> bool:
        """Drawn for a whole step, since the clips of a batch are equally long."""
        if self.image_share == 0:
            return False
        draw = torch.rand((), generator=generator_for(self.name, self.config.seed, "images", step))
        return bool(draw < self.image_share)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """All frames of a clip or one, a caption and, for conditioned training, what is known of the clip."""
        text_dropout = getattr(self.config, "text_dropout", 0.0) if training else 0.0
        example = draw_captioned(data, clip, generator, text_dropout, one_frame)
        if self.mask_weights is not None:
            weights = dict(self.mask_weights)
            if one_frame:  # of which these would know everything
                weights = {
                    kind: weight for kind, weight in weights.items() if kind not in WHOLE_FRAMES
                }
            kind = draw_kind(weights, generator) if sum(weights.values()) else "text_only"
            _, known_mask = draw_conditioning(
                bytes_to_model(example["video"]).unsqueeze(0), kind, generator
            )
            example["known_mask"] = known_mask[0].to(torch.uint8)
        return example

    def flops(self, batch: Batch) -> int:
        """Of an average step, where some train on single frames."""
        if self.image_share == 0:
            return super().flops(batch)

        def at(num_frames: int) -> int:
            videos = {
                name: batch[name][:, :, :1] for name in ("video", "known_mask") if name in batch
            }
            longer = {
                name: video.expand(-1, -1, num_frames, -1, -1) for name, video in videos.items()
            }
            return super(SpaceTimeTask, self).flops(batch | longer)

        return round(
            self.image_share * at(1) + (1 - self.image_share) * at(self.train_data.num_frames)
        )

    def call(self, batch: Batch) -> NetworkCall:
        """The noisy clips (b, c, t, h, w), pixels or latents, with C and M appended where the network takes them."""
        video, timesteps = bytes_to_model(batch["video"]), batch["timesteps"]
        space = self.space.on(video.device)
        x_0 = space.encode(video)
        noise = self.noise_for(batch, x_0)
        sample = self.objective.add_noise(x_0, noise, timesteps)
        if self.mask_weights is not None:
            known_mask = batch["known_mask"].to(video.dtype)
            # Hidden pixels go before the VAE, whose latents tell of their neighbours, too.
            sample = torch.cat(
                [sample, *space.condition(video * known_mask, known_mask)], dim=1
            )  # <J, C, M>
        text = batch["prompt_embeds"], batch["prompt_mask"]
        return NetworkCall((sample, timesteps, *text), {}, x_0, noise, timesteps)
