"""Finds clips that show the same: perceptual hashes propose pairs, and pixels decide.

A hash only sees brightness: it cannot tell a blue heart from a green one, or a clock at three from
one at twelve. So each proposed pair is also compared in colour, block by block. Re-encoding changes
every block a little; another subject changes some blocks a lot.

Clips that look alike, such as a recoloured heart, or a ram and a sheep, are not duplicates, but a
model that is trained on one has seen too much of the other for a fair test. They are found by their
edges, which do not depend on colour or on the sign of contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lumiere.curation.filters import perceptual_hash

BLOCKS = 16  # a grid of 16 x 16 blocks of 4 x 4 pixels: the hand of a clock fills some
MAX_BLOCK_DIFFERENCE = 24.0  # of 255; encoding again measured 11, the nearest different clips 51
ORIENTATIONS = 6  # of an edge, from 0 to 180 degrees
# Measured on the 268 sample clips (35,778 pairs, half of them below 0.14) by looking at every pair
# above 0.56. All 83 pairs above 0.62 share a kind and an outline: recolours 0.70 to 0.99, ram and
# sheep 0.82, two cars from the front 0.68, a broken heart and one with an arrow 0.64, two ships
# 0.62. The next pair, a clock and a spiral at 0.605, does not.
MIN_EDGE_CORRELATION = 0.62


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
    blocks = np.stack([_block_means(clip) for clip in signatures])  # (n, 4, 16, 16, 3)
    pairs = []
    for i in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[i] ^ hashes[i + 1 :]).mean(axis=1)  # (n - i - 1,)
        for j in i + 1 + np.flatnonzero(distances <= max_distance):
            if np.abs(blocks[i] - blocks[j]).max() <= MAX_BLOCK_DIFFERENCE:
                pairs.append((i, int(j)))
    return pairs


def find_look_alikes(signatures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of clips in which a frame of one has nearly the same edges as
    a frame of the other.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
    """
    if len(signatures) < 2:
        return []
    edges = np.stack([[_edges(frame) for frame in clip] for clip in signatures])  # (n, 4, 1536)
    pairs = []
    for i in range(len(edges) - 1):
        correlations = edges[i + 1 :] @ edges[i].T  # (n - i - 1, 4, 4)
        highest = correlations.max(axis=(1, 2))  # (n - i - 1,)
        pairs += [(i, int(j)) for j in i + 1 + np.flatnonzero(highest >= MIN_EDGE_CORRELATION)]
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


def _block_means(clip: np.ndarray) -> np.ndarray:
    t, h, w, c = clip.shape
    blocks = clip.reshape(t, BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS, c)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _edges(frame: np.ndarray) -> np.ndarray:
    """Measure the strength of edges by block and orientation: uint8 (64, 64, 3) -> float32 (1536,)
    of mean 0 and length 1.

    A frame without edges gives zeros, which resemble nothing.
    """
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    dx, dy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    angle = np.arctan2(dy, dx) % np.pi * (ORIENTATIONS / np.pi)  # (h, w) in [0, 6)
    away = np.abs(angle[..., None] - np.arange(ORIENTATIONS, dtype=np.float32))
    # (h, w, 6): linear between two neighbouring orientations
    shares = np.maximum(0, 1 - np.minimum(away, ORIENTATIONS - away))
    # The square root keeps outlines, strongest on a plain background, from drowning the edges
    # within them.
    strength = np.sqrt(np.hypot(dx, dy))[..., None] * shares
    h, w = gray.shape
    strength = strength.reshape(BLOCKS, h // BLOCKS, BLOCKS, w // BLOCKS, ORIENTATIONS)
    blocks = strength.mean(axis=(1, 3)).ravel()
    blocks -= blocks.mean()
    return (blocks / max(float(np.linalg.norm(blocks)), 1e-6)).astype(np.float32)
