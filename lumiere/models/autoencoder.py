"""The autoencoder (VAE) of a latent text-to-image model: between pixels and what its U-Net denoises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL

from lumiere.models.diffusers_folders import load_network


def load_vae(folder: Path) -> AutoencoderKL | None:
    """The VAE in a folder, frozen, in float32 from safetensors; None where there is no such folder.

    Raises:
        ValueError: where there is a folder that no VAE can be read from.
    """
    return (
        load_network(folder, AutoencoderKL).eval().requires_grad_(False)
        if folder.is_dir()
        else None
    )


def vae_factor(vae: AutoencoderKL | None) -> int:
    """How many pixels long a latent's side is; 1 without a VAE, where latents are pixels."""
    return 1 if vae is None else latent_factor(vae.config.block_out_channels)


def latent_factor(block_out_channels: Sequence[int]) -> int:
    """The same of a VAE's widths: each block but the last halves the side."""
    return 2 ** (len(block_out_channels) - 1)
