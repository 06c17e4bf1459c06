"""Small image networks that two CPU cores can train: the text-to-image model's and super-resolution's."""

from __future__ import annotations

import lumiere.compat  # noqa: F401  before diffusers

from diffusers import UNet2DConditionModel


def build_text_to_image_unet(
    size: int, block_out_channels: tuple[int, ...], layers_per_block: int, text_dim: int
) -> UNet2DConditionModel:
    """A small pixel-space UNet2DConditionModel.

    Text enters twice, as in DeepFloyd IF: by cross-attention below the finest level, and pooled by attention into the
    timestep embedding (`addition_embed_type="text"`), which modulates every ResNet by scale and shift.
    """
    inner = len(block_out_channels) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * inner),
        up_block_types=(*["CrossAttnUpBlock2D"] * inner, "UpBlock2D"),
        cross_attention_dim=text_dim,
        attention_head_dim=4,  # in diffusers this is the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=16,
    )


def build_ssr_unet(size: int, block_out_channels: tuple[int, ...], layers_per_block: int) -> UNet2DConditionModel:
    """A small image super-resolution UNet2DConditionModel: no text, six input channels, noise level as class label."""
    levels = len(block_out_channels)
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=6,
        out_channels=3,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type=None,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="timestep",
    )
