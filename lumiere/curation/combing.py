"""Detects pictures that are woven from two fields of different times but not marked as such.

Where something moves, the rows of such a picture alternate between two times like a comb. Fine
texture alternates as well, but between columns too. Slats and stripes alternate only between rows,
but they are still there in the picture before or after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

STEP = 4  # every fourth column is looked at, and every fourth row
LEAST_CONTRAST = 12  # of 255, between rows that alternate
LEAST_SHARE = 0.002  # of the pixels of a picture
MORE_THAN_COLUMNS = 4  # times as many pixels
# Of the pictures that are looked at; still ones are not combed.
LEAST_PICTURES, LEAST_PICTURES_SHARE = 3, 0.2
# Of the pixels where rows alternate; fewer are edges of what moves before stripes.
MOVING_SHARE = 0.1
SAME_SHARE = 0.5  # of the contrast, by which rows that stay as they are may change
CHANGE = 12  # of 255, by which a part of a small picture changes if it is another one
CUT = 40.0  # of 255, by which it changes in the mean if the scene is another one


class Picture(Protocol):
    """A frame that becomes a picture when someone asks for it."""

    def picture(self) -> np.ndarray:
        """Return uint8 (h, w, 3), RGB."""
        ...


@dataclass
class _Doubt:
    """A picture whose rows alternate, until one that differs from it is seen.

    Attributes:
        rows: uint8 (h, w), its brightness.
        near: the same of the last picture before it that differs.
        count: how often it was looked at.
    """

    rows: np.ndarray
    near: list[np.ndarray]
    count: int = 1


class CombCounter:
    """Counts the pictures of a video that are combed.

    Args:
        are_rows_shown: whether rows of a stored frame are shown as rows, and not as columns.
    """

    def __init__(self, are_rows_shown: bool = True) -> None:
        self._are_rows_shown = are_rows_shown
        self._count = 0
        self._doubt: _Doubt | None = None
        # Pictures that are shown for long count once.
        self._current: tuple[Picture, np.ndarray] | None = None
        self._before: Picture | None = None

    def see(self, frame: Picture, small: np.ndarray) -> None:
        """Note the next frame.

        Args:
            frame: as shown.
            small: uint8 (64, 64, 3), the same.
        """
        if self._current is not None:
            change = cv2.absdiff(small, self._current[1])
            if change.max() < CHANGE:
                return
            is_cut = change.mean() > CUT
            if self._doubt is not None:
                self._decide([] if is_cut else [self._rows(frame.picture())])
            self._before = None if is_cut else self._current[0]
        self._current = frame, small

    def look(self, picture: np.ndarray) -> None:
        """Look closely at the frame that was seen last, uint8 (h, w, 3)."""
        if self._doubt is not None:  # it is still shown
            self._doubt.count += 1
            return
        rows = self._rows(picture)
        if is_combed(rows):
            near = [] if self._before is None else [self._rows(self._before.picture())]
            self._doubt = _Doubt(rows, near)

    def count(self) -> int:
        """Return how many of the pictures that were looked at are combed, after the last one."""
        if self._doubt is not None:
            self._decide([])
        return self._count

    def _decide(self, after: list[np.ndarray]) -> None:
        assert self._doubt is not None
        near = [
            rows for rows in (*self._doubt.near, *after) if rows.shape == self._doubt.rows.shape
        ]
        if near and is_combed(self._doubt.rows, near):
            self._count += self._doubt.count
        self._doubt = None

    def _rows(self, picture: np.ndarray) -> np.ndarray:
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return gray if self._are_rows_shown else gray.T


def is_combed(gray: np.ndarray, near: Sequence[np.ndarray] = ()) -> bool:
    """Return whether the rows of a picture, uint8 (h, w), alternate between two times.

    Args:
        gray: its brightness.
        near: those of pictures before and after it, in which rows that do not move alternate too.
    """
    rows = all_rows = _alternating(gray[:, ::STEP], [])
    if rows <= LEAST_SHARE:
        return False
    if near:
        rows = _alternating(gray[:, ::STEP], [other[:, ::STEP] for other in near])
        if rows <= max(LEAST_SHARE, MOVING_SHARE * all_rows):
            return False
    columns = _alternating(gray[::STEP].T, [other[::STEP].T for other in near])
    return rows > MORE_THAN_COLUMNS * columns


def is_interlaced(num_combed: int, num_pictures: int) -> bool:
    """Return whether enough pictures of a video are combed."""
    return num_combed >= max(LEAST_PICTURES, LEAST_PICTURES_SHARE * num_pictures)


def _alternating(gray: np.ndarray, near: Sequence[np.ndarray]) -> float:
    """Return the share of the pixels of (h, w) that begin four rows like dark, light, dark, light,
    and do not stay as they are.
    """
    if len(gray) < 4:
        return 0.0
    one, two, three, four = _four_rows(gray)
    contrast = np.minimum(one, three) - np.maximum(two, four)
    contrast = np.maximum(contrast, np.minimum(two, four) - np.maximum(one, three))
    alternates = contrast >= LEAST_CONTRAST
    for other in near:
        for shift in (0, 1):  # stripes that move by an odd number of rows look like the next ones
            pairs = zip((one, two, three, four), _four_rows(np.roll(other, shift, 0)), strict=True)
            change = np.max([np.abs(rows - others) for rows, others in pairs], axis=0)
            alternates &= change > SAME_SHARE * contrast
    return float(alternates.mean())


def _four_rows(gray: np.ndarray) -> list[np.ndarray]:
    """Return each row of (h, w) and the three below it, int16 (h - 3, w) each."""
    return [gray[i : len(gray) - 3 + i].astype(np.int16) for i in range(4)]
