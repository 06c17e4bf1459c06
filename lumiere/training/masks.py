"""Random conditioning for fine-tuning on <J, C, M>: what is known of a clip, in the mix that params give.

The paper names the modes but not their mix; see docs/deviations.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lumiere import conditioning


def random_box(num_frames: int, height: int, width: int, moving: bool, generator: torch.Generator) -> Tensor:
    """A box of a quarter of each side to the whole, still or drifting: (1, 1, t, h, w), 1 inside.

    A quarter of the sides are whole, so that halves and stripes, which users ask for, are trained on too.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    box_height, box_width = (max(1, round(side * min(1.0, uniform(0.25, 1.25)))) for side in (height, width))
    start_top, end_top = (uniform(0, height - box_height) for _ in range(2))
    start_left, end_left = (uniform(0, width - box_width) for _ in range(2))
    region = torch.zeros(1, 1, num_frames, height, width)
    for frame in range(num_frames):
        share = frame / max(1, num_frames - 1) if moving else 0.0
        top = round(start_top + share * (end_top - start_top))
        left = round(start_left + share * (end_left - start_left))
        region[:, :, frame, top : top + box_height, left : left + box_width] = 1
    return region


def draw_kind(weights: Mapping[str, float], generator: torch.Generator) -> str:
    """A mask kind, drawn in proportion to its weight."""
    kinds = sorted(weights)
    shares = torch.tensor([weights[kind] for kind in kinds])
    return kinds[int(torch.multinomial(shares, 1, generator=generator))]


def draw_conditioning(video: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """C (1, 3, t, h, w) and M (1, 1, t, h, w) of one clip `video` (1, 3, t, h, w) in [-1, 1].

    Raises:
        ValueError: on an unknown kind.
    """
    num_frames, height, width = video.shape[2:]
    if kind == "text_only":
        return conditioning.text_only(video.shape)
    if kind == "first_frame":
        return conditioning.image_to_video(video[:, :, 0], num_frames)
    moving = bool(torch.rand((), generator=generator) < 0.5)
    if kind == "inpainting":
        return conditioning.inpainting(video, random_box(num_frames, height, width, moving, generator))
    if kind == "outpainting":
        return conditioning.inpainting(video, 1 - random_box(num_frames, height, width, False, generator))
    if kind == "cinemagraph":
        # Training has no still picture with a moving part; the clip itself stands for it: its first frame whole, and
        # its own pixels outside the region.
        region = random_box(num_frames, height, width, False, generator)
        region[:, :, 0] = 0
        return conditioning.inpainting(video, region)
    raise ValueError(f"mask kind {kind!r}: unknown")
