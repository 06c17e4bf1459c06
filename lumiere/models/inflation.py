"""Walking a diffusers U-Net block by block, with temporal layers in between.

The forward pass of the image network is spelt out over diffusers' own modules (`resnets`, `attentions`,
`downsamplers`, `upsamplers`), so that a temporal layer can stand after each of them: no hooks, no hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


@dataclass
class Conditions:
    """What every layer of a forward pass is given: per clip, repeated to a level's frame count on demand."""

    temb: Tensor  # (b, d)
    encoder_hidden_states: Tensor | None  # (b, n, d)
    encoder_attention_bias: Tensor | None  # (b, 1, n), added to attention scores
    checkpointing: bool = False

    def at(self, num_frames: int) -> Conditions:
        """The same, each clip's entry repeated once per frame: (b t, ...)."""

        def repeat(entry: Tensor | None) -> Tensor | None:
            return None if entry is None else entry.repeat_interleave(num_frames, dim=0)

        return Conditions(
            self.temb.repeat_interleave(num_frames, dim=0),
            repeat(self.encoder_hidden_states),
            repeat(self.encoder_attention_bias),
            self.checkpointing,
        )


def check_supported(unet: Any) -> None:
    """Raise ValueError for the few U-Nets whose layers cannot be told from their blocks' lists.

    K-diffusion blocks have one skip per block; a hint and an image prompt (ControlNet, IP-Adapter) are second inputs.
    """
    kinds = {type(block).__name__ for block in [*unet.down_blocks, *unet.up_blocks]}
    odd = sorted(kind for kind in kinds if kind.startswith("K"))
    if odd:
        raise ValueError(f"unet2d has {odd[0]}; K-diffusion blocks cannot be inflated")
    if unet.config.addition_embed_type == "image_hint":
        raise ValueError("unet2d has addition_embed_type 'image_hint'; a network that takes a hint cannot be inflated")
    if unet.config.encoder_hid_dim_type == "ip_image_proj":
        raise ValueError("unet2d has an IP-Adapter; unload it before inflation")


def run_pair(resnet: nn.Module, attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions) -> Tensor:
    """One (resnet, attention) pair of a block, recomputed in the backward pass where checkpointing is on."""

    def pair(states: Tensor) -> Tensor:
        return run_attention(attention, resnet(states, conditions.temb), conditions)

    if conditions.checkpointing and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(pair, hidden_states, use_reentrant=False)
    return pair(hidden_states)


def run_attention(attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions) -> Tensor:
    """Any of the spatial attentions that diffusers puts into a U-Net block."""
    if attention is None:
        return hidden_states
    if isinstance(attention, Attention):
        if attention.is_cross_attention or attention.added_kv_proj_dim is not None:
            # "Simple" blocks (DeepFloyd IF): attention over pixels and text at once.
            return attention(
                hidden_states,
                encoder_hidden_states=conditions.encoder_hidden_states,
                attention_mask=conditions.encoder_attention_bias,
            )
        return attention(hidden_states)
    return attention(
        hidden_states,
        encoder_hidden_states=conditions.encoder_hidden_states,
        encoder_attention_mask=conditions.encoder_attention_bias,
        return_dict=False,
    )[0]


def attentions_of(block: nn.Module) -> list[Any]:
    """A block's attentions, one per resnet (the mid block has one resnet more)."""
    return list(getattr(block, "attentions", None) or [None] * len(block.resnets))  # type: ignore[arg-type]


def run_downsampler(downsampler: nn.Module, hidden_states: Tensor, conditions: Conditions) -> Tensor:
    """A plain or a ResNet downsampler."""
    if isinstance(downsampler, ResnetBlock2D):
        return downsampler(hidden_states, conditions.temb)
    return downsampler(hidden_states)


def run_upsampler(
    upsampler: nn.Module, hidden_states: Tensor, conditions: Conditions, size: torch.Size | None
) -> Tensor:
    """A plain or a ResNet upsampler; `size` is given where halving does not come out even."""
    if isinstance(upsampler, ResnetBlock2D):
        return upsampler(hidden_states, conditions.temb)
    return upsampler(hidden_states, size)


def out_channels_of(block: nn.Module) -> int:
    """The width at which a block leaves its last resnet."""
    return int(block.resnets[-1].out_channels)  # type: ignore[index,union-attr]
