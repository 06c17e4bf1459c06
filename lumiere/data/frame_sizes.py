"""Handles the sizes of clips: one for all, or several ("buckets"); each clip gets the best fit.

Sizes are (height, width) in pixels. The first one is the main size: a stage that names the shorter
side of its frames means that of the main size, and scales all sizes by the same factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Size = tuple[int, int]


def as_sizes(size: Any) -> tuple[Size, ...]:
    """Return the sizes that a param or an index names: 128 is a square, [96, 160] one size, and
    [[128, 128], [96, 160]] are two.
    """
    if isinstance(size, int):
        return ((size, size),)
    if isinstance(size[0], int):
        return ((int(size[0]), int(size[1])),)
    return tuple((int(height), int(width)) for height, width in size)


def plain(size: Sequence[int]) -> int | Size:
    """Return a square as one number, as U-Net configs name it, and any other size as it is."""
    height, width = size
    return height if height == width else (height, width)


def shorter_side(size: int | Sequence[int]) -> int:
    """Return the shorter side of a size, or the side of a square."""
    return size if isinstance(size, int) else min(size)


def at_side(sizes: Sequence[Size], side: int) -> tuple[Size, ...]:
    """Scale all sizes, so that the main one has this shorter side.

    Raises:
        ValueError: if a side is not a whole number of pixels then.
    """
    factor = Fraction(side, min(sizes[0]))
    scaled = []
    for size in sizes:
        height, width = (factor * length for length in size)
        if height.denominator != 1 or width.denominator != 1:
            raise ValueError(
                f"clips of {size[0]} x {size[1]} pixels become {float(height):g} x {float(width):g} "
                f"at a shorter side of {side}; allowed: whole numbers"
            )
        scaled.append((int(height), int(width)))
    return tuple(scaled)


def nearest(sizes: Sequence[Size], height: int, width: int) -> int:
    """Return the number of the size that keeps most of a picture when it is cropped to that shape;
    the first of equals.
    """

    def kept(size: Size) -> Fraction:
        ones, others = height * size[1], width * size[0]
        return Fraction(min(ones, others), max(ones, others))

    return max(range(len(sizes)), key=lambda i: kept(sizes[i]))


def fitting_part(size: Size, target: Size) -> Size:
    """Return the largest (height, width) within a picture that has the shape of the target."""
    height, width = size
    if height * target[1] > width * target[0]:
        return max(1, round(Fraction(width * target[0], target[1]))), width
    return height, max(1, round(Fraction(height * target[1], target[0])))
