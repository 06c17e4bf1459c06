"""Finds edited copies: mirrored, cropped, graded, with a logo, cut shorter.

A perceptual hash finds none of them. A network that was trained on other pictures proposes the most
similar clips, and what moves in them decides. Clips of one camera share a backdrop and are no
copies, so the backdrop must not count: it is lined up and taken away, and what is left has to be the
same. Copies stay on one side of the split, so that no video of the validation set was seen in
training.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from tqdm import tqdm

from lumiere.curation.embedding_cache import EmbeddingCache
from lumiere.curation.verdict_cache import VerdictCache
from lumiere.data.disk_arrays import disk_array
from lumiere.data.video_io import code_version
from lumiere.data.workers import Failure, report_progress, run_tasks
from lumiere.errors import WorkerError

FRAMES = slice(1, 3)  # of a signature: the two in the middle
BATCH = 256  # clips that are embedded, or compared with all others, at a time
NEAREST = 20  # clips with which each clip is compared; a copy of a copy is found through the other
# Cosines of EfficientNet-Lite0, measured on 19 clips of cameras and animations and six copies of
# each: mirrored 0.94 to 0.99, with a logo 0.95 to 0.99, graded 0.93 to 0.99, cropped to 80 % 0.76
# to 0.96, in grey 0.66 to 0.97. Of 35,778 pairs of the sample clips half are below 0.48. Different
# clips of one camera reach 0.99, so that no cosine is certain.
POSSIBLE = 0.6
SHOWN_FROM = 1000  # comparisons, of 4 ms each, that show their progress
PROCESSES_FROM = 2000  # comparisons that are shared by processes, which take a second to start
PAIRS = 128  # that a process compares at a time
SAVED_EVERY = 10_000  # comparisons, so that a killed run resumes
SIDES = (64, 58, 52, 46, 40)  # to which a picture is shrunk to be found in the other: 100 to 62 %
EDGE = 2  # pixels that are left out around it, where a crop and a whole picture differ
# Correlations of what moves, measured on 24 sample clips, compressed anew: mirrored, with a logo,
# graded, cropped or in grey 0.95 or more for nine of ten; cut shorter by 9 of 32 frames half above
# 0.83 (edges find the others, see `look_alikes`). Of 336 pairs of clips that show different objects
# before one backdrop (synthetic, 12 backdrops), the highest is 0.63.
MIN_MOVEMENT = 0.7
# If both clips change less than this (root mean square, of 255), compression moves more than the
# picture: a still clip of 0.8 has 2.1 when it is compressed anew. Of 269 sample clips 17 are below.
FAINT = 3.0
MIN_DETAIL = 0.9  # correlation of the details of such clips; their copies measured 0.92 or more
DETAIL_SIGMA = 4.0  # pixels; what is coarser is shading, in which different pictures agree


class Network(Protocol):
    """The part of an evaluation backbone that is used here."""

    @property
    def identity(self) -> str:
        """A hash over all that decides the features; the key of the cache."""
        ...

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Compute float32 features (n, d) of uint8 frames (n, h, w, 3)."""
        ...


