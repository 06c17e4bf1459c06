"""Switches of a diffusers U-Net that are neither weights nor config: FreeU and attention processors."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from numbers import Real

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
)
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

FREEU = ("s1", "s2", "b1", "b2")
PROJECTIONS = ("to_q", "to_k", "to_v")
FUSED_PROJECTIONS = ("to_qkv", "to_kv")


@dataclass(frozen=True)
class FreeU:
    """FreeU in one up block (Si et al. 2023, arXiv 2309.11497).

    Attributes:
        stage: the index of the up block; FreeU acts in the first two.
        weights: s1, s2, b1 and b2, as in `SpaceTimeUNet.enable_freeu`.
    """

    stage: int
    weights: dict[str, float]

    @classmethod
    def of(cls, block: object) -> FreeU | None:
        """Return the FreeU that is switched on in a block of diffusers; None if there is none.

        As in diffusers, only the blocks of Stable Diffusion have it.
        """
        if not isinstance(block, (CrossAttnUpBlock2D, UpBlock2D)):
            return None
        weights: dict[str, float] = {}
        for name in FREEU:
            weights[name] = getattr(block, name, None) or 0.0
        if not all(weights.values()):
            return None
        return cls(block.resolution_idx, weights)

    def weigh(self, hidden_states: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh backbone features and a skip, n c h w each; neither changes in place."""
        return apply_freeu(self.stage, hidden_states.clone(), skip, **self.weights)


def copy_switches(source: UNet2DConditionModel, target: UNet2DConditionModel) -> None:
    """Copy FreeU and the attention processors that a user has set to a network of the same
    layers.
    """
    for block, own in zip(source.up_blocks, target.up_blocks, strict=True):
        for name in FREEU:
            if hasattr(block, name):
                setattr(own, name, getattr(block, name))
    processors, defaults = source.attn_processors, target.attn_processors
    kinds = {name: type(processor) for name, processor in processors.items()}
    if kinds != {name: type(processor) for name, processor in defaults.items()}:
        target.set_attn_processor(copy.deepcopy(processors))


def has_fused_projections(unet: UNet2DConditionModel) -> bool:
    """Return whether `fuse_qkv_projections` acts on an image model."""
    return any(is_fused(attention) for attention in _attentions(unet))


def is_fused(module: nn.Module) -> bool:
    """Return whether a module is attention with a fused product; diffusers' own flag stays set when
    other processors have taken over.
    """
    return isinstance(getattr(module, "processor", None), FusedAttnProcessor2_0)


def replaced_projections(attention: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that a fused product replaces: attention to the text still
    computes its queries by themselves.
    """
    return PROJECTIONS[1:] if getattr(attention, "is_cross_attention", False) else PROJECTIONS


def remove_fused_layers(unet: UNet2DConditionModel) -> None:
    """Remove the layers of fused products that no processor uses, which diffusers leaves in the
    network.
    """
    for attention in _attentions(unet):
        if is_fused(attention):
            continue
        for name in FUSED_PROJECTIONS:
            if hasattr(attention, name):
                delattr(attention, name)
        attention.fused_projections = False


def _attentions(unet: UNet2DConditionModel) -> list[Attention]:
    return [module for module in unet.modules() if isinstance(module, Attention)]


class SpaceTimeSwitches:
    """Switches of diffusers' U-Nets, which act on the layers of the image model in `unet`."""

    unet: UNet2DConditionModel

    def set_attention_slice(self, slice_size: str | int | list[int] | None = "auto") -> None:
        """Compute the image model's attention in slices; None ends that.

        Args:
            slice_size: as diffusers' UNet2DConditionModel takes it: "auto" for two slices, "max"
                for one head at a time, or heads per slice.
        """
        self.unet.set_attention_slice(slice_size)

    def set_default_attn_processor(self) -> None:
        """Give each attention of the image model diffusers' plainest processor; that ends
        `fuse_qkv_projections`, too.
        """
        self.unfuse_qkv_projections()
        self.unet.set_default_attn_processor()

    def fuse_qkv_projections(self) -> None:
        """Compute queries, keys and values of the image model's attention in one product.

        Raises:
            ValueError: if they have adapters, which the product would leave out; the queries of
                attention to the text are in no product.
        """
        self.unfuse_qkv_projections()
        for attention in _attentions(self.unet):
            replaced = [getattr(attention, name) for name in replaced_projections(attention)]
            if any(hasattr(layer, "base_layer") for layer in replaced):
                raise ValueError(
                    "fuse_qkv_projections: attention has adapters, which would be left out; call "
                    "unload_lora() first (after fuse_lora() to keep their effect)"
                )
        self.unet.fuse_qkv_projections()

    def unfuse_qkv_projections(self) -> None:
        """End `fuse_qkv_projections`, and remove its layers, which diffusers leaves in the network."""
        processors = self.unet.attn_processors
        originals = getattr(self.unet, "original_attn_processors", None) or {}
        if has_fused_projections(self.unet):
            for name, processor in processors.items():
                if isinstance(processor, FusedAttnProcessor2_0):
                    original = originals.get(name, processor)
                    # Fused twice by diffusers' own method, it remembers none that is plain.
                    is_plain = not isinstance(original, FusedAttnProcessor2_0)
                    processors[name] = original if is_plain else AttnProcessor2_0()
            self.unet.set_attn_processor(processors)
        self.unet.original_attn_processors = None
        remove_fused_layers(self.unet)

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Weigh skips and backbone features in the first two up blocks (FreeU, Si et al. 2023,
        arXiv 2309.11497).

        Args:
            s1, s2: weights of the skips' low frequencies in the first and the second block.
            b1, b2: weights of half of the backbone's channels there.

        Raises:
            ValueError: if a weight is not above 0; diffusers would silently leave FreeU off.
        """
        for name, value in (("s1", s1), ("s2", s2), ("b1", b1), ("b2", b2)):
            if not (isinstance(value, Real) and value > 0):
                raise ValueError(f"{name} is {value!r}; allowed: a number above 0")
        self.unet.enable_freeu(s1, s2, b1, b2)

    def disable_freeu(self) -> None:
        """Switch FreeU off."""
        self.unet.disable_freeu()
