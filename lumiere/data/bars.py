"""Finds the black bars around the picture of a letterboxed video."""

from __future__ import annotations

import math

import numpy as np

Box = tuple[int, int, int, int]  # left, top, width and height in pixels

BLACK = 28  # up to this brightness, of 255, a pixel is black; coded black is a little noisy
MIN_BAR = 0.02  # share of a side; a thinner border is no bar
MIN_PICTURE = 0.2  # share of a side that is left; less is a small thing on black
FULL_EDGE = (
    0.6  # share of the row or column beside a bar that must be lit; less is a thing on black
)
UNEQUAL = 0.03  # share of a side by which opposite bars may differ


def find_picture(brightest: np.ndarray) -> Box | None:
    """Return the box of the picture within black bars; None if there are no bars.

    Bars come in pairs of equal width, are black in all frames, and end in a straight edge. A dark
    sky has no second bar, and a thing on black no straight edge.

    Args:
        brightest: uint8 (h, w), the brightest grey of each pixel over all frames.
    """
    lit = brightest > BLACK
    top, bottom = _bars(lit)
    left, right = _bars(lit[top : lit.shape[0] - bottom].T)
    if not (top or left):
        return None
    height, width = lit.shape
    return left, top, width - left - right, height - top - bottom


def are_black(brightest: np.ndarray, box: Box, size: tuple[int, int]) -> bool:
    """Return whether everything around a box is black in a small picture too.

    Args:
        brightest: uint8 (h, w), the brightest value of each pixel over all frames, shrunk.
        box: of the full-sized picture.
        size: (width, height) of the full-sized picture.
    """
    height, width = brightest.shape
    columns, rows = width / size[0], height / size[1]
    left, top, box_width, box_height = box
    outside = brightest > BLACK
    # A small pixel that the edge of the box crosses counts to the box.
    outside[
        math.floor(top * rows) : math.ceil((top + box_height) * rows),
        math.floor(left * columns) : math.ceil((left + box_width) * columns),
    ] = False
    return not outside.any()


def crop(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """Cut a box out of (h, w, c); the whole picture without a box."""
    if box is None:
        return picture
    left, top, width, height = box
    return picture[top : top + height, left : left + width]


def _bars(lit: np.ndarray) -> tuple[int, int]:
    """Return the heights of the bars above and below (h, w); 0 and 0 if there is no pair."""
    size = len(lit)
    shares = lit.mean(axis=1)
    rows = np.flatnonzero(shares > 0.01)
    if not len(rows):
        return 0, 0
    first, last = int(rows[0]), int(rows[-1])
    above, below = first, size - 1 - last
    # The row at an edge may be half black, so look at the next one too.
    is_straight = (
        min(shares[first : first + 2].max(), shares[last - 1 : last + 1].max()) > FULL_EDGE
    )
    is_pair = min(above, below) >= MIN_BAR * size and abs(above - below) <= UNEQUAL * size
    is_picture = last + 1 - first >= MIN_PICTURE * size
    return (above, below) if is_straight and is_pair and is_picture else (0, 0)
