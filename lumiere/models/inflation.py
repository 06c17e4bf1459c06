"""Runs the blocks of a diffusers U-Net with temporal layers in between.

The forward pass is written out over diffusers' own modules (`resnets`, `attentions`,
`downsamplers`, `upsamplers`), so that a temporal layer can follow each of them without hooks and
without hidden state.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from lumiere.models.blocks import BlockLayers
from lumiere.models.conditions import Conditions
from lumiere.models.lean import LeanConv2d, LeanGroupNorm, LeanResnet, LeanTransformer, attend


class TextPerClip(Attention):
    """An image network's attention, changed to take text once per clip, (b, n, d), for any number
    of frames.

    Attention to text treats each query independently. So one call can take the queries of all
    frames of a clip, and it computes the keys and values of the text once instead of once per
    frame. The text is still repeated for each frame if pixels are keys as well (DeepFloyd IF), or
    if the processor is not one of diffusers' plain ones. Users may still set any processor.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend to the text, or to the pixels themselves if there is none.

        Args:
            hidden_states: ((b t), n, c), or ((b t), c, h, w) in DeepFloyd IF.
            encoder_hidden_states: the text, (b, n, d) once per clip or ((b t), n, d) per frame; None
                for self-attention.
            attention_mask: of the text, as diffusers adds it to the scores, with b or (b t) rows.
            **kwargs: passed on to the attention's processor.

        Returns:
            Features of the shape of `hidden_states`.
        """
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # len() would fix the sizes for torch.compile.
        batch_size, per_frame = text.shape[0], text.shape[0] == hidden_states.shape[0]
        kind = type(self.processor) if hidden_states.ndim == 3 and self.group_norm is None else None
        if kind in (AttnProcessor, AttnProcessor2_0) and not per_frame:
            folded = hidden_states.reshape(batch_size, -1, hidden_states.shape[-1])  # b (t h w) c
            return self(folded, text, attention_mask, **kwargs).reshape(
                *hidden_states.shape[:2], -1
            )
        if kind is AttnProcessor2_0 and self._is_plain() and not kwargs:
            return self._attend(hidden_states, text, attention_mask)
        if per_frame:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        num_frames = hidden_states.shape[0] // batch_size
        text = text.repeat_interleave(num_frames, dim=0)
        mask = (
            None if attention_mask is None else attention_mask.repeat_interleave(num_frames, dim=0)
        )
        return super().forward(hidden_states, text, mask, **kwargs)

    def _is_plain(self) -> bool:
        extras = (self.spatial_norm, self.norm_q, self.norm_k, self.norm_cross)
        scaled = self.residual_connection or self.rescale_output_factor != 1 or not self.scale_qk
        return all(extra is None for extra in extras) and not scaled

    def _attend(self, hidden_states: Tensor, text: Tensor, bias: Tensor | None) -> Tensor:
        """Attend as diffusers' own processor does on (b, l, c), with `attend`."""
        query, key, value = self.to_q(hidden_states), self.to_k(text), self.to_v(text)
        query, key, value = (
            states.unflatten(2, (self.heads, -1)) for states in (query, key, value)
        )
        return self.to_out[1](self.to_out[0](attend(query, key, value, bias).flatten(2)))


LEAN: dict[type[nn.Module], type[nn.Module]] = {
    Attention: TextPerClip,
    ResnetBlock2D: LeanResnet,
    Transformer2DModel: LeanTransformer,
    nn.Conv2d: LeanConv2d,
    nn.GroupNorm: LeanGroupNorm,
}


def make_lean(unet: nn.Module) -> None:
    """Replace the classes of an image network's layers by the lean ones of this package. Weights
    and their names do not change.
    """
    for module in unet.modules():
        module.__class__ = LEAN.get(type(module), type(module))


def check_supported(unet: UNet2DConditionModel) -> None:
    """Raise ValueError for the few U-Nets that cannot be inflated.

    K-diffusion blocks have one skip per block. ControlNet hints and IP-Adapter image prompts are
    second inputs.
    """
    kinds = {type(block).__name__ for block in [*unet.down_blocks, *unet.up_blocks]}
    odd = sorted(kind for kind in kinds if kind.startswith("K"))
    if odd:
        raise ValueError(f"unet2d has {odd[0]}; K-diffusion blocks cannot be inflated")
    if unet.config.addition_embed_type == "image_hint":
        raise ValueError(
            "unet2d has addition_embed_type 'image_hint'; a network that takes a hint cannot be inflated"
        )
    if unet.config.encoder_hid_dim_type == "ip_image_proj":
        raise ValueError("unet2d has an IP-Adapter; unload it before inflation")


