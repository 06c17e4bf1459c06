"""Draws random conditioning for fine-tuning on <J, C, M>: which part of a clip is known.

Params set the mix of mask kinds. The paper names the modes but not their mix; see
docs/deviations.md. A region (t, h, w), bool, marks the pixels to generate. In each frame it covers
some pixels but not all, unless a frame has only one. Frames may be latents: the number of channels
does not matter, and sizes are relative to the frame's sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lumiere import conditioning
from lumiere.config import MASK_KINDS


def draw_kind(weights: Mapping[str, float], generator: torch.Generator) -> str:
    """Draw a mask kind, in proportion to its weight."""
    kinds = sorted(weights)
    shares = torch.tensor([weights[kind] for kind in kinds], dtype=torch.float32)
    return kinds[int(torch.multinomial(shares, 1, generator=generator))]


def draw_conditioning(
    video: Tensor, kind: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw C (1, c, t, h, w) and M (1, 1, t, h, w) for one clip.

    In a clip of one frame, that frame is both the first and the last.

    Args:
        video: (1, c, t, h, w), pixels in [-1, 1] or latents.
        kind: one of `lumiere.config.MASK_KINDS`.
        generator: the source of all randomness.

    Raises:
        ValueError: on an unknown kind.
    """
    num_frames, height, width = video.shape[2:]
    first, last = video[:, :, 0], video[:, :, -1]
    if kind == "text_only":
        nothing, known_mask = conditioning.text_only(video.shape)
        return nothing.to(video), known_mask.to(video)
    if kind == "first_frame" or (kind == "first_and_last" and num_frames == 1):
        return conditioning.image_to_video(first, num_frames)
    if kind == "last_frame":
        return conditioning.image_to_video(None, num_frames, last)
    if kind == "first_and_last":
        return conditioning.image_to_video(first, num_frames, last)
    region = random_region(kind, num_frames, height, width, generator)
    return conditioning.inpainting(video, region[None, None].to(video))


