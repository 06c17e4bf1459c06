"""Training of the base Space-Time U-Net, on text alone or on <J, C, M>: temporal weights only (paper, 3.1 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.data.clips import ClipStore, batch_indices, resize_video, to_model_range
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.masks import draw_conditioning, draw_kind
from lumiere.training.seeding import generator_for

VALIDATION_CLIPS = 16


@dataclass
class CaptionedVideos:
    """Small clips in memory, with their captions' states."""

    videos: Tensor  # uint8 (n, 3, t, h, w)
    prompt_embeds: list[Tensor]  # per clip (k, n, d)
    prompt_masks: list[Tensor]  # per clip (k, n)

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    @classmethod
    def load(cls, store: ClipStore, size: int) -> CaptionedVideos:
        """All of a store's clips at `size` x `size` pixels."""
        videos, embeds, masks = [], [], []
        for i in range(len(store)):
            clip = store[i]
            small = resize_video(to_model_range(clip.frames).unsqueeze(0), size)[0]
            videos.append(((small + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
            embeds.append(torch.from_numpy(clip.prompt_embeds))
            masks.append(torch.from_numpy(clip.prompt_mask).long())
        empty = torch.zeros(0, 3, store.num_frames, size, size, dtype=torch.uint8)
        return cls(torch.stack(videos) if videos else empty, embeds, masks)

    def draw(self, clip: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One clip (3, t, h, w) in [-1, 1] with one of its captions: prompt_embeds (n, d), mask (n,)."""
        caption = int(torch.randint(len(self.prompt_embeds[clip]), (), generator=generator))
        video = self.videos[clip].float() / 127.5 - 1
        return video, self.prompt_embeds[clip][caption].float(), self.prompt_masks[clip][caption]


class SpaceTimeTask:
    """The loop's view of base training, and of conditioned training where `mask_weights` is given."""

    def __init__(
        self,
        name: str,
        unet: SpaceTimeUNet,
        scheduler: object,
        train_videos: CaptionedVideos,
        validation_videos: CaptionedVideos,
        null_text: tuple[Tensor, Tensor],
        config: OptimConfig,
        mask_weights: Mapping[str, float] | None = None,
    ) -> None:
        """`null_text`: prompt_embeds (1, n, d) and mask (1, n) of the empty sentence."""
        self.name, self.unet, self.config, self.mask_weights = name, unet.train(), config, mask_weights
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_videos, self.validation_videos = train_videos, validation_videos
        self.null_embeds, self.null_mask = null_text[0][0].float(), null_text[1][0]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The temporal parameters."""
        return {name: p for name, p in self.unet.named_parameters() if not name.startswith("unet.")}

    def _loss(self, data: CaptionedVideos, clips: list[int], generator: torch.Generator, dropout: float) -> Tensor:
        drawn = [data.draw(clip, generator) for clip in clips]
        x_0 = torch.stack([entry[0] for entry in drawn])
        dropped = torch.rand(len(drawn), generator=generator) < dropout
        embeds = torch.where(dropped[:, None, None], self.null_embeds, torch.stack([entry[1] for entry in drawn]))
        mask = torch.where(dropped[:, None], self.null_mask, torch.stack([entry[2] for entry in drawn]))
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
        clips = batch_indices(len(self.train_videos), size, step, seed)
        return self._loss(self.train_videos, clips, generator_for(self.name, seed, 0, step), self.config.text_dropout)

    def validation_loss(self) -> float | None:
        """Mean loss over held-out clips at fixed noise, timesteps and masks; None without any."""
        if not len(self.validation_videos):
            return None
        self.unet.eval()
        clips = torch.linspace(0, len(self.validation_videos) - 1, VALIDATION_CLIPS).round().int().tolist()
        loss = self._loss(self.validation_videos, clips, generator_for(f"{self.name}-validation"), 0.0)
        self.unet.train()
        return float(loss)
