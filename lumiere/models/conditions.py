"""The conditions of a Space-Time U-Net: timestep, text and labels, each once per clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor


@dataclass
class Conditions:
    """The conditions of a forward pass, in the form that layers at a level of `num_frames` frames
    take.
    """

    temb: Tensor  # (b, d), the timestep's embedding, once per clip
    encoder_hidden_states: Tensor | None  # (b, n, d)
    encoder_attention_bias: Tensor | None  # (b, 1, n), added to attention scores
    checkpointing: bool
    num_frames: int
    frame_temb: Tensor  # (b t, d)

    @classmethod
    def per_clip(
        cls,
        temb: Tensor,
        encoder_hidden_states: Tensor | None,
        encoder_attention_bias: Tensor | None,
        checkpointing: bool,
        num_frames: int,
    ) -> Conditions:
        """Make the conditions of clips of `num_frames` frames from an embedding (b, d)."""
        frame_temb = temb.repeat_interleave(num_frames, dim=0)
        return cls(
            temb,
            encoder_hidden_states,
            encoder_attention_bias,
            checkpointing,
            num_frames,
            frame_temb,
        )

    def at(self, num_frames: int) -> Conditions:
        """Return the same conditions at a level of `num_frames` frames; text stays once per clip
        (`TextPerClip`).
        """
        return Conditions.per_clip(
            self.temb,
            self.encoder_hidden_states,
            self.encoder_attention_bias,
            self.checkpointing,
            num_frames,
        )


def embed_conditions(
    unet: UNet2DConditionModel,
    sample: Tensor,
    timestep: Tensor | float | int,
    encoder_hidden_states: Tensor | None,
    encoder_attention_mask: Tensor | None,
    class_labels: Tensor | None,
    added_cond_kwargs: dict[str, Any],
    timestep_cond: Tensor | None,
    checkpointing: bool,
) -> Conditions:
    """Embed timestep, class and text once per clip, with the image network's own methods.

    Args:
        unet: the image network.
        sample: (b, c, t, h, w), for its shape and dtype.
        timestep, encoder_hidden_states, encoder_attention_mask, class_labels, added_cond_kwargs,
            timestep_cond: as in `SpaceTimeUNet.forward`.
        checkpointing: whether layers are recomputed in the backward pass.

    Raises:
        ValueError: if a condition has another shape; the message names it.
    """
    check_conditions(
        unet,
        sample.shape[0],
        timestep,
        encoder_hidden_states,
        encoder_attention_mask,
        class_labels,
        added_cond_kwargs,
    )
    _check_timestep_cond(unet, sample.shape[0], timestep_cond)
    time = unet.get_time_embed(sample=sample, timestep=timestep)
    temb = unet.time_embedding(time, timestep_cond)
    class_emb = unet.get_class_embed(sample=sample, class_labels=class_labels)
    if class_emb is not None and unet.config.class_embeddings_concat:
        temb = torch.cat([temb, class_emb], dim=-1)
    elif class_emb is not None:
        temb = temb + class_emb
    added = unet.get_aug_embed(
        emb=temb,
        encoder_hidden_states=encoder_hidden_states,
        added_cond_kwargs=added_cond_kwargs,
    )
    temb = temb if added is None else temb + added
    if unet.time_embed_act is not None:
        temb = unet.time_embed_act(temb)
    text = unet.process_encoder_hidden_states(
        encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs
    )
    bias = None
    if encoder_attention_mask is not None:
        bias = ((1 - encoder_attention_mask.to(sample.dtype)) * -10000.0).unsqueeze(1)
    return Conditions.per_clip(temb, text, bias, checkpointing, sample.shape[2])


def takes_text(unet: UNet2DConditionModel) -> bool:
    """Return whether an image network attends to text, in any layer."""
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    attends = any(
        each.is_cross_attention or each.added_kv_proj_dim is not None for each in attentions
    )
    return attends or unet.config.addition_embed_type == "text"


def check_conditions(
    unet: UNet2DConditionModel,
    batch_size: int,
    timestep: Tensor | float | int,
    text: Tensor | None,
    mask: Tensor | None,
    class_labels: Tensor | None,
    added_cond_kwargs: dict[str, Any],
) -> None:
    """Raise ValueError on a condition that does not come once per clip, or that the image network
    cannot take.
    """
    if isinstance(timestep, Tensor) and tuple(timestep.shape) not in ((), (1,), (batch_size,)):
        raise ValueError(
            f"timestep has shape {tuple(timestep.shape)}; expected a number, () or ({batch_size},)"
        )
    _check_text(unet, batch_size, text)
    _check_mask(text, mask)
    _check_once_per_clip("class_labels", class_labels, batch_size)
    for name, value in added_cond_kwargs.items():
        _check_once_per_clip(f"added_cond_kwargs[{name!r}]", value, batch_size)


def _check_text(unet: UNet2DConditionModel, batch_size: int, text: Tensor | None) -> None:
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    has_one_width = isinstance(width, int)  # a list if the levels differ

    def expected() -> str:  # a text made of sizes would fix them for torch.compile
        return f"expected ({batch_size}, n, {width if has_one_width else 'd'}), once per clip"

    if text is None:
        if takes_text(unet) and not _works_without_text(unet):
            raise ValueError(f"encoder_hidden_states is None; {expected()}")
        return
    fits = text.ndim == 3 and text.shape[0] == batch_size
    if fits and has_one_width and takes_text(unet):
        fits = text.shape[2] == width
    if not fits:
        raise ValueError(f"encoder_hidden_states has shape {tuple(text.shape)}; {expected()}")


def _works_without_text(unet: UNet2DConditionModel) -> bool:
    """Return whether a network with cross-attention may be called without text, as in diffusers."""
    config = unet.config
    # Kandinsky 2.2 makes its text states of image embeds, in added_cond_kwargs.
    makes_text = config.encoder_hid_dim_type == "image_proj"
    # AudioLDM's cross-attention is as wide as its levels. Without text, it attends to the pixels.
    width, own = config.cross_attention_dim, config.block_out_channels
    attends_to_pixels = isinstance(width, (list, tuple)) and list(width) == list(own)
    return makes_text or attends_to_pixels


def _check_mask(text: Tensor | None, mask: Tensor | None) -> None:
    if mask is None:
        return
    expected = None if text is None else tuple(text.shape[:2])
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"encoder_attention_mask has shape {tuple(mask.shape)}; expected {expected}"
        )


def _check_timestep_cond(
    unet: UNet2DConditionModel, batch_size: int, timestep_cond: Tensor | None
) -> None:
    if timestep_cond is None:
        return
    width = unet.config.time_cond_proj_dim
    if width is None:
        raise ValueError(
            "timestep_cond is given, but the image network has no time_cond_proj_dim and takes none; "
            "leave it out"
        )
    if tuple(timestep_cond.shape) != (batch_size, width):
        raise ValueError(
            f"timestep_cond has shape {tuple(timestep_cond.shape)}; expected ({batch_size}, {width})"
        )


def _check_once_per_clip(name: str, value: Any, batch_size: int) -> None:
    if isinstance(value, Tensor) and (value.ndim == 0 or value.shape[0] != batch_size):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected ({batch_size}, ...), once per clip"
        )
