"""Tiny random networks that take what the real ones take."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

import lumiere.text
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from lumiere.text import TextEncoder
from tests.copies import copy_network

SIZE, LARGE = 16, 32


class WordHashEncoder(TextEncoder):
    """Every word is a fixed random vector."""

    name = "word-hash"
    embed_dim = 8

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        states = torch.zeros(len(texts), self.max_tokens, self.embed_dim)
        mask = torch.zeros(len(texts), self.max_tokens, dtype=torch.int64)
        for i, text in enumerate(texts):
            for j, word in enumerate(["<s>", *text.split()][: self.max_tokens]):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                states[i, j] = torch.randn(
                    self.embed_dim, generator=torch.Generator().manual_seed(seed)
                )
                mask[i, j] = 1
        return states, mask


def text_to_image_unet(text_dim: int = WordHashEncoder.embed_dim) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_dim, attention_head_dim=2, norm_num_groups=4,
        addition_embed_type="text", addition_embed_type_num_heads=2,
    )  # fmt: skip


def ssr_unet() -> SpaceTimeUNet:
    unet2d = UNet2DConditionModel(
        sample_size=LARGE, in_channels=6, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None,
        norm_num_groups=4, class_embed_type="timestep",
    )  # fmt: skip
    return shaken(SpaceTimeUNet.from_unet2d(unet2d, temporal_resampling=False))


def shaken(unet: SpaceTimeUNet) -> SpaceTimeUNet:
    """With temporal weights, zero at the start, that do something."""
    with torch.no_grad():
        for parameter in unet.temporal_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return unet.eval()


@pytest.fixture(autouse=True)
def known_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's encoder is loadable by name, as a real one is."""
    monkeypatch.setitem(lumiere.text.ENCODERS, WordHashEncoder.name, WordHashEncoder)


@cache
def networks() -> tuple[SpaceTimeUNet, SpaceTimeUNet, Tensor]:
    """Make the networks of `pipe`, and the state of torch's random numbers after it."""
    torch.manual_seed(0)
    unet = shaken(
        SpaceTimeUNet.from_unet2d(
            text_to_image_unet(), conditioning_channels=4, temporal_head_dim=8
        )
    )
    return unet, ssr_unet(), torch.get_rng_state()


@cache
def base_network() -> tuple[SpaceTimeUNet, Tensor]:
    """Make the network of `base_only`, and the state of torch's random numbers after it."""
    torch.manual_seed(0)
    unet = shaken(SpaceTimeUNet.from_unet2d(text_to_image_unet(), temporal_head_dim=8))
    return unet, torch.get_rng_state()


@pytest.fixture
def pipe() -> LumierePipeline:
    """Conditioned base model of 16 pixels with super-resolution to 32.

    Its networks are copies, which take half the time of new ones.
    """
    unet, ssr, random_state = networks()
    pipe = LumierePipeline(
        copy_network(unet),
        make_scheduler(),
        WordHashEncoder(max_tokens=6),
        copy_network(ssr),
        make_scheduler(),
        num_frames=5,
        ssr_window_size=4,
    )
    pipe.set_progress_bar_config(disable=True)
    torch.set_rng_state(random_state)
    return pipe


@pytest.fixture
def base_only() -> LumierePipeline:
    """Without conditioning channels and without super-resolution."""
    unet, random_state = base_network()
    pipe = LumierePipeline(
        copy_network(unet), make_scheduler(), WordHashEncoder(max_tokens=6), num_frames=5
    )
    pipe.set_progress_bar_config(disable=True)
    torch.set_rng_state(random_state)
    return pipe
