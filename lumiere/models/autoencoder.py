"""The autoencoder (VAE) of a latent text-to-image model: it turns pixels into latents and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL

from lumiere.models.diffusers_folders import load_network


def load_vae(folder: Path) -> AutoencoderKL | None:
    """Load the VAE in a folder, frozen and in float32; return None if the folder does not exist.

    Raises:
        ValueError: if the folder exists but no VAE can be read from it.
    """
    if not folder.is_dir():
        return None
    return load_network(folder, AutoencoderKL).eval().requires_grad_(False)


def vae_factor(vae: AutoencoderKL | None) -> int:
    """Return the side of a latent in pixels; 1 without a VAE, because latents are pixels then."""
    return 1 if vae is None else latent_factor(vae.config.block_out_channels)


def latent_factor(block_out_channels: Sequence[int]) -> int:
    """Return the side of a latent in pixels, from a VAE's widths: each block but the last halves
    the side.
    """
    return 2 ** (len(block_out_channels) - 1)
