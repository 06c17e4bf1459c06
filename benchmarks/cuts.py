"""Counts the cuts that curation finds, misses and invents, on made videos and on joins of real ones.

    python benchmarks/cuts.py                    # the labelled set of the tests
    python benchmarks/cuts.py FOLDER_OF_CLIPS    # also joins of the clips in a folder

A clip of a video should never cross a cut, and a cut that does not exist costs a video its caption.
Real clips are divided where cuts are found; stretches of at least a second are then joined, with hard
cuts, short inserts, flashes, dissolves and fades, so that every cut is known.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumiere.config import CurateConfig
from lumiere.curation.filters import FLOW_SIDE
from lumiere.curation.shots import CutFinder
from lumiere.data.video_source import source_frames
from lumiere.errors import VideoError
from tests.curation.labelled_shots import Labelled, labelled_set

FPS = 24
STRETCH = 24  # frames of a stretch that is joined
PER_KIND = 40

Stretches = Sequence[np.ndarray]  # each uint8 (t, 64, 64, 3)


def cuts_in(frames: np.ndarray, fps: Fraction | int = FPS) -> set[int]:
    """Return the frames that start a shot, of uint8 (t, 64, 64, 3)."""
    finder = CutFinder()
    for frame in frames:
        finder.add(frame)
    times = [Fraction(i) / fps for i in range(len(frames))]
    return set(finder.cuts(CurateConfig().shot_threshold, times))


def stretches_of(folder: Path) -> list[np.ndarray]:
    """Return stretches without a cut of the clips in a folder; files that are no videos get a note."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            frames = np.stack([frame.thumbnail(FLOW_SIDE) for frame in source_frames(path)])
        except VideoError as error:
            print(f"left out: {path.name}: {error}", file=sys.stderr)
            continue
        borders = [0, *sorted(cuts_in(frames)), len(frames)]
        shots = [frames[start:end] for start, end in itertools.pairwise(borders)]
        found += [shot for shot in shots if len(shot) >= STRETCH]
    return found


def pick(generator: np.random.Generator, stretches: Stretches, count: int = 2) -> list[np.ndarray]:
    """Return `STRETCH` frames each of different stretches, up to `count`."""
    picked = []
    for i in generator.permutation(len(stretches))[:count]:
        start = int(generator.integers(0, len(stretches[i]) - STRETCH + 1))
        picked.append(stretches[i][start : start + STRETCH])
    return picked


def joined(generator: np.random.Generator, stretches: Stretches) -> Labelled:
    """Two to four shots of 4 to 24 frames."""
    whole = pick(generator, stretches, int(generator.integers(2, 5)))
    shots = [shot[: int(generator.integers(4, STRETCH + 1))] for shot in whole]
    borders = np.cumsum([len(shot) for shot in shots])[:-1].tolist()
    return np.concatenate(shots), borders


def insert(length: int) -> Callable[[np.random.Generator, Stretches], Labelled]:
    """Return what inserts `length` frames of one stretch into another."""

    def made(generator: np.random.Generator, stretches: Stretches) -> Labelled:
        first, second = pick(generator, stretches)
        frames = np.concatenate([first[:12], second[:length], first[12:]])
        return frames, [12, 12 + length]

    made.__name__ = f"insert of {length}"
    return made


def white_flash(generator: np.random.Generator, stretches: Stretches) -> Labelled:
    """A flash of one to three frames."""
    frames = pick(generator, stretches)[0].copy()
    frames[12 : 12 + int(generator.integers(1, 4))] = generator.choice([0, 250])
    return frames, []


def camera_flash(generator: np.random.Generator, stretches: Stretches) -> Labelled:
    """A flash that makes one frame much brighter, and the next a little."""
    frames = pick(generator, stretches)[0].astype(float)
    frames[12] = frames[12] * 1.5 + 90
    frames[13] = frames[13] * 1.2 + 30
    return frames.clip(0, 255).astype(np.uint8), []


def dissolve(generator: np.random.Generator, stretches: Stretches) -> Labelled:
    """One stretch dissolves into another in 8 to 16 frames; there is no hard cut."""
    first, second = pick(generator, stretches)
    length = int(generator.integers(8, 17))
    ramp = np.linspace(0, 1, length)[:, None, None, None]
    middle = (1 - ramp) * first[-length:] + ramp * second[:length]
    return np.concatenate([first[:-length], middle.astype(np.uint8), second[length:]]), []


def fade(generator: np.random.Generator, stretches: Stretches) -> Labelled:
    """One stretch fades to black, and another one from black, in 8 to 12 frames each."""
    first, second = (frames.astype(float) for frames in pick(generator, stretches))
    length = int(generator.integers(8, 13))
    ramp = np.linspace(1, 0, length)[:, None, None, None]
    first[-length:] *= ramp
    second[:length] *= ramp[::-1]
    return np.concatenate([first, second]).astype(np.uint8), []


JOINS = [
    joined, *(insert(length) for length in (1, 2, 3, 4, 6)),
    white_flash, camera_flash, dissolve, fade,
]  # fmt: skip


def made_of(stretches: Stretches) -> dict[str, list[Labelled]]:
    """Return videos of each kind that are made of real stretches."""
    generator = np.random.default_rng(0)
    return {
        make.__name__.replace("_", " "): [make(generator, stretches) for _ in range(PER_KIND)]
        for make in JOINS
    }


def lines(kinds: dict[str, list[Labelled]]) -> Iterator[str]:
    """Return the rows of a table: for each kind, and for all, what was found."""
    total = np.zeros(3, int)
    for kind, videos in kinds.items():
        found = missed = false = 0
        for frames, cuts in videos:
            answer = cuts_in(frames)
            found += len(answer & set(cuts))
            missed += len(set(cuts) - answer)
            false += len(answer - set(cuts))
        total += (found, missed, false)
        yield f"| {kind.replace('_', ' ')} | {len(videos)} | {found} | {missed} | {false} |"
    found, missed, false = total.tolist()
    precision, recall = found / max(1, found + false), found / max(1, found + missed)
    scores = f"precision {precision:.3f}, recall {recall:.3f}"
    yield f"| all: {scores} | {sum(map(len, kinds.values()))} | {found} | {missed} | {false} |"


def main() -> None:
    """Print a table for the labelled set, and one for joins of the clips in a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="clips whose stretches are joined")
    arguments = parser.parse_args()
    sets = {"labelled set": labelled_set(PER_KIND)}
    if arguments.folder is not None:
        if not arguments.folder.is_dir():
            parser.error(f"{arguments.folder}: no such folder")
        stretches = stretches_of(arguments.folder)
        if len(stretches) < 2:
            parser.error(
                f"{arguments.folder}: joins need two stretches of {STRETCH} frames without a cut; "
                f"its clips have {len(stretches)}"
            )
        sets["joins of real clips"] = made_of(stretches)
    for name, kinds in sets.items():
        print(f"\n| {name} | videos | found | missed | false |\n|---|---:|---:|---:|---:|")
        print(*lines(kinds), sep="\n")


if __name__ == "__main__":
    main()