def random_region(
    kind: str, num_frames: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Draw a region to generate, for the kinds of mask that keep a part of each frame.

    Raises:
        ValueError: on an unknown kind.
    """
    size = (num_frames, height, width)
    if kind == "inpainting_box":
        return random_box(*size, moving=False, generator=generator)
    if kind == "inpainting_moving_box":
        return random_box(*size, moving=True, generator=generator)
    if kind == "inpainting_free_form":
        return random_strokes(*size, moving=_coin(generator), brush=FREE_FORM, generator=generator)
    if kind == "outpainting":
        return ~random_box(*size, moving=False, generator=generator)
    if kind == "cinemagraph":
        # Training has no still pictures with a moving part. A clip stands in for one: its first
        # frame is fully known, and so are its own pixels outside the region in every frame.
        if _coin(generator):
            region = random_box(*size, moving=False, generator=generator)
        else:
            region = random_strokes(*size, moving=False, brush=BLOB, generator=generator)
        region[0] = False
        return region
    raise ValueError(f"mask kind {kind!r}: unknown; allowed: {', '.join(MASK_KINDS)}")


def random_box(
    num_frames: int, height: int, width: int, moving: bool, generator: torch.Generator
) -> Tensor:
    """Draw a box, still or drifting: (t, h, w), True inside.

    Each side of a still box is a quarter of the frame's side or more, and in a quarter of the cases
    all of it. So the training also sees halves and stripes, which users ask for; but a box never
    covers the whole frame. Each side of a moving box is a quarter to three quarters, which leaves
    it room to move.
    """
    sides = (height, width)
    most = 0.75 if moving else 1.25
    box = [max(1, round(side * min(1.0, _uniform(0.25, most, generator)))) for side in sides]
    divisible = [axis for axis in (0, 1) if sides[axis] > 1]
    if box == [height, width] and divisible:
        axis = divisible[_integer(0, len(divisible) - 1, generator)]
        box[axis] = min(sides[axis] - 1, max(1, round(sides[axis] * _uniform(0.25, 1, generator))))

    inside = []
    for side, length in zip(sides, box, strict=True):
        start, end = (_integer(0, side - length, generator) for _ in range(2))
        offset = start + _drift(num_frames, end - start if moving else 0)[:, None]  # (t, 1)
        positions = torch.arange(side)
        inside.append((positions >= offset) & (positions < offset + length))  # (t, side)
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :]


@dataclass(frozen=True)
class Brush:
    """Ranges from which strokes are drawn; lengths are relative to sqrt(h w)."""

    strokes: tuple[int, int]
    segments: tuple[int, int]  # per stroke
    step: tuple[float, float]  # a segment's length
    thickness: tuple[float, float]


# After "Free-Form Image Inpainting with Gated Convolution" (Yu et al., arXiv 1806.03589).
FREE_FORM = Brush(strokes=(1, 4), segments=(4, 12), step=(0.1, 0.4), thickness=(0.05, 0.2))
# One patch with a round outline: water, smoke, a flag.
BLOB = Brush(strokes=(1, 1), segments=(2, 6), step=(0.05, 0.25), thickness=(0.2, 0.5))


def random_strokes(
    num_frames: int, height: int, width: int, moving: bool, brush: Brush, generator: torch.Generator
) -> Tensor:
    """Draw random walks of a round brush, still or drifting together: (t, h, w), True inside.

    They drift by up to half a side. A box replaces strokes that cover a whole frame, which happens
    only in tiny frames.
    """
    drift = [
        _integer(-(side // 2), side // 2, generator) if moving else 0 for side in (height, width)
    ]
    # The strokes are painted once, on a canvas that holds the windows of all frames; each frame
    # cuts out its own.
    canvas = (height + abs(drift[0]), width + abs(drift[1]))
    # Rows abs(dy) to h - 1 and columns abs(dx) to w - 1 are in every window. Strokes begin there,
    # at the centres of pixels, so that every frame contains some.
    starts = [(abs(drift[0]), height - 1), (abs(drift[1]), width - 1)]
    painted = _paint(canvas, starts, brush, math.sqrt(height * width), generator)

    rows, columns = (
        max(0, shift) - _drift(num_frames, shift)[:, None] + torch.arange(side)  # (t, side)
        for side, shift in zip((height, width), drift, strict=True)
    )
    region = painted[rows[:, :, None], columns[:, None, :]]
    if bool(region.flatten(1).all(dim=1).any()):
        return random_box(num_frames, height, width, moving, generator)
    return region


def _paint(
    canvas: tuple[int, int],
    starts: list[tuple[int, int]],
    brush: Brush,
    scale: float,
    generator: torch.Generator,
) -> Tensor:
    """Paint strokes on a canvas (h, w), True inside.

    Args:
        canvas: height and width.
        starts: the first and last row, and the first and last column, in which strokes may begin.
        brush, scale: lengths in pixels are the brush's values times `scale`.
        generator: the source of all randomness.
    """
    n, k = _integer(*brush.strokes, generator), _integer(*brush.segments, generator)
    pixels = [torch.randint(low, high + 1, (n,), generator=generator) for low, high in starts]
    start = torch.stack(pixels, dim=-1).float() + 0.5  # (n, 2), centres
    # A new walk goes anywhere; at each vertex it turns by about 50 degrees, so that it winds and
    # seldom turns back.
    turns = 0.9 * torch.randn(n, k, generator=generator, dtype=torch.float32)
    turns[:, 0] = 2 * math.pi * _rand((n,), generator)
    heading = turns.cumsum(dim=1)
    low, high = (scale * share for share in brush.step)
    length = low + (high - low) * _rand((n, k), generator)
    steps = length[:, :, None] * torch.stack([heading.sin(), heading.cos()], dim=-1)
    later = start[:, None] + steps.cumsum(dim=1)
    vertices = torch.cat([start[:, None], later], dim=1)  # (n, k + 1, 2)
    side = torch.tensor(canvas)
    # Reflected at the canvas's borders.
    vertices = side - (vertices.remainder(2 * side) - side).abs()

    low, high = (scale * share / 2 for share in brush.thickness)
    radius = low + (high - low) * _rand((n,), generator)
    # Lines with a radius below half a pixel would have gaps.
    return _near(vertices, radius.clamp(min=0.5), *canvas)


def _near(vertices: Tensor, radius: Tensor, height: int, width: int) -> Tensor:
    """Return the pixels (h, w) whose centres lie within the radius of one of n lines.

    Args:
        vertices: (n, k + 1, 2).
        radius: (n,).
        height, width: of the canvas.
    """
    start, step = vertices[:, :-1].flatten(0, 1), vertices.diff(dim=1).flatten(0, 1)  # (n k, 2)
    y = (torch.arange(height, dtype=torch.float32) + 0.5 - start[:, :1])[:, :, None]  # (n k, h, 1)
    x = (torch.arange(width, dtype=torch.float32) + 0.5 - start[:, 1:])[:, None, :]  # (n k, 1, w)
    step_y, step_x = step[:, :, None, None].unbind(dim=1)  # (n k, 1, 1)
    squared_length = (step_y**2 + step_x**2).clamp(min=1e-6)
    # p - share * step, with p = (y, x): from the segment's nearest point to the pixel.
    share = ((y * step_y + x * step_x) / squared_length).clamp_(0, 1)  # (n k, h, w)
    squared_distance = (y - share * step_y).square_() + (x - share * step_x).square_()
    squared_radius = radius.square().repeat_interleave(vertices.shape[1] - 1)
    return (squared_distance <= squared_radius[:, None, None]).any(dim=0)


def _drift(num_frames: int, distance: int) -> Tensor:
    """Return whole pixels from 0 in the first frame to `distance` in the last: (t,)."""
    return (torch.linspace(0, 1, num_frames, dtype=torch.float32) * distance).round().long()


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(_rand((), generator))


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw a whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _coin(generator: torch.Generator) -> bool:
    return bool(_rand((), generator) < 0.5)


def _rand(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from [0, 1) in float32, because a seed draws other numbers in another default dtype."""
    return torch.rand(shape, generator=generator, dtype=torch.float32)
