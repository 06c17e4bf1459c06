"""The blocks of a diffusers U-Net taken apart into their layers, in the order of a forward pass.

The Space-Time U-Net's forward pass, the sharding of a training and the memory plan of `lumiere
inspect` all walk the layers in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from diffusers import UNet2DConditionModel
from torch import nn

from lumiere.models.switches import FreeU


class ImageBlock(Protocol):
    """A down, mid or up block of a diffusers U-Net; its classes have no common base.

    Some also have `attentions`, `downsamplers` or `upsamplers`.
    """

    resnets: nn.ModuleList


@dataclass
class BlockLayers:
    """The layers of one block.

    Attributes:
        resnets: the block's ResNet layers. A mid block has one more than it has attentions.
        attentions: one per resnet; None where a resnet has no attention after it.
        resamplers: its spatial downsamplers or upsamplers; empty for the mid block and at the
            coarsest or finest level.
        inflation: the temporal block that follows the last resnet and attention, in a Space-Time
            U-Net.
        temporal_resampler: the temporal layer that follows the spatial resamplers, if time is
            resampled too.
        freeu: FreeU, if it is switched on in this up block.
    """

    resnets: list[nn.Module]
    attentions: list[nn.Module | None]
    resamplers: list[nn.Module]
    inflation: nn.Module | None = None
    temporal_resampler: nn.Module | None = None
    freeu: FreeU | None = None

    @classmethod
    def of(
        cls,
        block: ImageBlock,
        inflation: nn.Module | None = None,
        temporal_resampler: nn.Module | None = None,
    ) -> BlockLayers:
        """Take a down, mid or up block of diffusers apart."""
        resnets = list(block.resnets)
        attentions = list(getattr(block, "attentions", None) or [None] * len(resnets))
        downsamplers = getattr(block, "downsamplers", None) or []
        upsamplers = getattr(block, "upsamplers", None) or []
        resamplers = [*downsamplers, *upsamplers]
        freeu = FreeU.of(block)
        return cls(resnets, attentions, resamplers, inflation, temporal_resampler, freeu)

    @property
    def out_channels(self) -> int:
        """The number of channels after the last resnet."""
        channels = self.resnets[-1].out_channels
        assert isinstance(channels, int)
        return channels

    def layers(self) -> list[nn.Module]:
        """Return all layers that exist, each once."""
        candidates = [
            *self.resnets,
            *self.attentions,
            self.inflation,
            *self.resamplers,
            self.temporal_resampler,
        ]
        return [layer for layer in candidates if layer is not None]


def image_blocks(
    unet: UNet2DConditionModel,
) -> tuple[list[BlockLayers], BlockLayers | None, list[BlockLayers]]:
    """Return the down blocks, the mid block (None if the network has none) and the up blocks of an
    image U-Net.
    """
    down = [BlockLayers.of(block) for block in unet.down_blocks]
    mid = None if unet.mid_block is None else BlockLayers.of(unet.mid_block)
    up = [BlockLayers.of(block) for block in unet.up_blocks]
    return down, mid, up
