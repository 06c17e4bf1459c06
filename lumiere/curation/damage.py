"""Finds the stretches of a damaged video that can be trusted.

A decoder marks the frames whose damage it conceals, but not those that are predicted from them. So a
stretch ends some frames before the first mark, because frames that are shown earlier may be decoded
later, and the next begins at a key frame that resets the decoder.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from lumiere.curation.shots import Span
from lumiere.data.key_frames import key_frames
from lumiere.data.video_source import Damage

MOST_REORDERED = 16  # frames that H.264 and HEVC may decode before one that is shown earlier
SHORTEST_S = 1  # seconds; shorter stretches are of no use


def undamaged(path: Path, times: Sequence[Fraction], end: Fraction, damage: Damage) -> list[Span]:
    """Return the (start, end) of each stretch without damage, in seconds from the first frame.

    Args:
        path: the video.
        times: the times of its frames.
        end: when the last one ends.
        damage: what decoding it has noticed.
    """
    if not damage.is_timed:
        return []
    keys = key_frames(path)
    starts = [(point - keys.points[0]) * keys.time_base for point in keys.points]
    stretches = []
    start: Fraction | None = Fraction(0)
    for sign in sorted(set(damage.signs)):
        if start is not None and start <= sign:
            last = bisect.bisect_left(times, sign) - MOST_REORDERED
            if last > 0:
                stretches.append((start, times[last]))
        if start is None or start <= sign:
            start = next((key for key in starts if key > sign), None)
    if start is not None:
        stretches.append((start, end))
    return [(a, b) for a, b in stretches if b - a >= SHORTEST_S]


def within(shots: Sequence[Span], stretches: Sequence[Span]) -> tuple[Span, ...]:
    """Return the parts of shots that lie in the stretches, in order."""
    parts = [
        (max(shot[0], stretch[0]), min(shot[1], stretch[1]))
        for shot in shots
        for stretch in stretches
    ]
    return tuple(sorted((a, b) for a, b in parts if a < b))
