"""Trains the base Space-Time U-Net on <J, C, M>: clips of which a part is known (paper, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from lumiere.data.pixel_values import bytes_to_model
from lumiere.training.diffusion_task import Batch, NoisedBatch
from lumiere.training.examples import Clips
from lumiere.training.masks import draw_conditioning, draw_kind
from lumiere.training.space_time_task import SpaceTimeTask

# Mask kinds with fully known frames. A clip of one frame would leave nothing to generate.
WHOLE_FRAMES = ("first_frame", "last_frame", "first_and_last", "cinemagraph")


@dataclass(eq=False, repr=False)
class ConditionedTask(SpaceTimeTask):
    """Trains on <J, C, M>: a part of each clip is known. A random kind of mask decides which part.

    Attributes:
        mask_weights: how often each kind of mask is drawn, relative to the others.
    """

    mask_weights: Mapping[str, float] = field(kw_only=True)

    def draw(
        self, data: Clips, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw an example as in `SpaceTimeTask`, plus `known_mask`: M (1, t, h, w), uint8, 1 =
        known.
        """
        example = super().draw(data, clip, generator, training, one_frame)
        kind = self._draw_kind(generator, one_frame)
        video = bytes_to_model(example["video"]).unsqueeze(0)
        _, known_mask = draw_conditioning(video, kind, generator)
        return example | {"known_mask": known_mask[0].to(torch.uint8)}

    def noised(self, batch: Batch) -> NoisedBatch:
        """Append C and M to the noised input: <J, C, M>."""
        noised = super().noised(batch)
        video = bytes_to_model(batch["video"])
        known_mask = batch["known_mask"].to(video.dtype)
        # The VAE never sees hidden pixels, because its latents would carry traces of them to
        # neighbours.
        c, m = self.space.condition(video * known_mask, known_mask)
        inputs = replace(noised.inputs, conditioning=torch.cat([c, m], dim=1))
        return replace(noised, inputs=inputs)

    def _draw_kind(self, generator: torch.Generator, one_frame: bool) -> str:
        weights = dict(self.mask_weights)
        if one_frame:
            for kind in WHOLE_FRAMES:
                weights.pop(kind, None)
        if sum(weights.values()) == 0:
            return "text_only"
        return draw_kind(weights, generator)
