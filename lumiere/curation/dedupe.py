"""Finds clips that show the same: perceptual hashes propose pairs, and pixels decide.

A hash only sees brightness: it cannot tell a blue heart from a green one, or a clock at three from
one at twelve. So each proposed pair is also compared in colour, block by block. Re-encoding changes
every block a little; another subject changes some blocks a lot. `look_alikes` finds clips that are
no duplicates, but similar.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from lumiere.curation.filters import perceptual_hash

KEPT = 1024  # clips whose blocks stay in memory
BLOCKS = 16  # a grid of 16 x 16 blocks of 4 x 4 pixels: the hand of a clock fills some
MAX_BLOCK_DIFFERENCE = 24.0  # of 255; encoding again measured 11, the nearest different clips 51


def find_duplicates(signatures: Sequence[np.ndarray], max_distance: float) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of clips that show the same.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        max_distance: hashes count as alike if at most this many of their 64 bits differ, averaged
            over the frames.
    """
    if len(signatures) < 2:
        return []
    hashes = np.array(
        [[perceptual_hash(frame) for frame in clip] for clip in signatures], dtype=np.uint64
    )
    # hashes: (n, 4)

    @functools.lru_cache(maxsize=KEPT)
    def blocks(i: int) -> np.ndarray:  # (4, 16, 16, 3)
        return block_means(signatures[i])

    pairs = []
    for i in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[i] ^ hashes[i + 1 :]).mean(axis=1)  # (n - i - 1,)
        for j in i + 1 + np.flatnonzero(distances <= max_distance):
            if np.abs(blocks(i) - blocks(int(j))).max() <= MAX_BLOCK_DIFFERENCE:
                pairs.append((i, int(j)))
    return pairs


def clusters(num_items: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return, for each item, the lowest index that it is linked to, directly or through other
    items.
    """
    roots = list(range(num_items))

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = roots[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        roots[high] = low
    return [root(i) for i in range(num_items)]


def block_means(clip: np.ndarray) -> np.ndarray:
    """Return the mean colour of each block: uint8 (t, h, w, 3) -> float32 (t, 16, 16, 3)."""
    t, h, w, c = clip.shape
    blocks = clip.reshape(t, BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS, c)
    return blocks.mean(axis=(2, 4), dtype=np.float32)
