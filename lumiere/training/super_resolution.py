"""Training of spatial super-resolution: an image network, then its inflation on short windows (paper, section 3.2).

The network sees <x_t, low>: the noisy high-resolution frames and the low-resolution ones, enlarged and noised a little
(noise augmentation, Ho et al. 2021), with the noise's timestep as class label, so that it forgives what the base model
gets wrong.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumiere.config import OptimConfig, TrainSSRConfig
from lumiere.data.clips import ClipStore, batch_indices, resize_video, to_model_range
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.seeding import generator_for

VALIDATION_CLIPS = 8


def enlarge(video: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(b, c, t, h, w) enlarged bilinearly, frame by frame: what the SSR network is conditioned on."""
    size = (size, size) if isinstance(size, int) else size
    batch_size, channels, num_frames = video.shape[:3]
    frames = video.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return frames.view(batch_size, num_frames, channels, *size).transpose(1, 2)


class SuperResolutionTask:
    """The loop's view of SSR training: an image network (`window_size` 1) or an inflated one, on crops of clips."""

    def __init__(
        self,
        name: str,
        network: Any,
        scheduler: Any,
        stores: tuple[ClipStore, ClipStore],
        low_size: int,
        window_size: int,
        ssr: TrainSSRConfig,
        config: OptimConfig,
    ) -> None:
        """
        Args:
            network: a UNet2DConditionModel, trained whole, or a SpaceTimeUNet, of which temporal weights train.
            stores: training and validation clips.
            low_size: side of the base model's output, pixels.
            window_size: frames that a step sees.
        """
        self.name, self.network, self.config, self.ssr = name, network.train(), config, ssr
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_store, self.validation_store = stores
        self.low_size, self.window_size = low_size, window_size

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All of an image network's parameters, the temporal ones of an inflated network."""
        named = self.network.named_parameters()
        if isinstance(self.network, SpaceTimeUNet):
            return {name: p for name, p in named if not name.startswith("unet.")}
        return dict(named)

    def _draw(self, store: ClipStore, clip: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A crop of a window, high (3, t, h, w) and enlarged low resolution of the same."""

        def below(bound: int) -> int:
            return int(torch.randint(bound, (), generator=generator))

        start = below(store.num_frames - self.window_size + 1)
        frames = to_model_range(store[clip].frames[start : start + self.window_size]).unsqueeze(0)
        high = resize_video(frames, self.ssr.size)
        low = enlarge(resize_video(high, self.low_size), self.ssr.size)
        top, left = (below(self.ssr.size - self.ssr.crop + 1) for _ in range(2))
        rows, columns = slice(top, top + self.ssr.crop), slice(left, left + self.ssr.crop)
        return high[0, :, :, rows, columns], low[0, :, :, rows, columns]

    def _loss(self, store: ClipStore, clips: list[int], generator: torch.Generator) -> Tensor:
        drawn = [self._draw(store, clip, generator) for clip in clips]
        x_0, low = (torch.stack([entry[i] for entry in drawn]) for i in range(2))
        most = round(self.ssr.max_noise_level * (self.objective.num_timesteps - 1))
        levels = torch.randint(most + 1, (len(x_0),), generator=generator)
        low = self.objective.add_noise(low, torch.randn(low.shape, generator=generator), levels)
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = self.objective.sample_timesteps(len(x_0), generator)
        sample = torch.cat([self.objective.add_noise(x_0, noise, timesteps), low], dim=1)
        if isinstance(self.network, SpaceTimeUNet):
            output = self.network(sample, timesteps, class_labels=levels).sample
        else:
            output = self.network(sample[:, :, 0], timesteps, None, class_labels=levels).sample.unsqueeze(2)
        return self.objective.loss(output, x_0, noise, timesteps)

    def loss(self, step: int) -> Tensor:
        """One batch's loss."""
        seed = self.config.seed
        clips = batch_indices(len(self.train_store), self.config.batch_size, step, seed)
        return self._loss(self.train_store, clips, generator_for(self.name, seed, 0, step))

    def validation_loss(self) -> float | None:
        """Mean loss over crops of held-out clips at fixed noise and timesteps; None without any."""
        if not len(self.validation_store):
            return None
        self.network.eval()
        clips = torch.linspace(0, len(self.validation_store) - 1, VALIDATION_CLIPS).round().int().tolist()
        loss = self._loss(self.validation_store, clips, generator_for(f"{self.name}-validation"))
        self.network.train()
        return float(loss)
