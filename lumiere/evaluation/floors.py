"""Distances of generated videos from real ones, each with its interval and its floors.

A distance of few videos means nothing by itself: it is biased by their number, and depends on the
network. The floors are the same distance for as many real videos: of the same subjects (the best
that a generator can reach) and of other subjects. `lumiere.evaluation.pairings` says which.

Intervals come from the jackknife over videos (`lumiere.evaluation.bootstrap`). Real videos in place
of matched generated ones score above the upper end of their floor's interval in up to 8 % of sets
(measured on Gaussians, 24 videos): the value varies as well as the floor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.spatial.distance import cdist

from lumiere.evaluation import neighbours
from lumiere.evaluation.bootstrap import (
    MAX_GROUPS,
    MIN_UNITS,
    at_ceiling,
    hull,
    jackknife,
    share_interval,
)
from lumiere.evaluation.feature_sets import FeatureSet
from lumiere.evaluation.frechet import frechet_distance, frechet_from_gram
from lumiere.evaluation.kernel import polynomial_kernel
from lumiere.evaluation.pairings import NUM_DRAWS, Design, Pairing, make_design
from lumiere.evaluation.scores import Better, Floor, Interval, LeftOut, Score

MAX_GRAM_ROWS = 6000  # 290 MB; with more rows than this, distances read the features again
FEW_GROUPS = 10  # of the jackknife where each evaluation takes a second
CHUNK_ROWS = 512
GROUP = "distances"
FRECHET_NOTE = "Fréchet distance of the frames' features; too large with few videos."
KERNEL_NOTES = {
    "videos": "Unbiased MMD² (KID's kernel) over pairs of different videos; 0 for equal sets.",
    "kid": "Unbiased MMD² (KID) over pairs of different frames.",
    "jedi": "100 · biased MMD² with the kernel (x·y / d)² (JEDi); too large with few videos.",
}


class Measure(Protocol):
    """A distance between two sets of videos, given by their positions."""

    bounds: tuple[float, float]
    max_groups: int

    def __call__(self, compared: np.ndarray, reference: np.ndarray) -> float: ...


def distances(
    generated: FeatureSet,
    real: FeatureSet,
    *,
    prefix: str = "independent",
    name: str = "",
    note: str = "",
    measures: Collection[str] = ("frechet", "kernel", "neighbours"),
    kernel: str = "videos",
    frechet_key: str = "",
    kernel_key: str = "",
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[list[Score], list[LeftOut]]:
    """Return the distances of generated videos from real ones, with intervals and floors.

    Args:
        generated: features of the generated videos.
        real: features of real videos, by the same network; at window 0 the references, at window 1
            other times of the same subjects (see `FeatureSet`).
        prefix: of the keys: `<prefix>_frechet`, `<prefix>_kernel`, `<prefix>_precision`,
            `<prefix>_recall`, `<prefix>_density`, `<prefix>_coverage`.
        name: of the network, for the labels.
        note: a sentence for each score, such as the network's preprocessing.
        measures: some of "frechet", "kernel" and "neighbours".
        kernel: "videos", "kid" or "jedi"; see `KernelMeasure`.
        frechet_key, kernel_key: other keys for these two, such as "fid", "fvd" or "jedi".
        num_draws: of real videos, where there are more than needed.
        seed: of these draws.

    Returns:
        The scores, and the measures that these sets do not allow.

    Raises:
        ValueError: if there are fewer than 2 videos on a side, d differs, or `measures` or
            `kernel` is unknown. (`FeatureSet` refuses values that are not finite.)
    """
    unknown = sorted(set(measures) - {"frechet", "kernel", "neighbours"})
    if unknown or kernel not in KernelMeasure.KINDS:
        raise ValueError(f"measures {unknown or list(measures)}, kernel {kernel!r}: unknown")
    design = make_design(generated, real, seed, num_draws)
    table = FeatureTable.of(generated, real)
    about = " ".join([describe(design), *design.remarks, note]).strip()
    title = f"{name}: " if name else ""
    scores: list[Score] = []
    left_out: list[LeftOut] = []
    if "frechet" in measures:
        measure: Measure = FrechetMeasure(table)
        key, label = frechet_key or f"{prefix}_frechet", f"{title}Fréchet distance"
        text = f"{FRECHET_NOTE} {about}"
        scores.append(score(design, measure, key, label, Better.LOWER, text))
    if "kernel" in measures:
        measure = KernelMeasure(table, table.owners(generated, real), kernel)
        key, label = kernel_key or f"{prefix}_kernel", f"{title}kernel distance"
        text = f"{KERNEL_NOTES[kernel]} {about}"
        scores.append(score(design, measure, key, label, Better.LOWER, text))
    if "neighbours" in measures:
        means = table.means()
        between = cdist(means, means)
        for kind in NeighbourMeasure.KINDS:
            try:
                scores.append(_neighbour_score(design, between, kind, prefix, title, about))
            except ValueError as error:
                left_out.append(LeftOut(f"{title}{kind}", f"{error}."))
    return scores, left_out


def describe(design: Design) -> str:
    """Return a sentence on what was compared with what."""
    if design.matched:
        return (
            f"{design.num_videos} generated videos against {design.num_reference} real videos of "
            "the same subjects; floors at the same number."
        )
    return (
        f"{design.num_videos} generated videos against all {design.num_reference} real videos; "
        "floors at the same number. The same-subject floor holds other times of the reference itself: "
        "a perfect generator of new subjects scores the other-subject floor."
    )


def score(
    design: Design, measure: Measure, key: str, label: str, better: Better, note: str = ""
) -> Score:
    """Return one measure of a design as a score with its interval and floors."""
    value, interval = estimate(measure, design.value)
    floors: list[Floor | None] = []
    for pairings in (design.floor, design.other):
        floors.append(Floor(*estimate(measure, pairings)) if pairings else None)
    return Score(
        key=key,
        label=label,
        group=GROUP,
        value=value,
        better=better,
        interval=interval,
        floor=floors[0],
        other_floor=floors[1],
        num_videos=design.num_videos,
        note=note,
    )


def _neighbour_score(
    design: Design, between: np.ndarray, kind: str, prefix: str, title: str, note: str
) -> Score:
    measure = NeighbourMeasure(between, kind, min(design.num_videos, design.num_reference))
    about = f"{note} One sample per video (its mean feature), k = {measure.k}.".strip()
    label = f"{title}{kind}"
    key = f"{prefix}_{kind}"
    if kind == "density":
        # Videos that crowd around a few real ones exceed the real value: torn frames reach 2.2
        # where real ones have 1.2.
        return score(design, measure, key, label, Better.CLOSER, about)
    found = score(design, measure, key, label, Better.HIGHER, about)
    # A share of samples: of the generated ones for precision, of the real ones for the others.
    count = design.num_videos if kind == "precision" else design.num_reference
    return replace(
        found,
        interval=_with_share(found.value, found.interval, count),
        floor=_floor_with_share(found.floor, count),
        other_floor=_floor_with_share(found.other_floor, count),
        saturated=at_ceiling(found.value, count),
    )


def _with_share(value: float, interval: Interval | None, count: int) -> Interval | None:
    """Widen an interval to Wilson's: the jackknife sees no variance where all videos agree."""
    if interval is None:
        return None
    return hull(interval, share_interval(value, count))


