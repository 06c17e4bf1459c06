"""Training of spatial super-resolution: an image network, then its inflation on short windows (paper, section 3.2).

The network sees <x_t, low>: the noisy high-resolution frames and the low-resolution ones, enlarged and noised a little
(noise augmentation, Ho et al. 2021), with the noise's timestep as class label, so that it forgives what the base model
gets wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumiere.config import OptimConfig, TrainSSRConfig
from lumiere.data.clips import ClipStore, resize_video, to_model_range
from lumiere.models import SpaceTimeUNet
from lumiere.training.task import DiffusionTask


class SuperResolutionTask(DiffusionTask[ClipStore]):
    """An image network (`window_size` 1) or an inflated one, on crops of clips."""

    validation_clips = 8

    def __init__(
        self,
        name: str,
        network: Any,
        scheduler: Any,
        stores: tuple[ClipStore, ClipStore],
        window_size: int,
        ssr: TrainSSRConfig,
        config: OptimConfig,
    ) -> None:
        """
        Args:
            name, network, scheduler, config: as in `DiffusionTask`.
            stores: training and validation clips.
            window_size: frames that a step sees.
            ssr: sizes, crop and noise augmentation.
        """
        super().__init__(name, network, scheduler, *stores, config)
        self.ssr, self.window_size = ssr, window_size

    def _draw(self, store: ClipStore, clip: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A crop of a window, high (3, t, h, w) and enlarged low resolution of the same."""

        def below(bound: int) -> int:
            return int(torch.randint(bound, (), generator=generator))

        start = below(store.num_frames - self.window_size + 1)
        frames = to_model_range(store[clip].frames[start : start + self.window_size]).unsqueeze(0)
        high = resize_video(frames, self.ssr.size)
        low = resize_video(resize_video(high, self.ssr.low_size), self.ssr.size)
        top, left = (below(self.ssr.size - self.ssr.crop + 1) for _ in range(2))
        rows, columns = slice(top, top + self.ssr.crop), slice(left, left + self.ssr.crop)
        return high[0, :, :, rows, columns], low[0, :, :, rows, columns]

    def batch_loss(self, data: ClipStore, clips: list[int], generator: torch.Generator, text_dropout: float) -> Tensor:
        """The loss of a crop of a window of each of b clips; there is no text."""
        drawn = [self._draw(data, clip, generator) for clip in clips]
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
