"""Finds the picture within black bars for each clip of a video, whose shots may have different bars.

The bars that hold for the whole video are known from the first pass. Only where the small pictures
of a clip show more of them, a few of its frames are decoded again at full size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lumiere.curation import filters
from lumiere.curation.frame_pass import MAY_HAVE_BARS, SAMPLE_FPS, Pass
from lumiere.curation.shots import Span
from lumiere.curation.tick_frames import TickFrames, brightest_of
from lumiere.data.bars import Box, are_black, crop, find_picture, may_have_bars
from lumiere.data.video_io import Ticks, decode_spans
from lumiere.errors import VideoError

MOST_FRAMES = 12  # of a clip that are looked at, in memory at full size
FLASH_TICKS = 3  # that a flash of 1/8 s may light
EDGE = 2  # pixels inside the bars, whose edges are sharp


@dataclass(frozen=True)
class InnerPicture:
    """The picture of a clip within black bars.

    Attributes:
        frames: the small pictures, without bars.
        sharpness: see `filters`.
        box: left, top, width and height in pixels; None without bars.
    """

    frames: TickFrames
    sharpness: float
    box: Box | None


def inner_pictures(
    path: Path, seen: Pass, clips: Sequence[Span], num_shots: int, whole: Box | None
) -> list[InnerPicture]:
    """Find the bars of each clip, and note what may be bars.

    Args:
        path: the video.
        seen: its frames, without the bars of the whole video.
        clips: the start and the end of each, the shots first.
        num_shots: how many of the clips are shots.
        whole: the picture within the bars of the whole video; None without bars.
    """
    doubtful = [i for i, clip in enumerate(clips) if _shows(find_picture, seen.part(clip))]
    found: dict[int, InnerPicture] = {}
    # What a single shot shows is what the whole video shows.
    if doubtful and (num_shots > 1 or seen.damage):
        found = _look_again(path, seen, {i: clips[i] for i in doubtful}, whole)
    if num_shots > 1:  # the first pass has checked a single shot at full size
        doubtful += [
            i
            for i in range(num_shots)
            if i not in doubtful and _shows(may_have_bars, seen.part(clips[i]))
        ]
    num_found = sum(i < num_shots for i in found)
    _note(seen.notes, num_found, sum(i < num_shots for i in doubtful) - num_found, num_shots)
    return [
        found.get(i) or InnerPicture(seen.part(clip), seen.sharpness(clip), whole)
        for i, clip in enumerate(clips)
    ]


def _shows(look: Callable[[np.ndarray], Any], frames: TickFrames) -> bool:
    """Return whether `look` finds something in the brightest small picture of a clip, with or
    without a flash.
    """
    flash = min(FLASH_TICKS, len(frames) // 4)
    return any(look(brightest_of(frames, ticks)) for ticks in {0, flash})


def _note(notes: list[str], num_found: int, num_doubtful: int, num_shots: int) -> None:
    """Note how many shots may have bars, instead of a doubt about the video that is settled."""
    if num_found == num_shots and MAY_HAVE_BARS in notes:
        notes.remove(MAY_HAVE_BARS)
    if num_doubtful and MAY_HAVE_BARS not in notes:
        where = f" in {num_doubtful} of {num_shots} shots" if num_shots > 1 else ""
        notes.append(MAY_HAVE_BARS + where)


def _look_again(
    path: Path, seen: Pass, clips: dict[int, Span], whole: Box | None
) -> dict[int, InnerPicture]:
    """Decode some frames of clips at full size, and return the pictures of those that have bars."""
    numbers, found = list(clips), dict[int, InnerPicture]()
    ticks = [_ticks(clip) for clip in clips.values()]
    try:
        for place, decoded in decode_spans(path, ticks):
            i = numbers[place]
            if inner := _inner_picture(decoded.frames, seen, clips[i], whole):
                found[i] = inner
    except VideoError:  # what may be bars is noted
        return found
    return found


def _ticks(clip: Span) -> Ticks:
    """Return when to look at a clip."""
    start, end = clip
    last = Ticks(Fraction(SAMPLE_FPS), start, end).count_before(end) - 1
    picks = np.linspace(0, max(0, last), MOST_FRAMES).round().astype(int).tolist()
    gray = functools.partial(cv2.cvtColor, code=cv2.COLOR_RGB2GRAY)
    return Ticks(Fraction(SAMPLE_FPS), start, end, frozenset(picks), gray)


def _inner_picture(
    grays: np.ndarray, seen: Pass, clip: Span, whole: Box | None
) -> InnerPicture | None:
    """Return the picture of a clip within its bars; None without bars, or in doubt.

    Args:
        grays: uint8 (t, h, w), some of its frames.
        seen: all of them, small.
        clip: its start and end.
        whole: the picture within the bars of the whole video.
    """
    size, frames = seen.sizes[0], seen.part(clip)
    outer = whole or (0, 0, *size)
    inner = find_picture(crop(grays.max(axis=0), outer)) if len(grays) else None
    if inner is None:
        return None
    box = outer[0] + inner[0], outer[1] + inner[1], inner[2], inner[3]
    if find_picture(brightest_of(frames)) is None:
        return None  # something lights the bars briefly, perhaps between the decoded frames
    frames.cut_bars((0, 0, *size), size)  # look at whole pictures, with all bars
    if not are_black(brightest_of(frames), box, size):
        return None
    frames.cut_bars(box, size)
    left, top, width, height = box
    inside = (left + EDGE, top + EDGE, width - 2 * EDGE, height - 2 * EDGE)
    sharp = [filters.sharpness(crop(gray, inside)) for gray in grays]
    return InnerPicture(frames, round(float(np.median(sharp)), 3), box)
