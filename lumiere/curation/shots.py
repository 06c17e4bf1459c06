"""Finds hard cuts among the frames of a video.

The detector joins two ideas of PySceneDetect and adds two checks. A frame starts a shot if it
differs from the frame before (ContentDetector), and differs more than neighbouring frames differ
from each other (AdaptiveDetector), so that fast motion is no cut. A small or unclear jump also needs
a jump of the colours. A flash is no cut: for a moment the picture is one colour, or the same scene in
another light, and then returns. Another picture between two shots is two cuts, however short it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.data.disk_arrays import ItemFile

NEIGHBOURS = 3  # frames on each side to which a jump is compared
# Shares of the threshold and ratios to the neighbours, chosen on the labelled set of the tests.
CLEAR_RATIO = 2.0  # a jump above the threshold is a cut if it exceeds its neighbours so much
SMALL_SHARE = 0.55  # jumps from this share of the threshold on are cuts if their colours jump too
SMALL_RATIO = 3.0
COLOUR_JUMP = 0.3  # share of the pixels that change their coarse colour
COLOUR_RATIO = 3.0
# Three frames at 24 fps, or a little less. Some containers round times to milliseconds.
FLASH_S = Fraction(1, 8) + Fraction(2, 1000)  # a flash is no longer
SWING_S = Fraction(1, 4) + Fraction(2, 1000)  # what swings like a cut is back so soon
# A picture has returned if it differs from itself less than this share of the jump.
RETURN_SHARE = 0.5
PLAIN_DEVIATION = 8.0  # of 255; a picture whose channels deviate less is one colour
SAME_STRUCTURE = 0.5  # correlation of a scene with itself in another light
ONE_WAY = 0.85  # share of the pixels that get brighter, or darker, if the light changes
REPEAT_SHARE = 0.1  # of the usual jump; encoding alone makes less
REGULAR = 0.9  # share of the pictures that are shown equally often
FEWEST_CHANGES = 5  # of which this can be said
DARK = 64  # below this value, of 255, hue and saturation mean little
THUMBNAIL = 16  # pixels on a side
COLOURS = 4  # levels of each channel in the coarse colours

Span = tuple[Fraction, Fraction]


class CutFinder:
    """Finds the cuts of a video whose frames are added one by one.

    It keeps two numbers per frame, and a thumbnail of 768 bytes in a file.

    Args:
        folder: where that lies; by default the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._hsv: np.ndarray | None = None
        self._colours: np.ndarray | None = None
        self._jumps = array("d")
        self._colour_jumps = array("d")
        self._thumbnails = ItemFile((THUMBNAIL, THUMBNAIL, 3), np.uint8, folder)

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
        self._thumbnails.append(
            cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        )

    def cuts(self, threshold: float, times: Sequence[Fraction]) -> list[int]:
        """Return the indices of the frames that start a shot, without the first frame.

        Args:
            threshold: mean change of hue, saturation and value that makes a clear cut, 0 to 255.
            times: ascending seconds of the frames. Frames without a time are left out.
        """
        count = min(len(self._jumps), len(times))
        return [i for i in range(1, count) if self._is_cut(i, threshold, times)]

    def _is_cut(self, i: int, threshold: float, times: Sequence[Fraction]) -> bool:
        jump = self._jumps[i]
        if jump < SMALL_SHARE * threshold:
            return False
        ratio = jump / max(_second_largest_neighbour(self._jumps, i), 1e-3)
        colour_jump = self._colour_jumps[i]
        others = _second_largest_neighbour(self._colour_jumps, i)
        colours_jump = colour_jump >= max(COLOUR_JUMP, COLOUR_RATIO * others)
        is_clear = jump >= threshold and (ratio >= CLEAR_RATIO or colours_jump)
        is_small = ratio >= SMALL_RATIO and colours_jump
        if not (is_clear or is_small):
            return False
        # What swings, such as the wings of a butterfly, is back soon too. It keeps its colours, and
        # moves before and after.
        is_moving = ratio < SMALL_RATIO and not colours_jump
        if is_moving and any(self._interruptions(i, times, SWING_S)):
            return False
        return not any(map(self._is_flash, self._interruptions(i, times, FLASH_S)))

    def _interruptions(
        self, i: int, times: Sequence[Fraction], longest: Fraction
    ) -> Iterator[range]:
        """Yield the frames between a picture and its return that begin at frame i, or end before it,
        and are shown no longer than `longest` seconds.
        """
        for after in range(i + 1, len(times)):
            if times[after] - times[i] > longest:
                break
            if self._returns(i - 1, after):
                yield range(i, after)
        for before in range(i - 2, -1, -1):
            if times[i] - times[before + 1] > longest:
                break
            if self._returns(before, i):
                yield range(before + 1, i)

    def _returns(self, before: int, after: int) -> bool:
        jump = min(self._distance(before, before + 1), self._distance(after - 1, after))
        return self._distance(before, after) < RETURN_SHARE * jump

    def _is_flash(self, between: range) -> bool:
        """Return whether some frames are one colour, or the picture before them in another light."""
        scene = self._thumbnails[between.start - 1]
        pictures = (self._thumbnails[i] for i in between)
        return all(_is_plain(picture) or _is_relit(scene, picture) for picture in pictures)

    def repeats(self) -> int:
        """Return how many times each picture is shown, if all are shown equally often; otherwise 1."""
        jumps = np.array(self._jumps[1:])
        if not len(jumps):
            return 1
        changes = np.flatnonzero(jumps > REPEAT_SHARE * np.percentile(jumps, 90))
        if len(changes) < FEWEST_CHANGES:
            return 1
        steps = np.diff(changes)
        usual = int(np.median(steps))
        return usual if (steps == usual).mean() >= REGULAR else 1

    def close(self) -> None:
        """Delete the thumbnails."""
        self._thumbnails.close()

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


def _is_plain(picture: np.ndarray) -> bool:
    """Return whether a thumbnail is nearly one colour."""
    return float(picture.std(axis=(0, 1)).max()) < PLAIN_DEVIATION


def _is_relit(scene: np.ndarray, picture: np.ndarray) -> bool:
    """Return whether a thumbnail shows a scene in another light: everything is brighter, or everything
    is darker, and bright parts stay the brighter ones.
    """
    before, after = (thumbnail.mean(axis=2).ravel() for thumbnail in (scene, picture))
    share_brighter = float((after > before).mean())
    if max(share_brighter, 1 - share_brighter) < ONE_WAY:
        return False
    before, after = before - before.mean(), after - after.mean()
    scale = float(np.sqrt((before**2).sum() * (after**2).sum()))
    return float((before * after).sum()) >= SAME_STRUCTURE * scale


def _second_largest_neighbour(jumps: Sequence[float], i: int) -> float:
    """Return the second largest jump near jump i. The largest may be another cut; the second
    largest is motion, also of animation that moves on every second frame only.
    """
    # Near an end of the video, take the missing ones from the other side.
    first = max(1, min(i - NEIGHBOURS, len(jumps) - 2 * NEIGHBOURS - 1))
    last = max(i, first + NEIGHBOURS) + NEIGHBOURS + 1
    near = sorted([*jumps[first:i], *jumps[i + 1 : last]])
    return near[-2] if len(near) > 1 else 0.0
