"""Finds clips that look alike, such as a recoloured heart, or a ram and a sheep.

They are not duplicates, but a model that is trained on one has seen too much of the other for a fair
test. They are found by their edges, which do not depend on colour or on the sign of contrast. Clips
of one camera share the edges of its backdrop, and count only if the same thing moves before it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from lumiere.curation.copies import is_copy
from lumiere.curation.dedupe import BLOCKS, block_means
from lumiere.data.disk_arrays import disk_array
from lumiere.data.shards import pack_arrays, unpack_arrays
from lumiere.data.video_io import code_version
from lumiere.files import write_atomically

ORIENTATIONS = 6  # of an edge, from 0 to 180 degrees
# Measured on the 268 sample clips (35,778 pairs, half of them below 0.14) by looking at every pair
# above 0.56. All 83 pairs above 0.62 share a kind and an outline: recolours 0.70 to 0.99, ram and
# sheep 0.82, two cars from the front 0.68, a broken heart and one with an arrow 0.64, two ships
# 0.62. The next pair, a clock and a spiral at 0.605, does not.
MIN_EDGE_CORRELATION = 0.62

# A block of 4 x 4 pixels belongs to a shared backdrop if its mean colour changes by no more than
# this (of 255) within both clips, and between them, after the light of the day is evened out.
STILL, SAME_COLOUR = 6.0, 10.0
MOST_GAIN = 1.7  # of the brightness, in all colours alike
BACKDROP_SHARE = 0.5  # of the edges of both clips; less is a thing on a plain ground

GROUNDS = 4096  # clips whose still parts are kept
ROWS, COLUMNS = 256, 2048  # clips that are compared at a time
# With at least SCREEN_FROM clips, only this many leading directions of their edges are compared at
# first. What is left of two frames adds at most the product of its lengths, so the screen loses no
# pair. Of 1,500 sample clips, shifted and turned, 0.1 % of the pairs pass it; with half the
# directions 8 % do, and comparing these takes longer than the screen.
SCREEN_FROM, DIRECTIONS = 1024, 256
BASIS_FRAMES = 4096  # from which the directions are computed
ROUNDING = 1e-3


def find_look_alikes(
    signatures: Sequence[np.ndarray], cache: Path | None = None
) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, sorted, of clips in which a frame of one has nearly the same
    edges as a frame of the other, and not only because of one backdrop.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        cache: file of the pairs of earlier runs, with which only new clips are compared; it is
            written anew.
    """
    if len(signatures) < 2:
        return []
    digests = [hashlib.sha256(clip.tobytes()).hexdigest() for clip in signatures]
    compared, pairs = _read_cache(cache)
    places = {digest: i for i, digest in enumerate(digests)}
    num_compared = sum(digest in compared for digest in places)
    if num_compared < len(places):
        order = sorted(places, key=lambda digest: (digest not in compared, places[digest]))
        clips = [signatures[places[digest]] for digest in order]
        new = _compare(clips, num_compared, None if cache is None else cache.parent)
        # Clips of earlier runs that are gone were not compared with the new ones.
        pairs = {pair for pair in pairs if set(pair) <= set(places)}
        pairs |= {(order[i], order[j]) for i, j in new}
        _write_cache(cache, set(order), pairs)
    return _places_of(digests, pairs)


def _places_of(digests: list[str], pairs: set[tuple[str, str]]) -> list[tuple[int, int]]:
    """Return the sorted pairs (i, j), i < j, of clips whose digests are a pair, or equal."""
    places: dict[str, list[int]] = {}
    for i, digest in enumerate(digests):
        places.setdefault(digest, []).append(i)
    linked: set[tuple[int, int]] = set()
    for one, other in pairs | {(digest, digest) for digest in places}:
        for i, j in itertools.product(places.get(one, ()), places.get(other, ())):
            if i != j:
                linked.add((min(i, j), max(i, j)))
    return sorted(linked)


