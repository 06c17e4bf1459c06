"""The space that the base network denoises in: the latents of a VAE, or pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.diffusion.memory import BatchSize
from lumiere.models.autoencoder import vae_factor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class LatentSpace:
    """Turns videos into latents and back, some frames at a time.

    Videos are (b, 3, t, h, w) in [-1, 1], latents (b, c, t, h / factor, w / factor). Without a VAE,
    the latents are the pixels. The VAE is frozen and gets no gradient. It computes in its own dtype
    even under autocast, because some VAEs overflow in float16.
    """

    def __init__(self, vae: AutoencoderKL | None, frames_per_batch: int | None = 8) -> None:
        """
        Args:
            vae: diffusers' AutoencoderKL; None for a network that works in pixels.
            frames_per_batch: frames that go through the VAE at once; None for all.
        """
        self.vae = vae
        self.frames_per_batch = frames_per_batch
        self.factor = vae_factor(vae)

    def on(self, device: torch.device) -> LatentSpace:
        """Move the VAE to a device; returns the space itself."""
        if self.vae is not None and self.vae.device != device:
            self.vae.to(device)
        return self

    def frame_size(
        self, height: int | None, width: int | None, sample_size: int | Sequence[int]
    ) -> tuple[int, int]:
        """Return the height and width of frames in pixels.

        Args:
            height, width: as requested by the user; None for the network's own size.
            sample_size: the network's size, in latents.

        Raises:
            ValueError: if they are not multiples of the VAE's factor.
        """
        if isinstance(sample_size, int):
            sample_size = (sample_size, sample_size)
        if height is None:
            height = sample_size[0] * self.factor
        if width is None:
            width = sample_size[1] * self.factor
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"height, width are {height}, {width}; allowed: multiples of {self.factor}"
            )
        return height, width

    def encode(self, video: Tensor) -> Tensor:
        """Encode pixels as the mode of the latents, scaled as the network expects them; float32.

        Training and generation both use the mode instead of a sample. Equal pixels then give equal
        latents, so C relates to x_0 in training as it does to a user's picture in generation, and
        encoding a clip needs no randomness. Little is lost, because a VAE trained with a KL weight
        of 1e-6 (Rombach et al. 2022) has a narrow distribution.

        Args:
            video: (b, 3, t, h, w) in [-1, 1].
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
        """Decode latents to pixels, clamped to [-1, 1]; float32."""
        vae = self.vae
        if vae is None:
            return latents.clamp(-1, 1)
        shift, scale = _shift_and_scale(vae)
        latents = latents / scale + shift
        return self._framewise(
            latents, lambda frames: vae.decode(frames.to(vae.dtype)).sample
        ).clamp_(-1, 1)

    def condition(self, known: Tensor, known_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return C and M at the network's size: a latent is known if all of its pixels are.

        Args:
            known: C in pixels (b, 3, t, h, w): the video, 0 where it is unknown, so that no latent
                reveals unknown pixels.
            known_mask: M in pixels (b, 1, t, h, w), 1 = known.
        """
        if self.vae is None:
            return known, known_mask
        cell = (1, self.factor, self.factor)
        small = 1 - F.max_pool3d(1 - known_mask, cell)
        shape = (len(known), self.vae.config.latent_channels, *small.shape[2:])
        latents = torch.zeros(shape, dtype=torch.float32, device=known.device)
        # Only frames with known pixels need the VAE; in image to video, that is a single frame.
        has_known = small.amax((1, 3, 4)) > 0  # (b, t)
        if has_known.any():
            frames = known.transpose(1, 2)[has_known]  # n c h w
            latents.transpose(1, 2)[has_known] = self.encode(frames.unsqueeze(2)).squeeze(2)
        return latents * small, small

    @torch.no_grad()
    def _framewise(self, video: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `function` to some frames (n, c, h, w) at a time: (b, c, t, h, w) -> (b, c', ...)."""
        frames = video.transpose(1, 2).flatten(0, 1)  # (b t) c h w
        outputs: list[Tensor] = []

        def run(first: int, end: int) -> None:
            outputs.append(function(frames[first:end]).float())

        with torch.autocast(frames.device.type, enabled=False):
            BatchSize(self.frames_per_batch).split(len(frames), run)
        return torch.cat(outputs).unflatten(0, (video.shape[0], -1)).transpose(1, 2)


class LatentShapes(LatentSpace):
    """A latent space that computes nothing; used when only shapes are needed."""

    def encode(self, video: Tensor) -> Tensor:
        """Return zeros of the shape that a VAE would give."""
        if self.vae is None:
            return video
        b, _, t, h, w = video.shape
        return video.new_zeros(
            b, self.vae.config.latent_channels, t, h // self.factor, w // self.factor
        )


def _shift_and_scale(vae: AutoencoderKL) -> tuple[float, float]:
    return getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
