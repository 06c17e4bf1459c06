"""Finds out what each score sees: real videos are spoilt step by step and scored like generated ones.

Window B of each subject, degraded, takes the place of the generated videos; window A of the same
subjects is the reference. Undegraded, window B is the floor itself, so every step starts from there.

    python -m lumiere.evaluation.study.sensitivity --clips outputs/clips -o outputs/sensitivity

writes sensitivity.json and tables.md. A run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lumiere.errors import DataError, run_program
from lumiere.evaluation.backbones.weight_files import Weights
from lumiere.evaluation.blind_scores import BLIND
from lumiere.evaluation.clip_sets import RealClips
from lumiere.evaluation.comparison import compare
from lumiere.evaluation.folders import load_networks
from lumiere.evaluation.judge import Judge, load_judge
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measure_videos import Networks, measure_set
from lumiere.evaluation.measurements import Measured
from lumiere.evaluation.scores import Better, Floor, Interval, Score
from lumiere.evaluation.study.degradations import DEGRADATIONS, Degradation, degrade_set
from lumiere.evaluation.study.study_tables import blind_scores, replace_tables, tables
from lumiere.evaluation.study.study_verdicts import Cell, can_see, judge_steps
from lumiere.evaluation.temporal.video_numbers import compare_frames
from lumiere.evaluation.videos import LazyVideos, Video
from lumiere.files import write_atomically
from lumiere.plurals import counted

STUDY_FILE = "sensitivity.json"
MIN_STUDY = 4  # videos; intervals need a few
DIGITS = 4  # of the numbers in the file
Steps = list[list[Score]]  # the scores of each step


@dataclass(frozen=True)
class StudyVideos:
    """The real videos of a study; all have one size and length.

    Attributes:
        reference: window A, one video per subject.
        spoilt: window B of the same subjects, to be degraded.
        others: window A of as many other subjects.
        captions: the sentences of these subjects, then of the others, then of all further ones,
            which only compete in retrieval.
    """

    reference: Sequence[Video]
    spoilt: Sequence[Video]
    others: Sequence[Video]
    captions: Sequence[tuple[str, ...]]


def choose_videos(
    real: RealClips, num_videos: int, size: tuple[int, int], seed: int = 0
) -> StudyVideos:
    """Draw subjects that have two windows, and as many others.

    Raises:
        DataError: if there are too few subjects, or too few are asked for.
    """
    order = [real.subjects[i] for i in np.random.default_rng(seed).permutation(len(real.subjects))]
    twice = [subject for subject in order if real.other_window(subject) is not None][:num_videos]
    rest = [subject for subject in order if subject not in set(twice)]
    if num_videos < MIN_STUDY:
        raise DataError(f"{counted(num_videos, 'video')}; a study needs at least {MIN_STUDY}")
    if len(twice) < num_videos or len(rest) < num_videos:
        raise DataError(
            f"{real.folder}: {len(twice)} subjects with two clips and {len(rest)} others; "
            f"{num_videos} of each are needed; make --num-videos smaller"
        )
    return StudyVideos(
        reference=[real.read(real.window(subject), size) for subject in twice],
        spoilt=[_other_window(real, subject, size) for subject in twice],
        others=[real.read(real.window(subject), size) for subject in rest[:num_videos]],
        captions=[real.captions(subject) for subject in [*twice, *rest]],
    )


class Study:
    """Scores degraded sets of one choice of videos.

    The real videos are measured once. Frames that a degradation leaves as they were are not
    embedded again.

    Args:
        videos: to degrade.
        networks: that measure.
        seed: of the degradations and of all other draws.
    """

    def __init__(self, videos: StudyVideos, networks: Networks, seed: int = 0) -> None:
        self.videos, self.seed = videos, seed
        all_videos = [*videos.reference, *videos.spoilt, *videos.others]
        judge = None if networks.judge is None else KnownSentences(**vars(networks.judge))
        self.networks = replace(
            networks, main=KnownFrames(networks, all_videos), judge=judge, cache=None
        )
        self.real = self._measure(videos.reference, "window A")
        self.again = self._measure(videos.spoilt, "window B")
        others = self._measure(videos.others, "other subjects")
        count = len(videos.reference)  # the other subjects follow in the set of real videos
        self.others = {count + i: replace(m, index=count + i) for i, m in others.items()}
        self.paired_real = self._pairs(videos.spoilt)

    def scores(self, generated: Sequence[Video] | LazyVideos, what: str = "videos") -> list[Score]:
        """Score a set, one video per subject, in place of generated videos."""
        videos = list(generated)  # several passes; small enough to keep
        measured = Measured(
            generated=self._measure(videos, what),
            real=self.real,
            other_windows=self.again,
            others=self.others,
            paired=self._pairs(videos),
            paired_real=self.paired_real,
        )
        return compare(self._sets(videos), measured, self.networks, self.seed).scores

    def run(self, degradation: Degradation) -> Steps:
        """Score all steps of a degradation."""
        step_scores = []
        for step in degradation.steps:
            spoilt = degrade_set(
                degradation, step.amount, self.videos.spoilt, self.videos.others, self.seed
            )
            step_scores.append(self.scores(spoilt, f"{degradation.label}, {step.label}"))
        return step_scores

    def _measure(self, videos: Sequence[Video], what: str) -> dict[int, Any]:
        measured, _ = measure_set(_in_memory(videos), range(len(videos)), self.networks, what)
        return measured

    def _pairs(self, videos: Sequence[Video]) -> dict[int, dict[str, float]]:
        pairs = {}
        for index, (video, real) in enumerate(zip(videos, self.videos.reference, strict=True)):
            pairs[index] = compare_frames(video.frames, real.frames, video.fps)
        return pairs

    def _sets(self, generated: Sequence[Video]) -> MatchedSets:
        first = self.videos.reference[0]
        windows: dict[int, Callable[[], Video]] = {
            i: partial(self.videos.spoilt.__getitem__, i) for i in range(len(self.videos.spoilt))
        }
        real = [*self.videos.reference, *self.videos.others]
        return MatchedSets(
            generated=_in_memory(generated),
            real=_in_memory(real),
            other_windows=windows,
            partners=list(range(len(generated))),
            real_captions=list(self.videos.captions),
            num_frames=len(first.frames),
            size=first.frames.shape[1:3],
            fps=first.fps,
        )


class KnownFrames:
    """A backbone that remembers the frames of the undegraded videos.

    Args:
        networks: its main backbone is used, by its cache.
        videos: whose frames are remembered.
    """

    def __init__(self, networks: Networks, videos: Sequence[Video]) -> None:
        self.networks, self.backbone = networks, networks.main
        self.name: str = self.backbone.name
        self.preprocessing: str = self.backbone.preprocessing
        self.weights: Weights = self.backbone.weights
        self.known: dict[bytes, np.ndarray] = {}
        for video in videos:
            features = self.networks.embed(self.backbone, video.frames)
            for frame, row in zip(video.frames, features, strict=True):
                self.known[frame.tobytes()] = row

    @property
    def identity(self) -> str:
        """The backbone's own."""
        return self.backbone.identity

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Return features of uint8 frames (n, h, w, 3): (n, d)."""
        rows = [self.known.get(frame.tobytes()) for frame in frames]
        new = [k for k, row in enumerate(rows) if row is None]
        if new:
            computed = self.networks.embed(self.backbone, frames[new])
            for k, row in zip(new, computed, strict=True):
                rows[k] = row
        return np.stack([row for row in rows if row is not None])


@dataclass
class KnownSentences(Judge):
    """A judge that remembers sentences: all sets of a study share their captions."""

    known: dict[str, np.ndarray] = field(default_factory=dict)

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """Embed k sentences: → float32 (k, d), each of length 1."""
        new = [text for text in dict.fromkeys(sentences) if text not in self.known]
        if new:
            self.known.update(zip(new, super().encode_text(new), strict=True))
        return np.stack([self.known[text] for text in sentences])


def judge_study(start: Sequence[Score], runs: Mapping[str, Steps]) -> dict[str, dict[str, Cell]]:
    """Judge all scores: key → degradation → cell.

    Args:
        start: the scores of the undegraded set.
        runs: the scores of each step, by degradation.
    """
    table: dict[str, dict[str, Cell]] = {}
    for score in start:
        table[score.key] = {}
        for name, steps in runs.items():
            step_scores = [_find(scores, score.key) for scores in steps]
            labels = [step.label for step in DEGRADATIONS[name].steps]
            table[score.key][name] = judge_steps([score, *step_scores], labels)
    return table


def study_file(
    start: Sequence[Score], runs: Mapping[str, Steps], settings: Mapping[str, object]
) -> dict[str, Any]:
    """Return the content of sensitivity.json."""
    scores: dict[str, Any] = {}
    for score, cells in zip(start, judge_study(start, runs).values(), strict=True):
        sees, why = can_see(score.key, cells)
        interval = None if score.floor is None else score.floor.interval
        scores[score.key] = {
            "label": score.label,
            "sees": sees,
            "why": why,
            "saturated": score.saturated,
            "floor": None if interval is None else [_short(interval.low), _short(interval.high)],
            "degradations": {name: _cell(cell) for name, cell in cells.items()},
        }
    return {"settings": dict(settings), "scores": scores}


# --- the command -----------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study, or go on with it, and write the tables."""
    options = _parse(arguments)
    if options.update is not None:  # before the long run
        replace_tables(options.update.read_text(encoding="utf-8"), "")
    networks = replace(load_networks((), options.cache), judge=load_judge())
    real = RealClips(options.clips, options.num_frames)
    videos = choose_videos(real, options.num_videos, (options.size, options.size), options.seed)
    settings = {
        "subjects": sorted(video.subject for video in videos.reference),
        "num_videos": options.num_videos,
        "num_frames": options.num_frames,
        "size": options.size,
        "seed": options.seed,
        "features": networks.main.name,
    }
    same = {**settings, "identity": networks.main.identity, "code": _hash_of_code()}
    options.output.mkdir(parents=True, exist_ok=True)
    runs = _Runs(options.output / "runs.json", same)
    study = Study(videos, networks, options.seed)
    start = runs.get("", lambda: [study.scores(videos.spoilt)])[0]
    steps_by_degradation: dict[str, Steps] = {}
    for number, (name, degradation) in enumerate(DEGRADATIONS.items(), 1):
        steps_by_degradation[name] = runs.get(name, partial(study.run, degradation))
        print(f"{number} of {len(DEGRADATIONS)}: {degradation.label}", flush=True)
    content = study_file(start, steps_by_degradation, settings)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"')
    _write(options.output / STUDY_FILE, text + "\n")
    _write(options.output / "tables.md", tables(content))
    if options.update is not None:
        document = options.update.read_text(encoding="utf-8")
        _write(options.update, replace_tables(document, tables(content)))
        _write(options.update.with_name(STUDY_FILE), text + "\n")
    blind = blind_scores(content)
    if blind != BLIND:
        print(f"lumiere/evaluation/blind_scores.py: BLIND should be {blind}")


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


