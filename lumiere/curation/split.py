"""Train and validation by a draw for every video: a hash of its name.

Videos that look alike form a group, and a group is held out where the draws of all its videos say so. Adding data can
so move a clip from validation into training, when a look-alike of it is drawn for training, but never the other way:
what a model has trained on is never held out later. Groups of several are held out less often than the fraction says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def is_validation(name: str, seed: int, fraction: float) -> bool:
    """Whether a video's own draw holds it out.

    Args:
        name: the video's.
        seed: another seed holds out other videos.
        fraction: share of the draws that hold out, in [0, 1].
    """
    return _is_held_out(_position(name, seed), fraction)


def assign_splits(groups: Mapping[str, str], seed: int, fraction: float) -> dict[str, str]:
    """ "train" or "validation" for each group.

    Where the draws leave one of them empty though there are two groups, the group that came nearest to it fills it: a
    training without any validation, or the reverse, helps nobody.

    Args:
        groups: the group of each video, by the video's name.
        seed, fraction: see `is_validation`.
    """
    positions: dict[str, int] = {}
    for name, group in groups.items():
        positions[group] = max(positions.get(group, 0), _position(name, seed))
    ordered = sorted(positions, key=lambda group: (positions[group], group))
    splits = {
        group: "validation" if _is_held_out(positions[group], fraction) else "train"
        for group in ordered
    }
    if fraction > 0 and len(ordered) > 1:
        if "validation" not in splits.values():
            splits[ordered[0]] = "validation"
        if "train" not in splits.values():
            splits[ordered[-1]] = "train"
    return splits


def _is_held_out(position: int, fraction: float) -> bool:
    return position < fraction * 2**64


def _position(name: str, seed: int) -> int:
    """Where a video's draw lies in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
