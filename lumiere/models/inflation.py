"""Walking a diffusers U-Net block by block, with temporal layers in between.

The forward pass of the image network is spelt out over diffusers' own modules (`resnets`, `attentions`,
`downsamplers`, `upsamplers`), so that a temporal layer can stand after each of them: no hooks, no hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


@dataclass
class Conditions:
    """What every layer of a forward pass is given: text per clip, the timestep's embedding per frame."""

    temb: Tensor  # (b, d), or (b t, d) at a level of t frames
    encoder_hidden_states: Tensor | None  # (b, n, d)
    encoder_attention_bias: Tensor | None  # (b, 1, n), added to attention scores
    checkpointing: bool = False

    def at(self, num_frames: int) -> Conditions:
        """The same for a level of `num_frames` frames; text stays as it is (`TextPerClip`)."""

        temb = self.temb.repeat_interleave(num_frames, dim=0)
        return Conditions(temb, self.encoder_hidden_states, self.encoder_attention_bias, self.checkpointing)


class TextPerClip:
    """Wraps an attention processor: text comes once per clip, (b, n, d), whatever the number of frames.

    Attention to text treats every query by itself, so all frames of a clip are queries of one call, and the text's keys
    and values are computed once instead of once per frame. Where pixels are keys as well (DeepFloyd IF), the text is
    repeated.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None or len(encoder_hidden_states) == len(hidden_states):
            return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        batch_size = len(encoder_hidden_states)
        num_frames = len(hidden_states) // batch_size
        if hidden_states.ndim == 3 and isinstance(self.processor, (AttnProcessor, AttnProcessor2_0)):
            folded = hidden_states.reshape(batch_size, -1, hidden_states.shape[-1])  # b (t h w) c
            output = self.processor(attn, folded, encoder_hidden_states, attention_mask, temb)
            return output.reshape(*hidden_states.shape[:2], -1)
        text = encoder_hidden_states.repeat_interleave(num_frames, dim=0)
        mask = None if attention_mask is None else attention_mask.repeat_interleave(num_frames, dim=0)
        return self.processor(attn, hidden_states, text, mask, temb)


def share_text(unet: nn.Module) -> None:
    """Let every attention of an image network take its text once per clip."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(TextPerClip(module.processor))


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
