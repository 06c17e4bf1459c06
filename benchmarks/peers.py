"""Builds the networks that ours is compared with, all on the same image model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

WIDTHS = (32, 64, 128)
TEXT_TOKENS, TEXT_WIDTH = 32, 384


def image_model() -> UNet2DConditionModel:
    """Build a text-to-image U-Net of 4.58M parameters for 32 x 32 pixels, with random weights."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


def animate_diff(unet2d: UNet2DConditionModel) -> UNetMotionModel:
    """Build diffusers' AnimateDiff, with a motion module (temporal attention) after every layer."""
    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=8,
        motion_max_seq_length=96,
    )
    return UNetMotionModel.from_unet2d(unet2d, adapter).eval()


class _PositionalUNet(nn.Module):
    """The image model as lumiere-pytorch calls it: returns a tensor, and takes calls without text."""

    def __init__(self, unet2d: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet2d
        self.sample_text = nn.Buffer(torch.zeros(1, TEXT_TOKENS, TEXT_WIDTH))

    def forward(
        self, images: Tensor, time: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        text = self.sample_text if text is None else text
        text = text.repeat_interleave(len(images) // len(text), dim=0)
        return self.unet(images, 500, text).sample


def lumiere_pytorch(unet2d: UNet2DConditionModel, size: int) -> nn.Module:
    """Build the network of the package lumiere-pytorch 0.0.24 around the same image model.

    As published, the package fails on every diffusers U-Net. Three adaptations make it run. They do
    not change its arithmetic:

    - Its hooks expect a positional argument, so they skip modules that are called with keyword
      arguments only.
    - Its constructor calls the network without text, so a wrapper supplies text.
    - Its temporal attention comes after the first ResNet of the mid block, because it expects
      tensors and the attention modules do not return any.

    Raises:
        ImportError: if the package is not installed.
    """
    from lumiere_pytorch import Lumiere

    register = nn.Module.register_forward_pre_hook

    def register_for_positional(module: nn.Module, hook: Any, **options: Any) -> Any:
        def guarded(owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return hook(owner, args, kwargs) if args else (args, kwargs)

        return register(module, guarded, **options)

    nn.Module.register_forward_pre_hook = register_for_positional  # type: ignore[method-assign, assignment]
    try:
        return Lumiere(
            _PositionalUNet(unet2d),
            image_size=size,
            unet_time_kwarg="time",
            conv_module_names=[
                "unet.down_blocks.0.resnets.0",
                "unet.down_blocks.1.resnets.0",
                "unet.up_blocks.1.resnets.1",
                "unet.up_blocks.2.resnets.1",
            ],
            attn_module_names=["unet.mid_block.resnets.0"],
            downsample_module_names=[
                "unet.down_blocks.0.downsamplers.0",
                "unet.down_blocks.1.downsamplers.0",
            ],
            upsample_module_names=[
                "unet.up_blocks.0.upsamplers.0",
                "unet.up_blocks.1.upsamplers.0",
            ],
            attn_inflation_kwargs={"depth": 3},
        )
    finally:
        nn.Module.register_forward_pre_hook = register  # type: ignore[method-assign]
