"""Guidance with text: away from another sentence, or away from a weaker network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumiere.diffusion.objective import without_variance
from lumiere.diffusion.projection import Projection, x_0_line

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from lumiere.models import SpaceTimeUNet

GUIDANCE_TYPES = ("cfg", "auto")


@dataclass(frozen=True)
class TextGuidance:
    """Classifier-free guidance with text (Ho and Salimans 2022), rescaled (Lin et al. 2023).

    With a `guide`, it is autoguidance (Karras et al. 2024, arXiv 2406.02507): the guide's prediction
    for the same sentences takes the place of the negative one.

    Attributes:
        prompt_embeds, prompt_mask: (b, n, d) and (b, n), one row per clip.
        negative_embeds, negative_mask: the same for the sentences to move away from; a guide does
            not read them.
        scale: 1 or less switches guidance off and halves the work.
        rescale: 0 to 1: how far the standard deviation is brought back to that of the conditional
            prediction.
        interval: the lowest and the highest timestep with guidance (Kynkäänniemi et al. 2024). A
            step outside it costs half the work, because it needs the conditional prediction alone.
        guide: a weaker network with the same inputs and the same prediction type.
        projection: adaptive projected guidance; plain guidance by default.
        timestep_cond: (1, d), for a network that takes the guidance scale as an input, as latent
            consistency models do (Luo et al. 2023, arXiv 2310.04378).
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    negative_embeds: Tensor
    negative_mask: Tensor
    scale: float
    rescale: float
    interval: tuple[float, float] = (0.0, math.inf)
    guide: SpaceTimeUNet | None = None
    projection: Projection = field(default_factory=Projection)
    timestep_cond: Tensor | None = None

    def acts_at(self, timestep: Tensor | float) -> bool:
        """Return whether the prediction at a timestep is guided."""
        low, high = self.interval
        return self.scale > 1 and low <= float(timestep) <= high

    def is_projected_at(self, timestep: Tensor | float) -> bool:
        """Return whether a timestep needs `predict_halves` and `combine_projected` in the place of
        `predict`.
        """
        return self.acts_at(timestep) and not self.projection.is_plain

    def predict(
        self,
        unet: SpaceTimeUNet | UNet2DConditionModel,
        model_input: Tensor,
        timestep: Tensor,
        num_channels: int,
        rows: Tensor | slice = slice(None),
    ) -> Tensor:
        """Predict with plain guidance where it acts. Without a guide, the network computes both
        halves in one pass.

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
        if not self.acts_at(timestep):
            embeds, mask = self.prompt_embeds[rows], self.prompt_mask[rows]
            output = self._run(unet, model_input, timestep, embeds, mask)
            return without_variance(output, num_channels)
        return self.combine(*self._halves(unet, model_input, timestep, num_channels, rows))

    def predict_halves(
        self,
        unet: SpaceTimeUNet | UNet2DConditionModel,
        model_input: Tensor,
        timestep: Tensor,
        num_channels: int,
        rows: Tensor | slice = slice(None),
    ) -> Tensor:
        """Predict both halves of guidance. The arguments are those of `predict`.

        Returns:
            (k, 2 c, ...), float32: the prediction to move away from, then the conditional one.
        """
        return torch.cat(self._halves(unet, model_input, timestep, num_channels, rows), dim=1)

    def _halves(
        self,
        unet: SpaceTimeUNet | UNet2DConditionModel,
        model_input: Tensor,
        timestep: Tensor,
        num_channels: int,
        rows: Tensor | slice,
    ) -> tuple[Tensor, Tensor]:
        embeds, mask = self.prompt_embeds[rows], self.prompt_mask[rows]
        if self.guide is None:
            both = torch.cat([model_input, model_input])
            embeds = torch.cat([self.negative_embeds[rows], embeds])
            mask = torch.cat([self.negative_mask[rows], mask])
            output = self._run(unet, both, timestep, embeds, mask)
            negative, positive = without_variance(output, num_channels).float().chunk(2)
            return negative, positive
        # The guide comes first, because the offloading of LumierePipeline expects this order.
        dtype = self.guide.dtype
        weaker = self.guide(
            model_input.to(dtype), timestep, embeds.to(dtype), encoder_attention_mask=mask
        ).sample
        positive = self._run(unet, model_input, timestep, embeds, mask)
        return (
            without_variance(weaker, num_channels).float(),
            without_variance(positive, num_channels).float(),
        )

    def _run(
        self,
        unet: SpaceTimeUNet | UNet2DConditionModel,
        model_input: Tensor,
        timestep: Tensor,
        embeds: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Run the network, for `timestep_cond` if it takes one."""
        options: dict[str, Tensor] = {}
        if self.timestep_cond is not None:
            options["timestep_cond"] = self.timestep_cond.expand(len(model_input), -1)
        return unet(model_input, timestep, embeds, encoder_attention_mask=mask, **options).sample

    def combine(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Combine the two halves, (k, c, ...) each, into the guided prediction."""
        return self._rescaled(negative + self.scale * (positive - negative), positive)

    def combine_projected(
        self,
        halves: Tensor,
        scaled_x_t: Tensor,
        prediction_type: str,
        alpha: Tensor,
        sigma: Tensor,
    ) -> Tensor:
        """Combine the two halves by adaptive projected guidance.

        Pass whole clips: norms and the running average are those of a clip, not of a window.

        Args:
            halves: (b, 2 c, ...), from `predict_halves`.
            scaled_x_t: the network's input without conditions, (b, c, ...).
            prediction_type: the network's.
            alpha, sigma: from `lumiere.diffusion.schedulers.signal_level`.

        Returns:
            The guided model output, (b, c, ...), float32.
        """
        negative, positive = halves.chunk(2, dim=1)
        offset, slope = x_0_line(prediction_type, alpha, sigma)
        pred_x_0 = offset * scaled_x_t.float() + slope * positive
        direction = self.projection.direct(slope * (positive - negative), pred_x_0)
        return self._rescaled(positive + (self.scale - 1) * direction / slope, positive)

    def _rescaled(self, guided: Tensor, positive: Tensor) -> Tensor:
        if self.rescale == 0:
            return guided
        axes = tuple(range(1, guided.ndim))
        # Lin et al., equations 14 to 16: guidance raises the contrast; bring its standard deviation
        # back.
        rescaled = guided * (
            positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
        )
        return torch.lerp(guided, rescaled, self.rescale)
