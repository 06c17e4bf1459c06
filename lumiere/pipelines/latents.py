"""The space that the base network denoises in: the latents of a VAE, or pixels themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.diffusion.sampling import BatchSize


class LatentSpace:
    """Videos (b, 3, t, h, w) in [-1, 1] to latents (b, c, t, h / factor, w / factor) and back, some frames at a time.

    Without a VAE, latents are the pixels.
    """

    def __init__(self, vae: Any | None, frames_per_batch: int | None = 8) -> None:
        """`vae`: diffusers' AutoencoderKL, or None."""
        self.vae = vae
        self.frames_per_batch = frames_per_batch
        self.factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, video: Tensor) -> Tensor:
        """The mode of the latents' distribution, scaled as the network knows it; float32."""
        vae = self.vae
        if vae is None:
            return video
        shift, scale = _shift_and_scale(vae)
        latents = self._framewise(video, lambda frames: vae.encode(frames.to(vae.dtype)).latent_dist.mode())
        return (latents - shift) * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, clamped to [-1, 1]; float32."""
        vae = self.vae
        if vae is None:
            return latents.clamp(-1, 1)
        shift, scale = _shift_and_scale(vae)
        latents = latents / scale + shift
        return self._framewise(latents, lambda frames: vae.decode(frames.to(vae.dtype)).sample).clamp_(-1, 1)

    def condition(self, known: Tensor, known_mask: Tensor) -> tuple[Tensor, Tensor]:
        """C and M at the network's size: a latent is known where all of its pixels are."""
        if self.vae is None:
            return known, known_mask
        cell = (1, self.factor, self.factor)
        small = 1 - F.max_pool3d(1 - known_mask, cell)
        return self.encode(known) * small, small

    def _framewise(self, video: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` of the frames (n, c, h, w), not of all at once: (b, c, t, h, w) -> (b, c', t, h', w')."""
        frames = video.transpose(1, 2).flatten(0, 1)  # (b t) c h w
        made: list[Tensor] = []

        def run(first: int, end: int) -> None:
            made.append(function(frames[first:end]).float())

        BatchSize(self.frames_per_batch).split(len(frames), run)
        return torch.cat(made).unflatten(0, (video.shape[0], -1)).transpose(1, 2)


def _shift_and_scale(vae: Any) -> tuple[float, float]:
    return getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
