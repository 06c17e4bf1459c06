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
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from lumiere.models.lean import LeanConv2d, LeanResnet, LeanTransformer, attend


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
        return Conditions(
            temb, self.encoder_hidden_states, self.encoder_attention_bias, self.checkpointing
        )


class TextPerClip(Attention):
    """An image network's attention that takes text once per clip, (b, n, d), whatever the number of frames.

    Attention to text treats every query by itself, so all frames of a clip are queries of one call, and the text's keys
    and values are computed once instead of once per frame. Where pixels are keys as well (DeepFloyd IF), and under
    processors other than diffusers' plain ones, the text is repeated. The processor itself stays the user's to choose.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch_size, per_frame = len(text), len(text) == len(hidden_states)
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
        num_frames = len(hidden_states) // batch_size
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
        """What diffusers' own processor does with (b, l, c), and `attend`."""
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
}


def make_lean(unet: nn.Module) -> None:
    """Let an image network take its text once per clip, and keep and copy little; its weights and names stay."""
    for module in unet.modules():
        module.__class__ = LEAN.get(type(module), type(module))


def takes_text(unet: Any) -> bool:
    """Whether an image network attends to text, anywhere."""
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    attends = any(
        each.is_cross_attention or each.added_kv_proj_dim is not None for each in attentions
    )
    return attends or unet.config.addition_embed_type == "text"


def check_conditions(
    unet: Any,
    batch_size: int,
    timestep: Tensor | float | int,
    text: Tensor | None,
    mask: Tensor | None,
    class_labels: Tensor | None,
    added_cond_kwargs: dict[str, Any],
) -> None:
    """Raise ValueError on a condition that is not one per clip, or that the image network wants otherwise."""
    if isinstance(timestep, Tensor) and tuple(timestep.shape) not in ((), (1,), (batch_size,)):
        raise ValueError(
            f"timestep has shape {tuple(timestep.shape)}; expected a number, () or ({batch_size},)"
        )
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    width = width if isinstance(width, int) else "d"
    if text is None and takes_text(unet):
        raise ValueError(
            f"encoder_hidden_states is None; expected ({batch_size}, n, {width}), once per clip"
        )
    if text is not None and (
        text.ndim != 3
        or len(text) != batch_size
        or (takes_text(unet) and width not in ("d", text.shape[2]))
    ):
        raise ValueError(
            f"encoder_hidden_states has shape {tuple(text.shape)}; expected ({batch_size}, n, {width}), once per clip"
        )
    if mask is not None and (text is None or mask.shape != text.shape[:2]):
        wanted = None if text is None else tuple(text.shape[:2])
        raise ValueError(f"encoder_attention_mask has shape {tuple(mask.shape)}; expected {wanted}")
    added = {f"added_cond_kwargs[{name!r}]": value for name, value in added_cond_kwargs.items()}
    for name, value in {"class_labels": class_labels, **added}.items():
        if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != batch_size):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; expected ({batch_size}, ...), once per clip"
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
        raise ValueError(
            "unet2d has addition_embed_type 'image_hint'; a network that takes a hint cannot be inflated"
        )
    if unet.config.encoder_hid_dim_type == "ip_image_proj":
        raise ValueError("unet2d has an IP-Adapter; unload it before inflation")


def run_pair(
    resnet: nn.Module, attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
    """One (resnet, attention) pair of a block, recomputed in the backward pass where checkpointing is on."""

    def pair(states: Tensor) -> Tensor:
        return run_attention(attention, resnet(states, conditions.temb), conditions)

    if conditions.checkpointing and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(pair, hidden_states, use_reentrant=False)
    return pair(hidden_states)


def run_attention(
    attention: nn.Module | None, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
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


def run_downsampler(
    downsampler: nn.Module, hidden_states: Tensor, conditions: Conditions
) -> Tensor:
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


def size_factor(unet: Any) -> int:
    """What height and width must be divisible by: ResNet upsamplers (DeepFloyd IF) give twice the size and no other."""
    upsamplers = [each for block in unet.up_blocks for each in block.upsamplers or []]
    return (
        2 ** len(upsamplers) if all(isinstance(each, ResnetBlock2D) for each in upsamplers) else 1
    )


def out_channels_of(block: nn.Module) -> int:
    """The width at which a block leaves its last resnet."""
    return int(block.resnets[-1].out_channels)  # type: ignore[index,union-attr]