def embed_clips(signatures: Sequence[np.ndarray], network: Network, cache: Path) -> np.ndarray:
    """Embed the middle frames of each clip, or read them from an earlier run.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        network: embeds frames, uint8 (n, 64, 64, 3) to float32 (n, d).
        cache: file of earlier embeddings, by network and frames, to which new ones are added.

    Returns:
        float32 (n, 2, d), each of length 1, on the disk.
    """
    prefix = network.identity.encode()
    keys = [hashlib.sha256(prefix + clip[FRAMES].tobytes()).hexdigest()[:32] for clip in signatures]
    stored = EmbeddingCache(cache)
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = [i for i, key in enumerate(keys) if key not in stored and first[key] == i]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        frames = np.concatenate([signatures[i][FRAMES] for i in batch])
        vectors = network.embed(frames).reshape(len(batch), 2, -1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
        stored.add([keys[i] for i in batch], vectors.reshape(len(batch), -1))
    if missing:
        stored.save()
    embeddings = disk_array((len(keys), stored.size), np.float32, cache.parent)
    stored.copy_to(keys, embeddings)
    return embeddings.reshape(len(keys), 2, -1)


def find_copies(
    signatures: Sequence[np.ndarray],
    vectors: np.ndarray,
    cache: Path | None = None,
    workers: int = 1,
    timeout_s: float = 60.0,
) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of clips one of which is probably an edited copy of the other.

    Args:
        signatures: one per clip, uint8 (4, 64, 64, 3).
        vectors: from `embed_clips`.
        cache: file of the verdicts of earlier runs; only new pairs are compared, and added to it.
        workers: how many processes compare, if there are many pairs. The result does not depend on
            it.
        timeout_s: seconds, the limit for a comparison in one of them.
    """
    pairs = _nearest_pairs(vectors)
    verdicts = VerdictCache(cache, str(code_version(__name__)))
    digests = [hashlib.sha256(clip.tobytes()).hexdigest()[:32] for clip in signatures]
    # In this order, because the search takes the first of equally good places.
    keys = [(digests[i], digests[j]) for i, j in pairs]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}  # equal clips count once
    new = [place for key, place in first.items() if key not in verdicts]
    batches = _Batches(signatures, [pairs[place] for place in sorted(new)])
    unsaved = 0
    with tqdm(total=len(new), desc="copies", unit="pair", disable=len(new) < SHOWN_FROM) as shown:
        for number, answers in _compared(batches, workers, timeout_s):
            for (i, j), answer in zip(batches.pairs_of(number), answers, strict=True):
                verdicts.add((digests[i], digests[j]), answer)
            shown.update(len(answers))
            unsaved += len(answers)
            if unsaved >= SAVED_EVERY:
                verdicts.save()
                unsaved = 0
    if unsaved:
        verdicts.save()
    return [pair for pair, key in zip(pairs, keys, strict=True) if verdicts[key]]


def compare(clips: np.ndarray, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    """Return whether the clips of each pair are copies, see `is_copy`.

    Args:
        clips: uint8 (n, 4, 64, 64, 3).
        pairs: the places of two clips.
    """
    answers = []
    for i, j in pairs:
        answers.append(is_copy(clips[i], clips[j]))
        report_progress()
    return answers


def _compared(
    batches: _Batches, workers: int, timeout_s: float
) -> Iterator[tuple[int, list[bool]]]:
    """Yield the number and the answers of each batch, in any order."""
    workers = min(workers, os.cpu_count() or 1)
    if workers < 2 or len(batches.pairs) < PROCESSES_FROM:
        for number, batch in enumerate(batches):
            yield number, compare(*batch)
        return
    left = set(range(len(batches)))
    # What goes wrong in a process, or at its start, says nothing about clips.
    try:
        for number, outcome in run_tasks(compare, batches, workers, timeout_s):
            if not isinstance(outcome, Failure):
                left.remove(number)
                yield number, outcome
    except WorkerError as error:
        cause = str(error).partition(";")[0]
        told = f"copies: {cause}; comparing in this process, which is slower"
        tqdm.write(told, file=sys.stderr)
    for number in sorted(left):
        yield number, compare(*batches[number])


@dataclass(frozen=True)
class _Batches(Sequence[tuple]):
    """Holds the arguments of `compare` for some pairs at a time, made when they are asked for.

    Attributes:
        signatures: of all clips.
        pairs: the places of two clips in it.
    """

    signatures: Sequence[np.ndarray]
    pairs: list[tuple[int, int]]

    def pairs_of(self, number: int) -> list[tuple[int, int]]:
        """Return the pairs of a batch."""
        return self.pairs[number * PAIRS : (number + 1) * PAIRS]

    def __len__(self) -> int:
        return math.ceil(len(self.pairs) / PAIRS)

    def __getitem__(self, number: Any) -> Any:  # no slices
        if number >= len(self):
            raise IndexError(number)
        own = self.pairs_of(number)
        needed = sorted({place for pair in own for place in pair})
        places = {place: k for k, place in enumerate(needed)}
        clips = np.stack([self.signatures[place] for place in needed])
        return clips, [(places[i], places[j]) for i, j in own]


def _nearest_pairs(vectors: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, sorted, of each clip and its nearest possible copies.

    Of equally near clips the first ones count, so that the result does not depend on the machine.
    """
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(vectors), BATCH):
        rows = vectors[start : start + BATCH]
        cosines = np.full((len(rows), len(vectors)), -1.0, np.float32)
        for one in range(2):
            for other in range(2):
                np.maximum(cosines, rows[:, one] @ vectors[:, other].T, out=cosines)
        own = np.arange(len(rows))
        cosines[own, start + own] = -1.0
        for i, row in enumerate(cosines):
            for j in _highest_places(row):
                pairs.add((min(start + i, j), max(start + i, j)))
    return sorted(pairs)


def _highest_places(cosines: np.ndarray) -> list[int]:
    """Return where the highest cosines (n,) are, of those that are possible copies."""
    places = np.flatnonzero(cosines >= POSSIBLE)
    if len(places) > NEAREST:
        values = cosines[places]
        least = np.partition(values, -NEAREST)[-NEAREST]
        places = places[values >= least]
        places = places[np.argsort(-cosines[places], kind="stable")[:NEAREST]]
    return places.tolist()