def _floor_with_share(floor: Floor | None, count: int) -> Floor | None:
    if floor is None:
        return None
    return Floor(floor.value, _with_share(floor.value, floor.interval, count))


def estimate(measure: Measure, pairings: Sequence[Pairing]) -> tuple[float, Interval | None]:
    """Return the mean of a measure over the pairings, and its interval.

    The interval's width is that of the first pairing alone, which is a little too wide for a mean
    over draws. There is no interval with fewer than 3 videos on a side.
    """
    value = float(np.mean([measure(p.compared.videos, p.reference.videos) for p in pairings]))
    first = pairings[0]
    strata = first.strata()
    if min(len(units) for units in strata) < MIN_UNITS:
        return value, None

    def without(units: Collection[str]) -> float:
        return measure(first.compared.without(units), first.reference.without(units))

    return value, jackknife(without, strata, value, measure.bounds, measure.max_groups)


@dataclass(frozen=True)
class FeatureTable:
    """The features of two sets as one table.

    Attributes:
        rows: (n, d) float64, all rows of all videos: generated, then real.
        starts: (videos + 1,), where each video's rows begin.
    """

    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, generated: FeatureSet, real: FeatureSet) -> FeatureTable:
        """Join two sets of the same features.

        Raises:
            ValueError: if d differs.
        """
        videos = [np.asarray(rows, np.float64) for rows in (*generated.features, *real.features)]
        dimensions = (np.shape(generated.features[0])[1], np.shape(real.features[0])[1])
        if dimensions[0] != dimensions[1]:
            raise ValueError(
                f"generated videos have {dimensions[0]} dimensions, real ones {dimensions[1]}; "
                "they must be the same features"
            )
        starts = np.cumsum([0, *(len(rows) for rows in videos)])
        return cls(np.concatenate(videos), starts)

    def rows_of(self, videos: np.ndarray) -> np.ndarray:
        """Return the indices of the rows of some videos."""
        return np.concatenate(
            [np.arange(self.starts[video], self.starts[video + 1]) for video in videos]
        )

    @staticmethod
    def owners(generated: FeatureSet, real: FeatureSet) -> np.ndarray:
        """Return one number per video, equal for videos of one named subject: (videos,)."""
        names = [*generated.subjects, *real.subjects]
        numbers: dict[str, int] = {}
        return np.array(
            [
                numbers.setdefault(name or f"video {index}", len(numbers))
                for index, name in enumerate(names)
            ]
        )

    def means(self) -> np.ndarray:
        """Return the mean row of each video: (videos, d)."""
        sums = np.add.reduceat(self.rows, self.starts[:-1], axis=0)
        return sums / np.diff(self.starts)[:, None]