class _Runs:
    """The scores of finished degradations, in a file; other settings or other code start afresh."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path, self.settings = path, dict(settings)
        self.steps: dict[str, list[list[dict[str, Any]]]] = {}
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["settings"] == self.settings:
                self.steps = content["steps"]

    def get(self, name: str, compute: Callable[[], Steps]) -> Steps:
        if name not in self.steps:
            self.steps[name] = [[asdict(score) for score in scores] for scores in compute()]
            content = {"settings": self.settings, "steps": self.steps}
            write_atomically(self.path, json.dumps(content).encode())
        return [[_score(entry) for entry in scores] for scores in self.steps[name]]


def _hash_of_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _score(entry: Mapping[str, Any]) -> Score:
    return Score(
        **{
            **entry,
            "better": Better(entry["better"]),
            "interval": _interval(entry["interval"]),
            "floor": _floor(entry["floor"]),
            "other_floor": _floor(entry["other_floor"]),
        }
    )


def _floor(entry: Mapping[str, Any] | None) -> Floor | None:
    return None if entry is None else Floor(entry["value"], _interval(entry["interval"]))


def _interval(entry: Mapping[str, float] | None) -> Interval | None:
    return None if entry is None else Interval(entry["low"], entry["high"])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lumiere.evaluation.study.sensitivity", description=__doc__
    )
    parser.add_argument("--clips", type=Path, required=True, help="the output of the decode stage")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--num-videos", type=int, default=24)
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="a folder for features, or none")
    parser.add_argument(
        "--update", type=Path, metavar="DOCUMENT",
        help="also replace the tables of this document, and sensitivity.json beside it",
    )  # fmt: skip
    return parser.parse_args(arguments)


def _in_memory(videos: Sequence[Video]) -> LazyVideos:
    return LazyVideos([partial(videos.__getitem__, i) for i in range(len(videos))])


def _other_window(real: RealClips, subject: str, size: tuple[int, int]) -> Video:
    place = real.other_window(subject)
    assert place is not None
    return real.read(place, size)


def _find(scores: Sequence[Score], key: str) -> Score | None:
    return next((score for score in scores if score.key == key), None)


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "values": [_short(value) for value in cell.values],
        "order": _short(cell.order),
        "verdict": str(cell.verdict),
        "from": cell.seen_from,
    }


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    run_program(main, OSError, ValueError)
