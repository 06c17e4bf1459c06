"""Splits videos into train and validation by a hash of their names.

Videos that look alike form a group. A group is held out only if the hash holds out each of its
videos, so groups of several videos are held out less often than single videos. If you add data, a
clip moves from validation to training when a new look-alike goes to training. The reverse never
happens, so a clip that a model has trained on is never held out later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def is_validation(name: str, seed: int, fraction: float) -> bool:
    """Return whether the hash of a video's name holds it out.

    Args:
        name: the name of the video.
        seed: another seed holds out other videos.
        fraction: the share of names that are held out, in [0, 1].
    """
    return _is_held_out(_position(name, seed), fraction)


def assign_splits(groups: Mapping[str, str], seed: int, fraction: float) -> dict[str, str]:
    """Assign "train" or "validation" to each group.

    If there are at least two groups and one side is empty, the group whose hash is nearest to that
    side moves there, because training needs both sides.

    Args:
        groups: the group of each video, by the video's name.
        seed, fraction: see `is_validation`.
    """
    positions: dict[str, int] = {}
    for name, group in groups.items():
        positions[group] = max(positions.get(group, 0), _position(name, seed))
    ordered = sorted(positions, key=lambda group: (positions[group], group))
    splits = {}
    for group in ordered:
        splits[group] = "validation" if _is_held_out(positions[group], fraction) else "train"
    if fraction > 0 and len(ordered) > 1:
        if "validation" not in splits.values():
            splits[ordered[0]] = "validation"
        if "train" not in splits.values():
            splits[ordered[-1]] = "train"
    return splits


def _is_held_out(position: int, fraction: float) -> bool:
    return position < fraction * 2**64


def _position(name: str, seed: int) -> int:
    """Return the hash of a name, uniform in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
