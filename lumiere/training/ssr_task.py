"""Trains spatial super-resolution: an image network, then its inflation on short windows (paper,
section 3.2).

The network sees <x_t, low>: the noisy high-resolution frames and the low-resolution ones, enlarged
and noised a little (noise augmentation, Ho et al. 2021), with that noise's timestep as the class
label. The added noise makes it tolerate the base model's errors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from lumiere.config import TrainSSRConfig
from lumiere.data.clips import resize_video
from lumiere.data.pixel_values import bytes_to_model
from lumiere.diffusion.noise import draw_noise
from lumiere.training.diffusion_task import (
    Batch,
    DiffusionTask,
    NetworkInput,
    NoisedBatch,
    is_inflated,
)
from lumiere.training.examples import StoredClips
from lumiere.training.seeding import draw_below


@dataclass(eq=False, repr=False)
class SuperResolutionTask(DiffusionTask[StoredClips]):
    """Trains an image network, or an inflated one, on crops from short windows of clips.

    Attributes:
        ssr: sizes, crop and noise augmentation.
        window_size: the number of frames in a training window; 1 for an image network.
    """

    ssr: TrainSSRConfig = field(kw_only=True)
    window_size: int = field(kw_only=True)

    validation_clips = 8

    def draw(
        self,
        data: StoredClips,
        clip: int,
        generator: torch.Generator,
        training: bool,
        one_frame: bool,
    ) -> Batch:
        """Draw a crop of a window in high and low resolution.

        Returns: `high` and `low`, enlarged to the same size, float32 (3, t, h, w) in [-1, 1];
            `low_noise` of their shape; `levels`, the timestep to which `low` is noised.
        """

        below = functools.partial(draw_below, generator)
        crop = self.ssr.crop
        start = below(data.num_frames - self.window_size + 1)
        high = bytes_to_model(data.video(clip, slice(start, start + self.window_size))).unsqueeze(0)
        height, width = high.shape[-2:]
        factor = Fraction(self.ssr.low_size, self.ssr.size)
        low_size = int(height * factor), int(width * factor)
        low = resize_video(resize_video(high, low_size), (height, width))
        top = below(height - crop + 1)
        left = below(width - crop + 1)
        high = high[0, :, :, top : top + crop, left : left + crop]
        low = low[0, :, :, top : top + crop, left : left + crop]
        highest_level = round(self.ssr.max_noise_level * (self.objective.num_timesteps - 1))
        level = torch.tensor(below(highest_level + 1))
        shape = (1, *low.shape)
        low_noise = draw_noise(shape, [generator], low.device, self.noise_correlation)[0]
        return {"high": high, "low": low, "low_noise": low_noise, "levels": level}

    def noised(self, batch: Batch) -> NoisedBatch:
        """Return <x_t, low> without text; the class label is the timestep to which `low` is noised."""
        x_0, timesteps, levels = batch["high"], batch["timesteps"], batch["levels"]
        low = self.objective.add_noise(batch["low"], batch["low_noise"], levels)
        noise = self.draw_noise(batch, x_0)
        x_t = self.objective.add_noise(x_0, noise, timesteps)
        if not is_inflated(self.network):
            x_t, low, x_0, noise = (video[:, :, 0] for video in (x_t, low, x_0, noise))
        inputs = NetworkInput(x_t, timesteps, conditioning=low, class_labels=levels)
        return NoisedBatch(inputs, x_0, noise)
