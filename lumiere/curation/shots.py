"""Finds hard cuts among the frames of a video.

The detector joins two ideas of PySceneDetect and adds two checks. A frame starts a shot if it
differs from the frame before (ContentDetector), and differs more than neighbouring frames differ
from each other (AdaptiveDetector), so that fast motion is no cut. A small or unclear jump also needs
a jump of the colours. A flash is no cut, because the picture before it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np

NEIGHBOURS = 3  # frames on each side to which a jump is compared
# Shares of the threshold and ratios to the neighbours, chosen on the labelled set of the tests.
CLEAR_RATIO = 2.0  # a jump above the threshold is a cut if it exceeds its neighbours so much
SMALL_SHARE = 0.55  # jumps from this share of the threshold on are cuts if their colours jump too
SMALL_RATIO = 3.0
COLOUR_JUMP = 0.3  # share of the pixels that change their coarse colour
COLOUR_RATIO = 3.0
FLASH_FRAMES = 4  # a picture that returns within so many frames was interrupted by a flash
FLASH_SHARE = 0.5  # it has returned if it differs from itself less than this share of the jump
DARK = 64  # below this value, of 255, hue and saturation mean little
COLOURS = 4  # levels of each channel in the coarse colours

Span = tuple[Fraction, Fraction]


class CutFinder:
    """Finds the cuts of a video whose frames are added one by one.

    It keeps two numbers and a thumbnail of 768 bytes per frame.
    """

    def __init__(self) -> None:
        self._hsv: np.ndarray | None = None
        self._colours: np.ndarray | None = None
        self._jumps: list[float] = []
        self._colour_jumps: list[float] = []
        self._thumbnails: list[np.ndarray] = []

    def add(self, small: np.ndarray) -> None:
        """Add the next frame, uint8 (64, 64, 3), RGB."""
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
        levels = small >> 6
        joint = (levels[..., 0] * COLOURS + levels[..., 1]) * COLOURS + levels[..., 2]
        colours = np.bincount(joint.ravel(), minlength=COLOURS**3) / joint.size
        if self._hsv is None or self._colours is None:
            self._jumps.append(0.0)
            self._colour_jumps.append(0.0)
        else:
            self._jumps.append(_difference(hsv, self._hsv))
            self._colour_jumps.append(float(np.abs(colours - self._colours).sum() / 2))
        self._hsv, self._colours = hsv, colours
        self._thumbnails.append(cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA))

    def cuts(self, threshold: float) -> list[int]:
        """Return the indices of the frames that start a shot, without the first frame.

        Args:
            threshold: mean change of hue, saturation and value that makes a clear cut, 0 to 255.
        """
        return [i for i in range(1, len(self._jumps)) if self._is_cut(i, threshold)]

    def _is_cut(self, i: int, threshold: float) -> bool:
        jump = self._jumps[i]
        if jump < SMALL_SHARE * threshold:
            return False
        ratio = jump / max(_second_largest_neighbour(self._jumps, i), 1e-3)
        colour_jump = self._colour_jumps[i]
        others = _second_largest_neighbour(self._colour_jumps, i)
        colours_jump = colour_jump >= max(COLOUR_JUMP, COLOUR_RATIO * others)
        is_clear = jump >= threshold and (ratio >= CLEAR_RATIO or colours_jump)
        is_small = ratio >= SMALL_RATIO and colours_jump
        return (is_clear or is_small) and not self._is_flash(i)

    def _is_flash(self, i: int) -> bool:
        """Return whether the picture before frame i returns soon, or frame i is such a return."""
        for k in range(1, FLASH_FRAMES + 1):
            after = i + k
            if after < len(self._thumbnails) and self._returns(i - 1, i, after):
                return True
            before = i - 1 - k
            if before >= 0 and self._returns(before, i - 1, i):
                return True
        return False

    def _returns(self, before: int, between: int, after: int) -> bool:
        jump = min(self._distance(before, between), self._distance(between, after))
        return self._distance(before, after) < FLASH_SHARE * jump

    def _distance(self, i: int, j: int) -> float:
        return float(cv2.absdiff(self._thumbnails[i], self._thumbnails[j]).mean())


def shots_between(times: Sequence[Fraction], cuts: Sequence[int], end: Fraction) -> list[Span]:
    """Return the (start, end) of each shot in seconds from the first frame, in order and without
    gaps; at least one.

    Args:
        times: the exact times of all frames.
        cuts: indices of the frames that start a shot, from `CutFinder.cuts`.
        end: seconds at which the last frame ends.
    """
    starts = [Fraction(0), *(times[i] for i in cuts)]
    return list(zip(starts, [*starts[1:], end], strict=True))


def _difference(hsv: np.ndarray, before: np.ndarray) -> float:
    """Return the mean change of hue, saturation and value, 0 to 255.

    Where one of the pictures is dark, hue and saturation count less, because a fade to black would
    jump in them.
    """
    hue, saturation, value = cv2.split(cv2.absdiff(hsv, before))
    light = np.minimum(cv2.min(hsv[..., 2], before[..., 2]), DARK)
    colour = cv2.add(hue, saturation, dtype=cv2.CV_32F)
    weighted = cv2.mean(cv2.multiply(colour, light, dtype=cv2.CV_32F))[0] / DARK
    return (weighted + cv2.mean(value)[0]) / 3


def _second_largest_neighbour(jumps: Sequence[float], i: int) -> float:
    """Return the second largest jump near jump i. The largest may be another cut; the second
    largest is motion, also of animation that moves on every second frame only.
    """
    # Near an end of the video, take the missing ones from the other side.
    first = max(1, min(i - NEIGHBOURS, len(jumps) - 2 * NEIGHBOURS - 1))
    last = max(i, first + NEIGHBOURS) + NEIGHBOURS + 1
    near = sorted([*jumps[first:i], *jumps[i + 1 : last]])
    return near[-2] if len(near) > 1 else 0.0
