"""Finds edited copies: mirrored, cropped, graded, with a logo, cut shorter.

A perceptual hash finds none of them. A network that was trained on other pictures proposes pairs,
and for all but the most similar a search for one picture within the other decides. Copies stay on
one side of the split, so that no video of the validation set was seen in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from lumiere.data.shards import pack_arrays, unpack_arrays
from lumiere.files import write_atomically

FRAMES = slice(1, 3)  # of a signature: the two in the middle
BATCH = 256  # clips that are embedded, or compared with all others, at a time
# Cosines of EfficientNet-Lite0, measured on 19 clips of cameras and animations and six copies of
# each: mirrored 0.94 to 0.99, with a logo 0.95 to 0.99, graded 0.93 to 0.99, cropped to 80 % 0.76
# to 0.96, in grey 0.66 to 0.97. Of 35,778 pairs of the sample clips half are below 0.48, and the
# different subjects that are most similar, a sun behind clouds and a cloud, have 0.879.
CERTAIN = 0.9
POSSIBLE = 0.6
# The search finds the same copies at 0.97 or more, but for logos. Different samples that are
# possible copies reach 0.89; above it are hearts of other colours, and moons in a mirror.
MIN_CORRELATION = 0.9
SIDES = (64, 58, 52, 46, 40)  # to which a picture is shrunk to be found in the other: 100 to 62 %
EDGE = 2  # pixels that are left out around it, where a crop and a whole picture differ


class Network(Protocol):
    """The part of an evaluation backbone that is used here."""

    @property
    def identity(self) -> str: ...

    def embed(self, frames: np.ndarray) -> np.ndarray: ...


def embed_clips(signatures: Sequence[np.ndarray], network: Network, cache: Path) -> np.ndarray:
    """Embed the middle frames of each clip, or read them from an earlier run.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        network: embeds frames, uint8 (n, 64, 64, 3) to float32 (n, d).
        cache: file of earlier embeddings, by network and frames; it is written anew.

    Returns:
        float32 (n, 2, d), each of length 1.
    """
    prefix = network.identity.encode()
    keys = [hashlib.sha256(prefix + clip[FRAMES].tobytes()).hexdigest()[:32] for clip in signatures]
    known = dict(unpack_arrays(cache.read_bytes())) if cache.is_file() else {}
    missing = [i for i, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        frames = np.concatenate([signatures[i][FRAMES] for i in batch])
        vectors = network.embed(frames).reshape(len(batch), 2, -1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
        known.update((keys[i], vector) for i, vector in zip(batch, vectors, strict=True))
    if missing:
        write_atomically(cache, pack_arrays(**{key: known[key] for key in sorted(set(keys))}))
    return np.stack([known[key] for key in keys])


def find_copies(signatures: Sequence[np.ndarray], vectors: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of clips one of which is probably an edited copy of the other.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        vectors: from `embed_clips`.
    """
    pairs = []
    for start in range(0, len(vectors), BATCH):
        rows = vectors[start : start + BATCH]
        cosines = np.full((len(rows), len(vectors)), -1.0, np.float32)
        for one in range(2):
            for other in range(2):
                np.maximum(cosines, rows[:, one] @ vectors[:, other].T, out=cosines)
        for i, j in np.argwhere(cosines >= POSSIBLE).tolist():
            if start + i >= j:
                continue
            if cosines[i, j] >= CERTAIN or _is_within(signatures[start + i], signatures[j]):
                pairs.append((start + i, j))
    return pairs


def _is_within(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether a frame of a clip shows the same as a part of a frame of the other."""
    ones, others = ([_gray(frame) for frame in clip[FRAMES]] for clip in (one, other))
    for a in ones:
        for b in others:
            for turned in (b, cv2.flip(b, 1)):
                if max(_correlation(a, turned), _correlation(turned, a)) >= MIN_CORRELATION:
                    return True
    return False


def _correlation(whole: np.ndarray, part: np.ndarray) -> float:
    """Return the highest correlation of a picture, shrunk, with a part of another, −1 to 1.

    Brightness and contrast do not count. A picture without structure correlates with nothing.
    """
    best = -1.0
    for side in SIDES:
        small = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
        small = small[EDGE:-EDGE, EDGE:-EDGE]
        if small.std() < 1:
            continue
        best = max(best, float(cv2.matchTemplate(whole, small, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _gray(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
