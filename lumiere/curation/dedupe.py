"""Clips that show the same: perceptual hashes propose, pixels decide.

A hash sees brightness only and takes a blue heart for a green one, or a clock at three for one at twelve. So
each proposed pair is compared in colour, block by block: a re-encoding changes every block a little, another
subject changes some block a lot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumiere.curation.filters import perceptual_hash

BLOCKS = 16  # the comparison's grid has 16 x 16 blocks of 4 x 4 pixels: the hand of a clock fills some
MAX_BLOCK_DIFFERENCE = 24.0  # of 255; a re-encoding measured 11, the nearest different clips 51


def find_duplicates(signatures: Sequence[np.ndarray], max_distance: float) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of clips that show the same.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        max_distance: bits of 64, mean over the frames, up to which hashes are alike.
    """
    if len(signatures) < 2:
        return []
    hashes = np.array([[perceptual_hash(frame) for frame in clip] for clip in signatures], dtype=np.uint64)  # (n, 4)
    blocks = np.stack([_block_means(clip) for clip in signatures])  # (n, 4, 16, 16, 3)
    pairs = []
    for i in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[i] ^ hashes[i + 1 :]).mean(axis=1)  # (n - i - 1,)
        for j in i + 1 + np.flatnonzero(distances <= max_distance):
            if np.abs(blocks[i] - blocks[j]).max() <= MAX_BLOCK_DIFFERENCE:
                pairs.append((i, int(j)))
    return pairs


def clusters(num_items: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each item the lowest index that it is linked to, directly or through others."""
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


def _block_means(clip: np.ndarray) -> np.ndarray:
    t, h, w, c = clip.shape
    return clip.reshape(t, BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS, c).mean(axis=(2, 4), dtype=np.float32)
