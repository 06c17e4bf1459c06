"""Finds the black bars around the picture of a letterboxed video."""

from __future__ import annotations

import math

import numpy as np

Box = tuple[int, int, int, int]  # left, top, width and height in pixels

BLACK = 28  # up to this brightness, of 255, a pixel is black; coded black is a little noisy
DARK_GREY = 64  # bars may be so bright if they are even
UNEVEN = 12  # by which the pixels of a bar may differ from it
MIN_BAR = 0.02  # share of a side; a thinner border is no bar
MIN_PICTURE = 0.2  # share of a side that is left; less is a small thing on black
FULL_EDGE = (
    0.6  # share of the row or column beside a bar that must be lit; less is a thing on black
)
STEP = 24  # of 255, by which the picture is brighter than a bar three rows further out
UNEQUAL = 0.03  # share of a side by which opposite bars may differ
LIT_ROW = 0.01  # share of a row that is lit where the picture, or a text, is
TEXT = 0.25  # share of a bar that text may cover in the course of a video
CROSSABLE = 4  # rows of a small picture; a line of text can fill a bar with fewer rows


def find_picture(brightest: np.ndarray) -> Box | None:
    """Return the box of the picture within black bars; None if there are no bars.

    Bars come in pairs of equal width, are black or an even dark grey in all frames, and end in a
    straight edge. Subtitles may lie in them. A dark sky has no second bar, and a thing on black no
    straight edge.

    Args:
        brightest: uint8 (h, w), the brightest grey of each pixel over all frames.
    """
    top, bottom = _bars(brightest)
    height, width = brightest.shape
    left, right = _bars(brightest[top : height - bottom].T)
    if not (top or left):
        return None
    if not top:  # a row between wide bars is too short to count as lit
        top, bottom = _bars(brightest[:, left : width - right])
    return left, top, width - left - right, height - top - bottom


def has_dark_edges(brightest: np.ndarray) -> bool:
    """Return whether opposite edges of (h, w) are so dark that bars may be there."""
    ends = ((brightest[0], brightest[-1]), (brightest[:, 0], brightest[:, -1]))
    return any(max(np.median(one), np.median(other)) <= DARK_GREY for one, other in ends)


def may_have_bars(brightest: np.ndarray) -> bool:
    """Return whether a picture without pairs of bars ends in a straight edge at one side: a single
    bar, or the night above a lit wall.

    Args:
        brightest: uint8 (h, w), the brightest grey of each pixel over all frames.
    """
    return any(_has_one_bar(picture) for picture in (brightest, brightest.T))


def are_black(brightest: np.ndarray, box: Box, size: tuple[int, int]) -> bool:
    """Return whether everything around a box is dark in a small picture too, except for a text.

    Args:
        brightest: uint8 (h, w), the brightest value of each pixel over all frames, shrunk.
        box: of the full-sized picture.
        size: (width, height) of the full-sized picture.
    """
    height, width = brightest.shape
    columns, rows = width / size[0], height / size[1]
    left, top, box_width, box_height = box
    is_outside = np.ones(brightest.shape, bool)
    # A small pixel that the edge of the box crosses counts to the box.
    is_outside[
        math.floor(top * rows) : math.ceil((top + box_height) * rows),
        math.floor(left * columns) : math.ceil((left + box_width) * columns),
    ] = False
    outside = brightest[is_outside]
    if not outside.size:
        return True
    level = float(np.median(outside))
    is_lit = is_outside & (brightest > _limit(level))
    if level > DARK_GREY or is_lit.sum() > TEXT * outside.size:
        return False
    return not (_is_crossed(is_lit, is_outside) or _is_crossed(is_lit.T, is_outside.T))


def _is_crossed(is_lit: np.ndarray, is_outside: np.ndarray) -> bool:
    """Return whether something bright crosses the top or bottom bar from its outer to its inner
    edge. Text that nearly fills a bar also counts: the picture is not cropped, and gets a note.

    Args:
        is_lit: (h, w), the bright pixels of bars.
        is_outside: (h, w), all pixels of bars.
    """
    rows: np.ndarray = np.all(is_outside, axis=1)
    above, below = int(np.argmin(rows)), int(np.argmin(rows[::-1]))
    bars = is_lit[:above], is_lit[len(is_lit) - below :]
    return any(len(bar) >= CROSSABLE and float(bar.all(axis=0).mean()) > LIT_ROW for bar in bars)


