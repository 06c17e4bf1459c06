"""The networks that ours is measured against, built on one and the same image model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

WIDTHS = (32, 64, 128)
TEXT_TOKENS, TEXT_WIDTH = 32, 384


def image_model() -> UNet2DConditionModel:
    """A text-to-image U-Net of 4.58M parameters for 32 x 32 pixels, with random weights."""
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
    """diffusers' AnimateDiff: a motion module, temporal attention, after every layer at every level."""
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
    """The image model as lumiere-pytorch calls it: a tensor comes back, and its mock call gives no text."""

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
    """lumiere-pytorch 0.0.24's own package around the same image model.

    As it stands it fails on every diffusers U-Net. Adapted here, and nowhere in its arithmetic: its hooks are not
    called for modules that get keyword arguments alone, of which the first positional one is missing; text is given
    by a wrapper, since its constructor calls the network without any; its temporal attention stands after the mid
    block's first ResNet, because the attention modules' outputs are no tensors.

    Raises:
        ImportError: when the package is not installed.
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
