"""Precision and recall, density and coverage: fidelity and diversity, from nearest neighbours.

Each real sample has a ball whose radius is the distance to its k-th nearest real neighbour.
Precision (Kynkäänniemi et al. 2019) is the share of generated samples inside some real ball, recall
the share of real samples inside some generated ball. Density (Naeem et al. 2020) counts the balls
around each generated sample, over k; coverage is the share of real balls with a generated sample
in them. One real outlier with a large ball lifts precision, but hardly density and coverage.

A sample on the surface of a ball is outside, as in Naeem et al.'s package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from lumiere.evaluation.distances.frechet import as_pair

PRECISION_K = 3  # Kynkäänniemi et al.
DENSITY_K = 5  # Naeem et al.


@dataclass(frozen=True)
class PrecisionRecall:
    """`precision` and `recall` in [0, 1], and the k of the neighbours."""

    precision: float
    recall: float
    k: int


@dataclass(frozen=True)
class DensityCoverage:
    """`density` at least 0 (1 for equal distributions), `coverage` in [0, 1], and the k."""

    density: float
    coverage: float
    k: int


def precision_recall(
    real: np.ndarray, generated: np.ndarray, k: int = PRECISION_K
) -> PrecisionRecall:
    """Return improved precision and recall (Kynkäänniemi et al. 2019).

    Args:
        real: (n, d), one row per sample; samples should be independent, so give one row per
            video: frames of one video are each other's nearest neighbours.
        generated: (m, d).
        k: at most n − 1 and m − 1.

    Raises:
        ValueError: if there are too few samples for k, a value is not finite, d differs, or all
            samples of a set are equal.
    """
    across, inside_real, inside_generated = _distances(real, generated)
    return PrecisionRecall(
        precision=precision_of(across, inside_real, k),
        recall=recall_of(across, inside_generated, k),
        k=k,
    )


def density_coverage(
    real: np.ndarray, generated: np.ndarray, k: int = DENSITY_K
) -> DensityCoverage:
    """Return density and coverage (Naeem et al. 2020); arguments and errors as `precision_recall`."""
    across, inside_real, _ = _distances(real, generated)
    return DensityCoverage(
        density=density_of(across, inside_real, k),
        coverage=coverage_of(across, inside_real, k),
        k=k,
    )


def precision_of(across: np.ndarray, inside_real: np.ndarray, k: int) -> float:
    """Return precision from distances: `across` (real, generated), `inside_real` (real, real)."""
    radii = _radii(inside_real, k)
    return float((across < radii[:, None]).any(0).mean())


def recall_of(across: np.ndarray, inside_generated: np.ndarray, k: int) -> float:
    """Return recall from distances: (real, generated) and (generated, generated)."""
    radii = _radii(inside_generated, k)
    return float((across < radii[None, :]).any(1).mean())


def density_of(across: np.ndarray, inside_real: np.ndarray, k: int) -> float:
    """Return density from distances: (real, generated) and (real, real)."""
    radii = _radii(inside_real, k)
    return float((across < radii[:, None]).sum(0).mean() / k)


def coverage_of(across: np.ndarray, inside_real: np.ndarray, k: int) -> float:
    """Return coverage from distances: (real, generated) and (real, real)."""
    radii = _radii(inside_real, k)
    return float((across.min(1) < radii).mean())


def _distances(
    real: np.ndarray, generated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    real, generated = as_pair(real, generated, names=("real", "generated"))
    # Not by way of x·y, which leaves 1e−6 between equal rows.
    return cdist(real, generated), cdist(real, real), cdist(generated, generated)


def _radii(inside: np.ndarray, k: int) -> np.ndarray:
    """Return each sample's distance to its k-th nearest other sample: (n, n) → (n,)."""
    if not 1 <= k < len(inside):
        raise ValueError(f"k = {k} and {len(inside)} samples; k neighbours need at least k + 1")
    radii = np.partition(inside, k, axis=1)[:, k]  # column 0 is the sample itself
    if not radii.any():
        raise ValueError("all samples of a set are equal, so none has a neighbourhood")
    return radii
