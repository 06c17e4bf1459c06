"""Detects pictures that are woven from two fields of different times but not marked as such.

Where something moves, the rows of such a picture alternate between two times like a comb. Fine
texture alternates as well, but between columns too.
"""

from __future__ import annotations

import numpy as np

STEP = 4  # every fourth column is looked at, and every fourth row
LEAST_CONTRAST = 12  # of 255, between rows that alternate
LEAST_SHARE = 0.002  # of the pixels of a picture
MORE_THAN_COLUMNS = 4  # times as many pixels
LEAST_PICTURES, LEAST_PICTURES_SHARE = (
    3,
    0.2,
)  # of the pictures that are looked at; still ones are not combed


def is_combed(gray: np.ndarray) -> bool:
    """Return whether the rows of a picture, uint8 (h, w), alternate between two times."""
    rows = _alternating(gray[:, ::STEP])
    return rows > LEAST_SHARE and rows > MORE_THAN_COLUMNS * _alternating(gray[::STEP].T)


def is_interlaced(num_combed: int, num_pictures: int) -> bool:
    """Return whether enough pictures of a video are combed."""
    return num_combed >= max(LEAST_PICTURES, LEAST_PICTURES_SHARE * num_pictures)


def _alternating(gray: np.ndarray) -> float:
    """Return the share of the pixels of (h, w) that begin four rows like dark, light, dark, light."""
    if len(gray) < 4:
        return 0.0
    one, two, three, four = (gray[i : len(gray) - 3 + i].astype(np.int16) for i in range(4))
    lights_first = np.minimum(one, three) - np.maximum(two, four) >= LEAST_CONTRAST
    darks_first = np.minimum(two, four) - np.maximum(one, three) >= LEAST_CONTRAST
    return float(np.mean(lights_first | darks_first))
