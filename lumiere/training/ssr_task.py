"""Training of spatial super-resolution: an image network, then its inflation on short windows (paper, section 3.2).

The network sees <x_t, low>: the noisy high-resolution frames and the low-resolution ones, enlarged and noised a little
(noise augmentation, Ho et al. 2021), with the noise's timestep as class label, so that it forgives what the base model
gets wrong.
"""

from __future__ import annotations

from typing import Any

import torch

from lumiere.config import OptimConfig, TrainSSRConfig
from lumiere.data.clips import resize_video
from lumiere.data.pixel_values import bytes_to_model
from lumiere.training.diffusion_task import Batch, DiffusionTask, NetworkCall, is_inflated
from lumiere.training.examples import StoredClips


class SuperResolutionTask(DiffusionTask[StoredClips]):
    """An image network (`window_size` 1) or an inflated one, on crops of clips."""

    validation_clips = 8

    def __init__(
        self,
        name: str,
        network: Any,
        scheduler: Any,
        train_data: StoredClips,
        validation_data: StoredClips,
        window_size: int,
        ssr: TrainSSRConfig,
        config: OptimConfig,
    ) -> None:
        """
        Args:
            name, network, scheduler, train_data, validation_data, config: as in `DiffusionTask`.
            window_size: frames that a step sees.
            ssr: sizes, crop and noise augmentation.
        """
        super().__init__(name, network, scheduler, train_data, validation_data, config)
        self.ssr, self.window_size = ssr, window_size

    def draw(
        self,
        data: StoredClips,
        clip: int,
        generator: torch.Generator,
        training: bool,
        one_frame: bool,
    ) -> Batch:
        """A crop of a window, `high` and enlarged `low` resolution of the same, float32 (3, t, h, w) in [-1, 1]."""

        def below(bound: int) -> int:
            return int(torch.randint(bound, (), generator=generator))

        start = below(data.num_frames - self.window_size + 1)
        high = bytes_to_model(data.video(clip, slice(start, start + self.window_size))).unsqueeze(0)
        low = resize_video(resize_video(high, self.ssr.low_size), self.ssr.size)
        top, left = (below(self.ssr.size - self.ssr.crop + 1) for _ in range(2))
        rows, columns = slice(top, top + self.ssr.crop), slice(left, left + self.ssr.crop)
        most = round(self.ssr.max_noise_level * (self.objective.num_timesteps - 1))
        level = torch.tensor(below(most + 1))
        low_noise = torch.randn(low[0, :, :, rows, columns].shape, generator=generator)
        return {
            "high": high[0, :, :, rows, columns],
            "low": low[0, :, :, rows, columns],
            "low_noise": low_noise,
            "levels": level,
        }

    def call(self, batch: Batch) -> NetworkCall:
        """<x_t, low>, the low resolution noised to its level, which is the class label; there is no text."""
        x_0, timesteps, levels = batch["high"], batch["timesteps"], batch["levels"]
        low = self.objective.add_noise(batch["low"], batch["low_noise"], levels)
        noise = self.noise_for(batch, x_0)
        sample = torch.cat([self.objective.add_noise(x_0, noise, timesteps), low], dim=1)
        if is_inflated(self.network):
            return NetworkCall((sample, timesteps), {"class_labels": levels}, x_0, noise, timesteps)
        image, noise = x_0[:, :, 0], noise[:, :, 0]
        return NetworkCall(
            (sample[:, :, 0], timesteps, None), {"class_labels": levels}, image, noise, timesteps
        )
