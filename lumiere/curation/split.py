"""Splits videos into train and validation by a hash of their names.

Videos that look alike form a group. A group is held out only if the hash holds out each of its
videos, so groups of several videos are held out less often than single videos. If you add data, a
clip moves from validation to training when a new look-alike goes to training. The reverse never
happens, so a clip that a model has trained on is never held out later, unless few or very large
groups need the bound of `assign_splits`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MOST_HELD_OUT = 2  # times the fraction that was asked for
LARGE_GROUP = 0.3  # share of the clips above which a group decides what the sides contain


def is_validation(name: str, seed: int, fraction: float) -> bool:
    """Return whether the hash of a video's name holds it out.

    Args:
        name: the name of the video.
        seed: another seed holds out other videos.
        fraction: the share of names that are held out, in [0, 1].
    """
    return _is_held_out(_position(name, seed), fraction)


def assign_splits(
    groups: Mapping[str, str], seed: int, fraction: float, clips: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Assign "train" or "validation" to each group.

    Training needs both sides. With at least two groups and a fraction above 0, at least one group is
    held out, and at most `MOST_HELD_OUT` times the fraction of all clips; where the smallest group is
    larger than that, only that group.

    Args:
        groups: the group of each video, by the video's name.
        seed, fraction: see `is_validation`.
        clips: how many clips each video has, by its name; one each by default.
    """
    positions: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, group in groups.items():
        positions[group] = max(positions.get(group, 0), _position(name, seed))
        sizes[group] = sizes.get(group, 0) + (1 if clips is None else clips[name])
    ordered = sorted(positions, key=lambda group: (positions[group], group))
    held_out = [group for group in ordered if _is_held_out(positions[group], fraction)]
    if fraction > 0 and len(ordered) > 1:
        held_out = _bounded(held_out, ordered, sizes, MOST_HELD_OUT * fraction)
    return {group: "validation" if group in set(held_out) else "train" for group in ordered}


def split_notes(rows: Sequence[Mapping[str, Any]], fraction: float) -> list[str]:
    """Return what a person should know about the split, and what helps.

    Args:
        rows: the rows of the manifest.
        fraction: the share of clips that should be held out.
    """
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    if not accepted:
        return []
    ((group, count),) = Counter(row["group"] for row in accepted).most_common(1)
    video = next(row["video"] for row in accepted if row["group"] == group)
    notes = []
    if fraction > 0 and all(row["split"] != "validation" for row in accepted):
        notes.append(
            f"no clip is held out for validation, because all {len(accepted)} belong to one group, "
            f"that of {video}; add videos that show something else in another place"
        )
    elif count > 1 and count > LARGE_GROUP * len(accepted):
        notes.append(
            f"{count} of {len(accepted)} accepted clips are in one group, that of {video}: they come "
            "from one video or look alike, so all are on one side of the split; if that is too "
            "many, add videos that show something else in another place"
        )
    return notes


def _bounded(
    held_out: list[str], ordered: list[str], sizes: Mapping[str, int], share: float
) -> list[str]:
    """Return the groups to hold out so that both sides have some, and at most a share of all clips.

    Args:
        held_out: the groups that their hash holds out, in order.
        ordered: all groups in the order of their hash, at least two.
        sizes: clips of each group.
        share: of all clips.
    """
    most = share * sum(sizes.values())
    kept, count = [], 0
    for group in held_out:
        if count + sizes[group] <= most:
            kept.append(group)
            count += sizes[group]
    if not kept:  # the first that fits, or the smallest
        fitting = [group for group in ordered if sizes[group] <= most]
        kept = fitting[:1] or [min(ordered, key=lambda group: sizes[group])]
    return kept[:-1] if len(kept) == len(ordered) else kept


def _is_held_out(position: int, fraction: float) -> bool:
    return position < fraction * 2**64


def _position(name: str, seed: int) -> int:
    """Return the hash of a name, uniform in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
