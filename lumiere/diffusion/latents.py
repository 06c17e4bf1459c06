"""The space that the base network denoises in: the latents of a VAE, or pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.diffusion.memory import BatchSize
from lumiere.models.autoencoder import vae_factor


class LatentSpace:
    """Videos (b, 3, t, h, w) in [-1, 1] to latents (b, c, t, h / factor, w / factor) and back, some frames at a time.

    Without a VAE, latents are the pixels. A VAE is frozen: no gradient goes through it. It computes in its own dtype
    under autocast too, since some overflow in float16.
    """

    def __init__(self, vae: Any | None, frames_per_batch: int | None = 8) -> None:
        """`vae`: diffusers' AutoencoderKL, or None."""
        self.vae = vae
        self.frames_per_batch = frames_per_batch
        self.factor = vae_factor(vae)

    def on(self, device: torch.device) -> LatentSpace:
        """Itself, with its VAE on a device."""
        if self.vae is not None and self.vae.device != device:
            self.vae.to(device)
        return self

    def frame_size(
        self, height: int | None, width: int | None, sample_size: int | Sequence[int]
    ) -> tuple[int, int]:
        """Height and width of frames in pixels, by default those of a network of `sample_size`.

        Raises:
            ValueError: where they are not whole latents.
        """
        own_height, own_width = (
            (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        )
        size = (
            own_height * self.factor if height is None else height,
            own_width * self.factor if width is None else width,
        )
        if size[0] % self.factor or size[1] % self.factor:
            raise ValueError(
                f"height, width are {size[0]}, {size[1]}; allowed: multiples of {self.factor}"
            )
        return size

    def encode(self, video: Tensor) -> Tensor:
        """The mode of the latents' distribution, scaled as the network knows it; float32.

        The mode, not a sample, in training as in generation: equal pixels are equal latents, so that C tells of x_0
        what it will tell of a given picture, and a clip needs no randomness of its own. Little is lost: trained with a
        KL weight of 1e-6 (Rombach et al. 2022), the distribution is narrow.
        """
        vae = self.vae
        if vae is None:
            return video
        shift, scale = _shift_and_scale(vae)
        latents = self._framewise(
            video, lambda frames: vae.encode(frames.to(vae.dtype)).latent_dist.mode()
        )
        return (latents - shift) * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, clamped to [-1, 1]; float32."""
        vae = self.vae
        if vae is None:
            return latents.clamp(-1, 1)
        shift, scale = _shift_and_scale(vae)
        latents = latents / scale + shift
        return self._framewise(
            latents, lambda frames: vae.decode(frames.to(vae.dtype)).sample
        ).clamp_(-1, 1)

    def condition(self, known: Tensor, known_mask: Tensor) -> tuple[Tensor, Tensor]:
        """C and M at the network's size: a latent is known where all of its pixels are.

        Args:
            known: the video with what is not known of it at 0, so that no latent tells of it.
            known_mask: M (b, 1, t, h, w), 1 = known.
        """
        if self.vae is None:
            return known, known_mask
        cell = (1, self.factor, self.factor)
        small = 1 - F.max_pool3d(1 - known_mask, cell)
        latents = torch.zeros(
            len(known), self.vae.config.latent_channels, *small.shape[2:], device=known.device
        )
        told = (
            small.amax((1, 3, 4)) > 0
        )  # (b, t): other frames, most of them for a picture, need no VAE
        if told.any():
            frames = known.transpose(1, 2)[told]  # n c h w
            latents.transpose(1, 2)[told] = self.encode(frames.unsqueeze(2)).squeeze(2)
        return latents * small, small

    @torch.no_grad()
    def _framewise(self, video: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` of the frames (n, c, h, w), not of all at once: (b, c, t, h, w) -> (b, c', t, h', w')."""
        frames = video.transpose(1, 2).flatten(0, 1)  # (b t) c h w
        made: list[Tensor] = []

        def run(first: int, end: int) -> None:
            made.append(function(frames[first:end]).float())

        with torch.autocast(frames.device.type, enabled=False):
            BatchSize(self.frames_per_batch).split(len(frames), run)
        return torch.cat(made).unflatten(0, (video.shape[0], -1)).transpose(1, 2)


class LatentShapes(LatentSpace):
    """A latent space that computes nothing, for who asks for the shapes alone."""

    def encode(self, video: Tensor) -> Tensor:
        """Zeros."""
        if self.vae is None:
            return video
        b, _, t, h, w = video.shape
        return video.new_zeros(
            b, self.vae.config.latent_channels, t, h // self.factor, w // self.factor
        )


def _shift_and_scale(vae: Any) -> tuple[float, float]:
    return getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