class FrechetMeasure:
    """The Fréchet distance of frames; dot products are computed once if there are few rows."""

    bounds = (0.0, math.inf)

    def __init__(self, table: FeatureTable) -> None:
        self.table = table
        self.gram: np.ndarray | None = None
        self.max_groups = FEW_GROUPS
        if len(table.rows) <= MAX_GRAM_ROWS:
            centred = table.rows - table.rows.mean(0)  # less rounding
            self.gram = centred @ centred.T
            self.max_groups = MAX_GROUPS

    def __call__(self, compared: np.ndarray, reference: np.ndarray) -> float:
        x, y = self.table.rows_of(compared), self.table.rows_of(reference)
        if self.gram is None or min(len(x), len(y)) > self.table.rows.shape[1]:
            return frechet_distance(self.table.rows[x], self.table.rows[y])
        return frechet_from_gram(self.gram, x, y)


class KernelMeasure:
    """A kernel distance of frames, from sums of the kernel over pairs of videos.

    "videos": KID's kernel, and the mean over pairs of frames of different videos and subjects. It
    is unbiased if the videos are independent: 0 on average for equal distributions, at any number
    of videos. "kid": the published form, over pairs of different frames. It is unbiased only if all
    frames are independent, which several frames of one video are not: few videos then seem farther
    away. "jedi": `lumiere.evaluation.kernel.jedi_distance`.

    Args:
        table: the features.
        owners: one number per video, equal for videos of one subject.
        kind: one of `KINDS`.
    """

    KINDS = ("videos", "kid", "jedi")
    max_groups = MAX_GROUPS

    def __init__(self, table: FeatureTable, owners: np.ndarray, kind: str = "videos") -> None:
        self.kind = kind
        self.owners = owners
        self.bounds = (0.0 if kind == "jedi" else -math.inf, math.inf)
        degree, coef0 = (2, 0.0) if kind == "jedi" else (3, 1.0)
        self.counts = np.diff(table.starts)
        self.sums = np.zeros((len(self.counts), len(self.counts)))
        squared = (table.rows**2).sum(1) / table.rows.shape[1]
        self.diagonal = np.add.reduceat((squared + coef0) ** degree, table.starts[:-1])
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        for start in range(0, len(table.rows), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            values = polynomial_kernel(table.rows[rows], table.rows, degree, coef0=coef0)
            by_video = np.add.reduceat(values, table.starts[:-1], axis=1)
            np.add.at(self.sums, owner[rows], by_video)

    def __call__(self, compared: np.ndarray, reference: np.ndarray) -> float:
        across = self._across(compared, reference)
        inside = self._inside(compared) + self._inside(reference)
        if self.kind == "jedi":
            return float(max(0.0, 100 * (inside - 2 * across)))
        return float(inside - 2 * across)

    def _across(self, compared: np.ndarray, reference: np.ndarray) -> float:
        sums = self.sums[np.ix_(compared, reference)]
        counts = np.outer(self.counts[compared], self.counts[reference])
        if self.kind != "videos":
            return sums.sum() / counts.sum()
        different = self.owners[compared][:, None] != self.owners[reference][None, :]
        return sums[different].sum() / counts[different].sum()

    def _inside(self, videos: np.ndarray) -> float:
        total, n = self.sums[np.ix_(videos, videos)].sum(), self.counts[videos].sum()
        if self.kind == "jedi":
            return total / n**2
        if self.kind == "kid":
            return (total - self.diagonal[videos].sum()) / (n * (n - 1))
        own_sums, own_counts = self.sums[videos, videos].sum(), (self.counts[videos] ** 2).sum()
        return (total - own_sums) / (n**2 - own_counts)


class NeighbourMeasure:
    """Precision, recall, density or coverage of whole videos.

    Args:
        between: (videos, videos), distances of their mean features.
        kind: one of `KINDS`.
        num_videos: on the smaller side. The published k is lowered where this is too few.
    """

    KINDS = ("precision", "recall", "density", "coverage")
    max_groups = MAX_GROUPS

    def __init__(self, between: np.ndarray, kind: str, num_videos: int) -> None:
        self.kind = kind
        self.distances = between
        published = neighbours.PRECISION_K
        if kind in ("density", "coverage"):
            published = neighbours.DENSITY_K
        self.k = max(1, min(published, num_videos - 2))  # the jackknife leaves one out
        self.bounds = (0.0, math.inf if kind == "density" else 1.0)

    def __call__(self, compared: np.ndarray, reference: np.ndarray) -> float:
        across = self.distances[np.ix_(reference, compared)]
        if self.kind == "recall":
            return neighbours.recall_of(across, self.distances[np.ix_(compared, compared)], self.k)
        inside = self.distances[np.ix_(reference, reference)]
        functions = {
            "precision": neighbours.precision_of,
            "density": neighbours.density_of,
            "coverage": neighbours.coverage_of,
        }
        return functions[self.kind](across, inside, self.k)
