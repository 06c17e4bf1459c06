"""Finds the stretches of a damaged video that can be trusted.

A decoder marks the frames whose damage it conceals, but neither those that are predicted from them
nor all from which damage spreads. So a stretch begins and ends at key frames that reset the decoder,
and the whole group of pictures around a sign of damage is left out. Only decoders that mark almost
all damage allow that: where others give one sign, more damage has none.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from lumiere.curation.shots import Span
from lumiere.data.decoder_signs import MARKING_CODECS
from lumiere.data.key_frames import key_frames
from lumiere.data.video_source import Damage

SHORTEST_S = 1  # seconds; shorter stretches are of no use


def undamaged(path: Path, codec: str, end: Fraction, damage: Damage) -> list[Span]:
    """Return the (start, end) of each stretch without damage, in seconds from the first frame.

    Args:
        path: the video.
        codec: its canonical name.
        end: when the last frame ends.
        damage: the damage that decoding it has shown.
    """
    if not damage.is_timed or codec not in MARKING_CODECS:
        return []
    keys = key_frames(path, must_seek=False)
    starts = [(point - keys.points[0]) * keys.time_base for point in keys.points]
    stretches = []
    start = starts[0] if starts else None
    for sign in sorted(set(damage.signs)):
        if start is None:
            break
        if sign >= start:
            stretches.append((start, starts[bisect.bisect_right(starts, sign) - 1]))
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