def crop(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """Cut a box out of (h, w, c); the whole picture without a box."""
    if box is None:
        return picture
    left, top, width, height = box
    return picture[top : top + height, left : left + width]


class Cropper:
    """Cuts a box out of each frame of a stretch of video.

    Attributes:
        problem: empty, or an error message if the box reaches beyond the frames, which are then
            returned uncropped. This can happen if the manifest was edited by hand.
    """

    def __init__(self, box: Box | None) -> None:
        self.box = box
        self.problem = ""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Crop (h, w, c)."""
        height, width = frame.shape[:2]
        left, top, box_width, box_height = self.box or (0, 0, width, height)
        if left + box_width <= width and top + box_height <= height:
            return crop(frame, self.box)
        self.problem = (
            f"crop is [{left}, {top}, {box_width}, {box_height}]; "
            f"expected a box within the video's frames of {width}x{height} pixels"
        )
        return frame


def _limit(level: float) -> float:
    """Return up to which brightness pixels belong to a bar of some brightness."""
    return max(BLACK, level + UNEVEN)


def _bars(picture: np.ndarray) -> tuple[int, int]:
    """Return the heights of the bars above and below in (h, w); 0 and 0 if there is no pair."""
    level = float(max(np.median(picture[0]), np.median(picture[-1])))
    if level > DARK_GREY:
        return 0, 0
    shares = (picture > _limit(level)).mean(axis=1)
    rows = np.flatnonzero(shares > LIT_ROW)
    if not len(rows):
        return 0, 0
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    longest = max(runs, key=len)
    # All that is lit, or, if a text lies in a bar, the largest part of it.
    for first, last in ((rows[0], rows[-1]), (longest[0], longest[-1])):
        above, below = int(first), len(picture) - 1 - int(last)
        is_sharp = _is_sharp(picture, above) and _is_sharp(picture[::-1], below)
        if is_sharp and _is_pair(shares, above, below) and _is_even(picture, above, below, level):
            return above, below
    return 0, 0


def _is_pair(shares: np.ndarray, above: int, below: int) -> bool:
    """Return whether two bars are about equal, end in straight edges and hold no more than a text.

    Args:
        shares: float (h), how much of each row is lit.
        above, below: the heights of the bars.
    """
    size = len(shares)
    first, last = above, size - 1 - below
    # The row at an edge may be half black, so look at the next one too.
    is_straight = (
        min(shares[first : first + 2].max(), shares[last - 1 : last + 1].max()) > FULL_EDGE
    )
    is_pair = min(above, below) >= MIN_BAR * size and abs(above - below) <= UNEQUAL * size
    is_picture = last + 1 - first >= MIN_PICTURE * size
    if not (is_straight and is_pair and is_picture):
        return False
    return max(shares[:first].mean(), shares[last + 1 :].mean()) <= TEXT


def _is_even(picture: np.ndarray, above: int, below: int, level: float) -> bool:
    """Return whether bars are black, or grey everywhere: the dark parts of a scene are not even."""
    if _limit(level) <= BLACK:
        return True
    bars = np.concatenate([picture[:above], picture[len(picture) - below :]]).astype(int)
    return float((np.abs(bars - level) <= UNEVEN).mean()) >= 1 - TEXT


def _is_sharp(picture: np.ndarray, above: int) -> bool:
    """Return whether a picture begins with a step behind the bar above it: a light that fades out,
    such as the evening sky, has none.
    """
    means = picture[max(0, above - 2) : above + 2].mean(axis=1)
    return float(means.max() - means[0]) >= STEP


def _has_one_bar(picture: np.ndarray) -> bool:
    """Return whether (h, w) has a black bar above or below, which ends in a straight edge."""
    shares = (picture > BLACK).mean(axis=1)
    rows = np.flatnonzero(shares > LIT_ROW)
    size = len(shares)
    if len(rows) < MIN_PICTURE * size:
        return False
    for ends, seen in ((shares, picture), (shares[::-1], picture[::-1])):
        first = int(np.flatnonzero(ends > LIT_ROW)[0])
        is_straight = ends[first : first + 2].max() > FULL_EDGE
        if first >= MIN_BAR * size and is_straight and _is_sharp(seen, first):
            return True
    return False
