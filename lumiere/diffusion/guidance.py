"""Classifier-free guidance with text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumiere.diffusion.objective import without_variance

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from lumiere.models import SpaceTimeUNet


@dataclass(frozen=True)
class TextGuidance:
    """Classifier-free guidance with text (Ho and Salimans 2022), rescaled (Lin et al. 2023).

    Attributes:
        prompt_embeds, prompt_mask: (b, n, d) and (b, n), one row per clip.
        negative_embeds, negative_mask: the same for the sentences to move away from.
        scale: 1 switches guidance off and halves the work.
        rescale: 0 to 1: how far the standard deviation is brought back to that of the conditional
            prediction.
        interval: the lowest and the highest timestep with guidance (Kynkäänniemi et al. 2024). A
            step outside it costs half the work, because it needs the conditional prediction alone.
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    negative_embeds: Tensor
    negative_mask: Tensor
    scale: float
    rescale: float
    interval: tuple[float, float] = (0.0, math.inf)

    def acts_at(self, timestep: Tensor | float) -> bool:
        """Return whether the prediction at a timestep is guided."""
        low, high = self.interval
        return self.scale != 1 and low <= float(timestep) <= high

    def predict(
        self,
        unet: SpaceTimeUNet | UNet2DConditionModel,
        model_input: Tensor,
        timestep: Tensor,
        num_channels: int,
        rows: Tensor | slice = slice(None),
    ) -> Tensor:
        """Predict with guidance where it acts; the network computes both halves in one pass.

        Args:
            unet: a network of clips or of images.
            model_input: (k, c_in, t, h, w), or (k, c_in, h, w) for a network of images.
            timestep: 0-d.
            num_channels: c, channels of the image or latents; the network's output may have a
                variance after them.
            rows: (k,), the clip that each entry belongs to; by default entry i belongs to clip i.

        Returns:
            (k, c, t, h, w) or (k, c, h, w).
        """
        embeds, mask = self.prompt_embeds[rows], self.prompt_mask[rows]
        if not self.acts_at(timestep):
            output = unet(model_input, timestep, embeds, encoder_attention_mask=mask).sample
            return without_variance(output, num_channels)
        both = torch.cat([model_input, model_input])
        embeds = torch.cat([self.negative_embeds[rows], embeds])
        mask = torch.cat([self.negative_mask[rows], mask])
        output = unet(both, timestep, embeds, encoder_attention_mask=mask).sample
        negative, positive = without_variance(output, num_channels).float().chunk(2)
        return self.combine(negative, positive)

    def combine(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Combine the two halves, (k, c, ...) each, into the guided prediction."""
        guided = negative + self.scale * (positive - negative)
        if self.rescale == 0:
            return guided
        axes = tuple(range(1, guided.ndim))
        # Lin et al., equations 14 to 16: guidance raises the contrast; bring its standard deviation
        # back.
        rescaled = guided * (
            positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
        )
        return torch.lerp(guided, rescaled, self.rescale)
