"""Distances between sets of videos, quick to compute again for other choices of the videos.

Each measure reads the features of all videos once. A call then takes the positions of the videos
on the two sides, so that floors and the jackknife are cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lumiere.evaluation.bootstrap import MAX_GROUPS
from lumiere.evaluation.distances import neighbours
from lumiere.evaluation.distances.feature_sets import FeatureSet
from lumiere.evaluation.distances.frechet import frechet_distance, frechet_from_gram
from lumiere.evaluation.distances.kernel import polynomial_kernel

MAX_GRAM_ROWS = 6000  # 290 MB; with more rows than this, distances read the features again
FEW_GROUPS = 10  # of the jackknife where each evaluation takes a second
CHUNK_ROWS = 512  # of the kernel matrix at a time, so that it is never whole


class Measure(Protocol):
    """A distance between two sets of videos, given by their positions."""

    bounds: tuple[float, float]
    max_groups: int

    def __call__(self, compared: np.ndarray, reference: np.ndarray) -> float: ...


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
    away. "jedi": `lumiere.evaluation.distances.kernel.jedi_distance`.

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
