"""Train and validation by a hash of the group, so that adding data never moves a clip between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def is_validation(group: str, seed: int, fraction: float) -> bool:
    """Whether a group of clips is held out.

    Args:
        group: what must stay together: a source video and all its duplicates go by the same name.
        seed: another seed holds out other groups.
        fraction: share of groups that is held out, in [0, 1].
    """
    return _position(group, seed) < fraction * 2**64


def assign_splits(groups: Iterable[str], seed: int, fraction: float) -> dict[str, str]:
    """ "train" or "validation" for each group.

    Where the hash leaves one of them empty though there are two groups, the group with the lowest (highest) hash
    fills it: a training without any validation, or the reverse, helps nobody.
    """
    ordered = sorted(set(groups), key=lambda group: (_position(group, seed), group))
    splits = {group: "validation" if is_validation(group, seed, fraction) else "train" for group in ordered}
    if fraction > 0 and len(ordered) > 1:
        if "validation" not in splits.values():
            splits[ordered[0]] = "validation"
        if "train" not in splits.values():
            splits[ordered[-1]] = "train"
    return splits


def _position(group: str, seed: int) -> int:
    """Where a group lies in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big")
