"""Chooses the windows of a clip that are trained on: where something moves, and where the pictures
fit the caption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lumiere.data.bars import Box
from lumiere.data.optical_flow import FLOW_FPS
from lumiere.data.remote import RemoteFile

# How the stillest windows of camera footage tell what is noise, see `least_motion`. Chosen on made
# and real backdrops with noise and shake, and so that animation without noise stays as it is.
BAND_PER_WINDOW = 0.05  # width of their band per window's length, as a share of what rises above it
WIDEST_BAND = 0.2
LOW_SHARE = 0.4  # the band begins above this share of them, because the very stillest are chance
STANDS_OUT = 1.6  # times their motion; what moves less does not stand out


@dataclass(frozen=True)
class WindowSettings:
    """The shape of a training clip.

    Attributes:
        fps: frames per second.
        num_frames: frames of one window.
        size: in pixels: the side of a square, (height, width), or several such pairs. Windows are
            cut at one of them.
        clips_per_video: windows per clip of the manifest; fewer if the clip is too short for that
            many.
        min_window_motion: share of the motion of the liveliest window that every window has, above
            what noise and shake move.
        max_match_drop: how far below that of the clip's best window a window's fit with its caption
            may be, as a difference of cosines.
    """

    fps: int
    num_frames: int
    size: Any
    clips_per_video: int
    min_window_motion: float = 0.0
    max_match_drop: float = 2.0


@dataclass(frozen=True)
class Source:
    """A stretch of a video.

    Attributes:
        path: the file; a remote one is fetched when it is read.
        sha256: the hash of the file when it was curated.
        start, end: seconds from its first frame, exact.
        decoder: "decord" or "pyav".
        motion_curve: the manifest's column, by which windows are chosen; windows are evenly spread
            if it is empty.
        box: the picture within black bars, see `bars`; None without bars. Stretches of one video
            may have different ones.
        match_curve: the manifest's column, by which windows are chosen too; empty if no model has
            compared the pictures with the caption.
    """

    path: Path | RemoteFile
    sha256: str
    start: Fraction
    end: Fraction
    decoder: str
    motion_curve: tuple[float, ...] = ()
    box: Box | None = None
    match_curve: tuple[float, ...] = ()


def choose(source: Source, settings: WindowSettings) -> list[int]:
    """Return the first frames of the windows of a stretch, counted at `settings.fps`; empty if it is
    too short for one.
    """
    num_ticks, length = count_ticks(source, settings), settings.num_frames
    starts = window_starts(num_ticks, length, settings.clips_per_video)
    motions = window_motions(source, num_ticks, settings)
    matches = window_matches(source, num_ticks, settings)
    share, max_drop = settings.min_window_motion, settings.max_match_drop
    return choose_windows(starts, length, motions, share, matches, max_drop)


def count_ticks(source: Source, settings: WindowSettings) -> int:
    """Return how many frames a stretch has at `settings.fps`."""
    return max(0, math.ceil((source.end - source.start) * settings.fps))


def window_starts(num_ticks: int, num_frames: int, count: int) -> list[int]:
    """Return the first frames of up to `count` different windows, evenly spread over the video."""
    if num_ticks < num_frames:
        return []
    return sorted(
        {round(start) for start in np.linspace(0, num_ticks - num_frames, count).tolist()}
    )


def window_motions(source: Source, num_ticks: int, settings: WindowSettings) -> np.ndarray:
    """Return the mean of the motion curve in each window of a stretch, by the window's first frame;
    empty without a curve.
    """
    curve = source.motion_curve
    count = num_ticks - settings.num_frames + 1
    if not curve or count < 1:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    origin = math.ceil(source.start * FLOW_FPS)  # the tick at which the curve begins
    motions = []
    for first in range(count):
        begin = source.start + Fraction(first, settings.fps)
        end = begin + Fraction(settings.num_frames - 1, settings.fps)
        low = min(max(0, math.floor(begin * FLOW_FPS) - origin), len(curve) - 1)
        high = min(max(low + 1, math.ceil(end * FLOW_FPS) - origin), len(curve))
        motions.append((sums[high] - sums[low]) / (high - low))
    return np.array(motions)


def window_matches(source: Source, num_ticks: int, settings: WindowSettings) -> np.ndarray:
    """Return the mean of the match curve in each window of a stretch, by the window's first frame;
    empty without a curve.
    """
    curve, length = source.match_curve, settings.num_frames
    if not curve or num_ticks < length:
        return np.empty(0)
    places = (np.arange(len(curve)) + 0.5) / len(curve)  # of its values, as shares of the stretch
    ticks = np.interp((np.arange(num_ticks) + 0.5) / num_ticks, places, curve)
    sums = np.concatenate([[0.0], np.cumsum(ticks)])
    return (sums[length:] - sums[:-length]) / length


def choose_windows(
    starts: list[int],
    length: int,
    motions: np.ndarray,
    share: float,
    matches: np.ndarray | None = None,
    max_drop: float = 2.0,
) -> list[int]:
    """Replace windows in which little moves, or that do not show what the caption says.

    Motion is measured over a whole clip, and its first and last second may be still: the road
    before the car drives by. Or something else moves: trees, before a person walks in.

    Args:
        starts: the first frames of evenly spread windows, from `window_starts`.
        length: frames of a window.
        motions: from `window_motions`.
        share: of the motion of the liveliest window that a window must have, see `least_motion`.
        matches: from `window_matches`; None or empty if nobody knows.
        max_drop: how far below the best of the lively windows the match of a window may be.

    Returns:
        The first frames of up to as many windows, at least one, in order. Those that replace others
        overlap none.
    """
    if not starts or not len(motions):
        return starts
    is_good = motions >= least_motion(motions, length, share)
    if matches is not None and len(matches):
        is_good &= matches >= matches[is_good].max() - max_drop
    chosen = [start for start in starts if is_good[start]]
    while len(chosen) < len(starts):
        free = [
            start
            for start in np.flatnonzero(is_good).tolist()
            if all(abs(start - other) >= length for other in chosen)
        ]
        if not free:
            break
        chosen.append(max(free, key=lambda start: motions[start]))
    return sorted(chosen)


def least_motion(motions: np.ndarray, length: int, share: float) -> float:
    """Return how much has to move in a window.

    That is a share of what moves in the liveliest window. Sensor noise and a shaking hand move all
    the time, though. So if many windows lie in a narrow band at the bottom, and others far above it,
    the band is noise: the share counts above it, and a window has to rise to twice the band, or half
    of the way up. Otherwise nothing stands out, and every window that moves is as good.

    Args:
        motions: from `window_motions`; at least one.
        length: frames of a window.
        share: 0 to 1; 0 if anything will do.
    """
    top = float(motions.max())
    if share <= 0:
        return 0.0
    ascending = np.sort(motions)
    counts = np.arange(length, len(motions))  # how many windows the band may hold
    low = ascending[(LOW_SHARE * counts).astype(int)]
    # Windows that share frames are alike, so a few of them are no evidence.
    widths = np.minimum(WIDEST_BAND, BAND_PER_WINDOW * counts / length)
    is_band = ascending[counts] - low <= widths * (top - low)
    if not is_band.any():
        return share * top
    noise = float(ascending[counts[is_band][-1] // 2])
    if top < STANDS_OUT * noise:
        return share * top
    limit = noise + max(share * (top - noise), min(noise, (top - noise) / 2))
    return min(top, limit)  # rounding may exceed it