def run_down_block(
    block: BlockLayers, hidden_states: Tensor, here: Conditions
) -> tuple[Tensor, list[Tensor], Conditions]:
    """Run a down block. The second result is its skips for the up path; the third is the conditions
    of the next level.
    """
    skips = []
    last = len(block.resnets) - 1
    for index, (resnet, attention) in enumerate(zip(block.resnets, block.attentions, strict=True)):
        hidden_states = run_pair(resnet, attention, hidden_states, here)
        if index == last:
            hidden_states = run_inflation(block.inflation, hidden_states, here)
        skips.append(hidden_states)
    if not block.resamplers:
        return hidden_states, skips, here
    for downsampler in block.resamplers:
        hidden_states = run_downsampler(downsampler, hidden_states, here)
    if block.temporal_resampler is not None:
        hidden_states = block.temporal_resampler(hidden_states, here.num_frames)
        here = here.at((here.num_frames + 1) // 2)
    skips.append(hidden_states)
    return hidden_states, skips, here


def run_mid_block(block: BlockLayers, hidden_states: Tensor, here: Conditions) -> Tensor:
    """Run the mid block, which begins and ends with a resnet."""
    hidden_states = block.resnets[0](hidden_states, here.frame_temb)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=False):
        hidden_states = run_attention(attention, hidden_states, here)
        hidden_states = run_pair(resnet, None, hidden_states, here)
    return run_inflation(block.inflation, hidden_states, here)


def run_up_block(
    block: BlockLayers,
    hidden_states: Tensor,
    skips: list[Tensor],
    here: Conditions,
    force_size: bool,
) -> tuple[Tensor, Conditions]:
    """Run an up block, which removes its skips from the end of the list.

    The next skip sets the frame count to upsample to and, with `force_size`, the height and width.
    """
    for resnet, attention in zip(block.resnets, block.attentions, strict=True):
        skip = skips.pop()
        if block.freeu is not None:
            hidden_states, skip = block.freeu.weigh(hidden_states, skip)
        joined = torch.cat([hidden_states, skip], dim=1)
        hidden_states = run_pair(resnet, attention, joined, here)
    hidden_states = run_inflation(block.inflation, hidden_states, here)
    if not block.resamplers:
        return hidden_states, here
    size = skips[-1].shape[-2:] if force_size else None
    for upsampler in block.resamplers:
        hidden_states = run_upsampler(upsampler, hidden_states, here, size)
    if block.temporal_resampler is not None:
        target_frames = skips[-1].shape[0] // here.temb.shape[0]
        hidden_states = block.temporal_resampler(hidden_states, here.num_frames, target_frames)
        here = here.at(target_frames)
    return hidden_states, here


def run_inflation(block: nn.Module | None, hidden_states: Tensor, here: Conditions) -> Tensor:
    """Run a temporal block; with checkpointing, it is recomputed in the backward pass."""
    if block is None:
        return hidden_states
    if here.checkpointing and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(
            block, hidden_states, here.num_frames, use_reentrant=False
        )
    return block(hidden_states, here.num_frames)


def run_pair(
    resnet: nn.Module, attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
    """Run one (resnet, attention) pair; with checkpointing, it is recomputed in the backward
    pass.
    """

    def pair(states: Tensor) -> Tensor:
        return run_attention(attention, resnet(states, conditions.frame_temb), conditions)

    if conditions.checkpointing and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(pair, hidden_states, use_reentrant=False)
    return pair(hidden_states)


def run_attention(
    attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
    """Run any of the spatial attentions that diffusers puts into a U-Net block."""
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


def run_downsampler(
    downsampler: nn.Module, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
    """Run a plain or a ResNet downsampler."""
    if isinstance(downsampler, ResnetBlock2D):
        return downsampler(hidden_states, conditions.frame_temb)
    return downsampler(hidden_states)


def run_upsampler(
    upsampler: nn.Module, hidden_states: Tensor, conditions: Conditions, size: torch.Size | None
) -> Tensor:
    """Run a plain or a ResNet upsampler; `size` is set if a side was odd before it was halved."""
    if isinstance(upsampler, ResnetBlock2D):
        return upsampler(hidden_states, conditions.frame_temb)
    return upsampler(hidden_states, size)


def size_factor(unet: UNet2DConditionModel) -> int:
    """Return the number that height and width must be divisible by.

    It is 1 except for networks with ResNet upsamplers (DeepFloyd IF), which always double the size.
    """
    upsamplers = [each for block in unet.up_blocks for each in block.upsamplers or []]
    only_doubles = all(isinstance(each, ResnetBlock2D) for each in upsamplers)
    return 2 ** len(upsamplers) if only_doubles else 1