@dataclass(frozen=True)
class _Alignment:
    """Describes where one picture lies in another.

    Attributes:
        is_swapped: the first clip lies in the second, and not the second in the first.
        is_mirrored: the part is a mirror image.
        side: pixels to which the part is shrunk, before its edge is left out.
        left, top: where its inner part begins in the whole picture.
    """

    is_swapped: bool
    is_mirrored: bool
    side: int
    left: int
    top: int


# A logo misleads the search, and moves nothing.
UNMOVED = (
    _Alignment(False, False, SIDES[0], EDGE, EDGE),
    _Alignment(False, True, SIDES[0], EDGE, EDGE),
)


def is_copy(one: np.ndarray, other: np.ndarray, searches: bool = True) -> bool:
    """Return whether two frames of a clip show what two frames of the other show, in whole or part.

    What moves is compared; if nearly nothing does in both, the details of the whole picture are.

    Args:
        one, other: signatures, uint8 (4, 64, 64, 3).
        searches: whether to look for a cropped copy too, which takes most of the time.
    """
    ones, others = _grays(one), _grays(other)
    is_faint = max(float(_moving(clip).std()) for clip in (ones, others)) < FAINT
    rest, least = (_details, MIN_DETAIL) if is_faint else (_moving, MIN_MOVEMENT)
    searched = [_search(ones[FRAMES], others[FRAMES])] if searches else []
    for alignment in (*UNMOVED, *searched):
        whole, part = _lined_up(ones, others, alignment)
        if _second_best(_correlations(rest(whole), rest(part))) >= least:
            return True
    return False


def _search(ones: np.ndarray, others: np.ndarray) -> _Alignment:
    """Return where the frames of one clip correlate best with a part of the other's.

    Brightness and contrast do not count. A picture without structure correlates with nothing.

    Args:
        ones, others: float32 (n, 64, 64), compared frame by frame.
    """
    best, alignment = -1.0, UNMOVED[0]
    for a, b in zip(ones, others, strict=True):
        for is_swapped, is_mirrored in itertools.product((False, True), repeat=2):
            whole, part = (b, a) if is_swapped else (a, b)
            for side in SIDES:
                small = _shrunk(part, is_mirrored, side)
                if small.std() < 1:
                    continue
                match = cv2.matchTemplate(whole, small, cv2.TM_CCOEFF_NORMED)
                _, highest, _, (left, top) = cv2.minMaxLoc(match)
                if highest > best:
                    best = highest
                    alignment = _Alignment(is_swapped, is_mirrored, side, left, top)
    return alignment


def _lined_up(
    ones: np.ndarray, others: np.ndarray, alignment: _Alignment
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part that both clips show, float32 (4, h, w) each."""
    whole, part = (others, ones) if alignment.is_swapped else (ones, others)
    small = np.stack([_shrunk(frame, alignment.is_mirrored, alignment.side) for frame in part])
    side, left, top = small.shape[1], alignment.left, alignment.top
    return whole[:, top : top + side, left : left + side], small


def _shrunk(frame: np.ndarray, is_mirrored: bool, side: int) -> np.ndarray:
    """Return a picture at a size, as it is or mirrored, without its edge."""
    turned = cv2.flip(frame, 1) if is_mirrored else frame
    small = cv2.resize(turned, (side, side), interpolation=cv2.INTER_AREA)
    return small[EDGE:-EDGE, EDGE:-EDGE]


def _moving(clip: np.ndarray) -> np.ndarray:
    """Take away what all frames of a clip have in common, such as the backdrop or a logo."""
    return clip - clip.mean(axis=0)


def _details(clip: np.ndarray) -> np.ndarray:
    """Take away what is coarse."""
    return np.stack([frame - cv2.GaussianBlur(frame, (0, 0), DETAIL_SIGMA) for frame in clip])


def _correlations(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlate each frame of one clip with each of the other: (m, h, w), (n, h, w) -> (m, n)."""
    flat = []
    for clip in (ones, others):
        rows = clip.reshape(len(clip), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        flat.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3))
    return flat[0] @ flat[1].T


def _second_best(correlations: np.ndarray) -> float:
    """Return the highest value that two frames of a clip reach with two frames of the other."""
    rows, columns = range(correlations.shape[0]), range(correlations.shape[1])
    return max(
        min(float(correlations[i, k]), float(correlations[j, m]))
        for i, j in itertools.combinations(rows, 2)
        for k, m in itertools.permutations(columns, 2)
    )


def _grays(clip: np.ndarray) -> np.ndarray:
    """Return the brightness of a clip: uint8 (n, h, w, 3) -> float32 (n, h, w)."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]).astype(np.float32)
