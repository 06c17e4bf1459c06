"""Tiny networks of the shapes that published text-to-image models have, and what each is called
with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from lumiere.models.unet_builders import build_text_to_image_unet
from tests.copies import copy_network

TEXT_TOKENS, TEXT_DIM = 5, 32

TINY: dict[str, Any] = {"sample_size": 8, "norm_num_groups": 8, "attention_head_dim": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_DIM,
    },
    "sd2": {
        "block_out_channels": (16, 32),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_DIM,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": TEXT_DIM,
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 12,
    },
    "if_stage_1": {
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "down_block_types": (
            "ResnetDownsampleBlock2D",
            "SimpleCrossAttnDownBlock2D",
            "SimpleCrossAttnDownBlock2D",
        ),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": (
            "SimpleCrossAttnUpBlock2D",
            "SimpleCrossAttnUpBlock2D",
            "ResnetUpsampleBlock2D",
        ),
        "cross_attention_dim": 32,
        "encoder_hid_dim": TEXT_DIM,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.4,
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "conv_in_kernel": 3,
    },
    "if_stage_2": {
        "in_channels": 6,
        "out_channels": 6,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 32,
        "encoder_hid_dim": TEXT_DIM,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "class_embed_type": "timestep",
        "mid_block_only_cross_attention": True,
        "only_cross_attention": (False, True),
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
    },
    "sd_inpainting": {
        "in_channels": 9,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_DIM,
    },
    "class_labels": {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_DIM,
        "num_class_embeds": 7,
        "class_embeddings_concat": True,
        "center_input_sample": True,
    },
    "without_text": {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "without_mid_block": {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_DIM,
    },
    "one_level": {
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "cross_attention_dim": TEXT_DIM,
    },
}
NAMES = [*CONFIGS, "ours"]
# Image networks that fail on odd sizes themselves.
NEED_WHOLE_HALVINGS = (
    "if_stage_1",
    "if_stage_2",
    "without_text",
)


def make_unet2d(name: str, seed: int = 0) -> UNet2DConditionModel:
    """A network with random weights, in evaluation mode."""
    return copy_network(_unet2d(name, seed))


@cache
def _unet2d(name: str, seed: int) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "ours":
            return build_text_to_image_unet(8, (16, 32, 32), 1, TEXT_DIM).eval()  # type: ignore[return-value]
        return UNet2DConditionModel(**{**TINY, **CONFIGS[name]}).eval()


def make_inputs(
    unet2d: UNet2DConditionModel, batch_size: int = 2, size: tuple[int, int] = (8, 8), seed: int = 1
) -> tuple[Tensor, dict[str, Any]]:
    """A random image (b, c, h, w), and the other arguments; text and mask differ from clip to clip."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    config = unet2d.config
    given: dict[str, Any] = {
        "timestep": torch.tensor([11, 730])[:batch_size],
        "encoder_hidden_states": None,
    }
    if config.mid_block_type != "UNetMidBlock2D":
        given["encoder_hidden_states"] = normal(batch_size, TEXT_TOKENS, TEXT_DIM)
    if given["encoder_hidden_states"] is not None and not config.mid_block_only_cross_attention:
        # diffusers' own attention over text alone takes no mask.
        mask = torch.ones(batch_size, TEXT_TOKENS, dtype=torch.int64)
        mask[-1, 2:] = 0
        given["encoder_attention_mask"] = mask
    if config.addition_embed_type == "text_time":
        time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64], [32.0, 64, 8, 0, 64, 64]])[:batch_size]
        given["added_cond_kwargs"] = {"text_embeds": normal(batch_size, 12), "time_ids": time_ids}
    if config.class_embed_type == "timestep":
        given["class_labels"] = torch.tensor([50, 200])[:batch_size]
    if config.num_class_embeds:
        given["class_labels"] = torch.tensor([3, 5])[:batch_size]
    return normal(batch_size, config.in_channels, *size), given


def as_video(image: Tensor, num_frames: int) -> Tensor:
    """(b, c, h, w) repeated to (b, c, t, h, w)."""
    return image.unsqueeze(2).repeat(1, 1, num_frames, 1, 1)


@torch.no_grad()
def randomise_temporal(model: Any, seed: int = 2, scale: float = 0.1) -> None:
    """Move every temporal weight, the zero projections above all."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.temporal_parameters():
        parameter.add_(
            scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        )


def inflate(
    name: str = "ours", **settings: Any
) -> tuple[SpaceTimeUNet, Any, Tensor, dict[str, Any]]:
    """A network, its image model, one random image per clip, and the other arguments."""
    unet2d = make_unet2d(name)
    image, given = make_inputs(unet2d)
    return SpaceTimeUNet.from_unet2d(unet2d, **settings), unet2d, image, given


@cache
def shared(
    name: str = "ours", moved: bool = False, **settings: Any
) -> tuple[SpaceTimeUNet, Any, Tensor, dict[str, Any]]:
    """As `inflate`, built once for all the tests that change nothing; `moved`: with random temporal
    weights.
    """
    found = inflate(name, **settings)
    if moved:
        randomise_temporal(found[0])
    return found


def random_video(image: Tensor, num_frames: int, extra_channels: int = 0) -> Tensor:
    """(b, c + extra_channels, t, h, w), of the size of an image (b, c, h, w)."""
    batch_size, channels, height, width = image.shape
    generator = torch.Generator().manual_seed(5)
    return torch.randn(
        batch_size, channels + extra_channels, num_frames, height, width, generator=generator
    )