def _compare(
    clips: Sequence[np.ndarray], num_compared: int, folder: Path | None
) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i, j), i < j and j >= `num_compared`, of clips that look alike."""
    size = BLOCKS * BLOCKS * ORIENTATIONS
    edges = disk_array((len(clips), len(clips[0]), size), np.float32, folder)  # (n, 4, 1536)
    for place, clip in enumerate(clips):
        edges[place] = [_edges(frame) for frame in clip]
    screen = _Screen(edges, folder)

    @functools.lru_cache(maxsize=GROUNDS)
    def ground(i: int) -> Ground:
        return Ground(clips[i])

    starts = range(0, len(clips), ROWS)
    for start in tqdm(starts, desc="look-alikes", unit="block", disable=len(starts) < 4):
        for column in range(max(start, num_compared), len(clips), COLUMNS):
            rows, columns = edges[start : start + ROWS], edges[column : column + COLUMNS]
            for i, j in screen.candidates(slice(start, start + len(rows)), column, len(columns)):
                if i < j and not is_backdrop_only(ground(i), ground(j)):
                    yield i, j


class _Screen:
    """Finds the pairs of frames whose edges correlate, with little arithmetic.

    Args:
        edges: float32 (n, 4, d), of each frame.
        folder: for a file of their leading directions.
    """

    def __init__(self, edges: np.ndarray, folder: Path | None) -> None:
        self._edges = edges
        self._coarse: np.ndarray | None = None
        if len(edges) < SCREEN_FROM:
            return
        frames = edges.reshape(-1, edges.shape[-1])
        picks = np.linspace(0, len(frames) - 1, BASIS_FRAMES).round().astype(int)
        sample = frames[picks]
        _, directions = np.linalg.eigh(sample.T @ sample)
        # (n, 4, k + 1): the leading directions, and the length of the rest
        self._coarse = disk_array((*edges.shape[:2], DIRECTIONS + 1), np.float32, folder)
        for start in range(0, len(edges), ROWS):
            rows = slice(start, start + ROWS)
            coarse = edges[rows] @ directions[:, -DIRECTIONS:]
            left = 1 - np.square(coarse).sum(axis=-1, keepdims=True)
            rest = np.sqrt(np.maximum(0, left))
            self._coarse[rows] = np.concatenate([coarse, rest], axis=-1)

    def candidates(self, rows: slice, column: int, num_columns: int) -> list[tuple[int, int]]:
        """Return the pairs (row, column) of clips that have frames with similar edges."""
        columns = slice(column, column + num_columns)
        if self._coarse is None:
            highest = _highest(self._edges[rows], self._edges[columns])
        else:
            bound = _highest(self._coarse[rows], self._coarse[columns])
            highest = np.full(bound.shape, -1.0, np.float32)
            numbers = np.arange(num_columns) + column
            for i, is_possible in enumerate(bound >= MIN_EDGE_CORRELATION - ROUNDING):
                place = rows.start + i
                others = np.flatnonzero(is_possible & (numbers > place))
                if len(others):
                    one = self._edges[place : place + 1]
                    highest[i, others] = _highest(one, self._edges[column + others])[0]
        correlated = np.argwhere(highest >= MIN_EDGE_CORRELATION)
        return [(rows.start + int(i), column + int(j)) for i, j in correlated]


def _highest(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the highest product of a frame of one clip and one of another: (m, 4, d), (n, 4, d)
    -> (m, n).
    """
    highest = np.full((len(ones), len(others)), -1.0, np.float32)
    for i in range(ones.shape[1]):
        for j in range(others.shape[1]):
            # The highest of whole matrices takes a tenth of the time that it takes over two axes.
            np.maximum(highest, ones[:, i] @ others[:, j].T, out=highest)
    return highest


class Ground:
    """Describes the parts of a clip that do not move.

    Attributes:
        clip: uint8 (4, 64, 64, 3).
        colours: float32 (16, 16, 3), the mean of each block.
        is_still: (16, 16), whether a block keeps its colour.
        edges: float32 (16, 16), the strength of all edges in each block.
    """

    def __init__(self, clip: np.ndarray) -> None:
        means = block_means(clip)
        self.clip = clip
        self.colours = means.mean(axis=0)
        self.is_still = np.ptp(means, axis=0).max(axis=-1) <= STILL
        self.edges = np.sum([_edge_strengths(frame) for frame in clip], axis=(0, -1))


def is_backdrop_only(one: Ground, other: Ground) -> bool:
    """Return whether two clips agree only in a backdrop, such as the street before a camera."""
    is_still = one.is_still & other.is_still
    is_backdrop = is_still & _is_same(one.colours, other.colours, is_still)
    if is_backdrop.all():
        return False  # nothing else is there to tell them apart
    for ground in (one, other):
        if ground.edges[is_backdrop].sum() < BACKDROP_SHARE * ground.edges.sum():
            return False
    return not is_copy(one.clip, other.clip, searches=False)


def _is_same(one: np.ndarray, other: np.ndarray, is_still: np.ndarray) -> np.ndarray:
    """Return which blocks have one colour in both clips, (16, 16), apart from the exposure.

    Args:
        one, other: float32 (16, 16, 3).
        is_still: the blocks from which the exposure is taken, (16, 16).
    """
    if is_still.any() and one[is_still].std() > 0:
        gain, offset = np.polyfit(one[is_still].ravel(), other[is_still].ravel(), 1)
        if 1 / MOST_GAIN <= gain <= MOST_GAIN:
            one = gain * one + offset
    return np.abs(one - other).max(axis=-1) <= SAME_COLOUR


def _edge_strengths(frame: np.ndarray) -> np.ndarray:
    """Measure the strength of edges: uint8 (64, 64, 3) -> float32 (16, 16, 6), by block and
    orientation.
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
    return strength.mean(axis=(1, 3))


def _edges(frame: np.ndarray) -> np.ndarray:
    """Return the strengths of edges as float32 (1536,) of mean 0 and length 1.

    A frame without edges gives zeros, which resemble nothing.
    """
    blocks = _edge_strengths(frame).ravel()
    blocks -= blocks.mean()
    return (blocks / max(float(np.linalg.norm(blocks)), 1e-6)).astype(np.float32)


def _code() -> str:
    return str(code_version(__name__, "lumiere.curation.copies", "lumiere.curation.dedupe"))


def _read_cache(cache: Path | None) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the digests of the clips that were compared, and the pairs among them."""
    if cache is None or not cache.is_file():
        return set(), set()
    arrays = unpack_arrays(cache.read_bytes())
    if str(arrays["code"]) != _code():
        return set(), set()
    digests = arrays["digests"].tolist()
    return set(digests), {(digests[i], digests[j]) for i, j in arrays["pairs"].tolist()}


def _write_cache(cache: Path | None, compared: set[str], pairs: set[tuple[str, str]]) -> None:
    if cache is None:
        return
    digests = sorted(compared)
    places = {digest: i for i, digest in enumerate(digests)}
    numbers = sorted((places[one], places[other]) for one, other in pairs)
    content = pack_arrays(
        code=np.array(_code()),
        digests=np.array(digests),
        pairs=np.array(numbers, np.int64).reshape(-1, 2),
    )
    write_atomically(cache, content)
