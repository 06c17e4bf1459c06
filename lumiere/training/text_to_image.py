"""Training of a text-to-image U-Net: from scratch on curated frames, or fine-tuned on the pictures of a style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.data.clips import ClipStore, batch_indices
from lumiere.diffusion.objective import Objective
from lumiere.training.seeding import generator_for
from lumiere.training.video import CaptionedVideos


@dataclass
class CaptionedImages:
    """Pictures in memory, grouped by subject; every subject has one or more captions."""

    images: Tensor  # uint8 (p, 3, h, w)
    offsets: list[int]  # subject s owns images[offsets[s]:offsets[s + 1]]
    prompt_embeds: list[Tensor]  # per subject (k, n, d)
    prompt_masks: list[Tensor]  # per subject (k, n)

    def __len__(self) -> int:
        """The number of subjects."""
        return len(self.prompt_embeds)

    @classmethod
    def from_clips(cls, store: ClipStore, size: int) -> CaptionedImages:
        """All frames of a store's clips at `size` x `size` pixels; a clip is a subject."""
        videos = CaptionedVideos.load(store, size)
        frames = videos.videos.transpose(1, 2).flatten(0, 1)  # (n t) c h w
        offsets = [i * store.num_frames for i in range(len(store) + 1)]
        return cls(frames, offsets, videos.prompt_embeds, videos.prompt_masks)

    @classmethod
    def from_pairs(cls, pictures: np.ndarray, prompt_embeds: Tensor, prompt_masks: Tensor) -> CaptionedImages:
        """One picture and one caption a subject: uint8 (p, h, w, 3), (p, n, d), (p, n)."""
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        return cls(images, list(range(len(images) + 1)), list(prompt_embeds[:, None]), list(prompt_masks[:, None]))

    def draw(self, subject: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One picture (3, h, w) in [-1, 1] with one of its captions: prompt_embeds (n, d), mask (n,)."""
        start, end = self.offsets[subject], self.offsets[subject + 1]
        picture = self.images[start + int(torch.randint(end - start, (), generator=generator))]
        caption = int(torch.randint(len(self.prompt_embeds[subject]), (), generator=generator))
        image = picture.float() / 127.5 - 1
        return image, self.prompt_embeds[subject][caption].float(), self.prompt_masks[subject][caption]


def build_unet(size: int, block_out_channels: tuple[int, ...], layers_per_block: int, text_dim: int) -> nn.Module:
    """A small pixel-space UNet2DConditionModel.

    Text enters twice, as in DeepFloyd IF: by cross-attention below the finest level, and pooled by attention into the
    timestep embedding (`addition_embed_type="text"`), which modulates every ResNet by scale and shift.
    """
    import lumiere.compat  # noqa: F401  before diffusers

    from diffusers import UNet2DConditionModel

    inner = len(block_out_channels) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * inner),
        up_block_types=(*["CrossAttnUpBlock2D"] * inner, "UpBlock2D"),
        cross_attention_dim=text_dim,
        attention_head_dim=4,  # in diffusers this is the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=16,
    )


class TextToImageTask:
    """The loop's view of T2I training: every parameter, plain captioned pictures."""

    def __init__(
        self,
        name: str,
        unet: Any,
        scheduler: Any,
        train_images: CaptionedImages,
        validation_images: CaptionedImages,
        null_embeds: tuple[Tensor, Tensor],
        config: OptimConfig,
    ) -> None:
        """`null_embeds`: prompt_embeds (1, n, d) and mask (1, n) of the empty sentence."""
        self.name, self.unet, self.config = name, unet.train(), config
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_images, self.validation_images = train_images, validation_images
        self.null_embeds, self.null_mask = null_embeds[0][0].float(), null_embeds[1][0]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All of the U-Net's parameters."""
        return dict(self.unet.named_parameters())

    def _loss(self, data: CaptionedImages, subjects: list[int], generator: torch.Generator, dropout: float) -> Tensor:
        drawn = [data.draw(subject, generator) for subject in subjects]
        x_0 = torch.stack([entry[0] for entry in drawn])
        dropped = torch.rand(len(drawn), generator=generator) < dropout
        embeds = torch.where(dropped[:, None, None], self.null_embeds, torch.stack([entry[1] for entry in drawn]))
        mask = torch.where(dropped[:, None], self.null_mask, torch.stack([entry[2] for entry in drawn]))
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = self.objective.sample_timesteps(len(x_0), generator)
        x_t = self.objective.add_noise(x_0, noise, timesteps)
        output = self.unet(x_t, timesteps, encoder_hidden_states=embeds, encoder_attention_mask=mask).sample
        return self.objective.loss(output, x_0, noise, timesteps)

    def loss(self, step: int) -> Tensor:
        """One batch's loss."""
        seed, size = self.config.seed, self.config.batch_size
        subjects = batch_indices(len(self.train_images), size, step, seed)
        return self._loss(self.train_images, subjects, generator_for("t2i", seed, 0, step), self.config.text_dropout)

    def validation_loss(self) -> float | None:
        """Mean loss over the held-out subjects at fixed noise and timesteps; None without any."""
        if not len(self.validation_images):
            return None
        self.unet.eval()
        subjects = list(range(len(self.validation_images))) * 2
        loss = self._loss(self.validation_images, subjects, generator_for("t2i-validation"), 0.0)
        self.unet.train()
        return float(loss)
