"""Kernel distances between two sets of features: KID's form, and JEDi's form for videos.

Both are squared maximum mean discrepancies (Gretton et al. 2012) with a polynomial kernel

    k(x, y) = (γ x·y + c)^p.

KID (Bińkowski et al. 2018, "Demystifying MMD GANs") has p = 3, γ = 1/d, c = 1 and the unbiased
estimator, so that its mean is right for any number of samples, and 0 for equal distributions. Single
values can be below 0. JEDi (Luo et al. 2024, "Beyond FVD") has p = 2, γ = 1/d, c = 0, the biased
estimator, and a factor of 100.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lumiere.evaluation.distances.frechet import as_pair

if TYPE_CHECKING:
    from torch import Tensor

SUBSET_SEED = 2020  # torch-fidelity's


def kernel_distance(
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    subsets: int | None = None,
    subset_size: int = 1000,
    seed: int = SUBSET_SEED,
) -> float:
    """Return the unbiased squared MMD with a polynomial kernel; with the defaults, KID.

    By default all samples are used at once: the unbiased estimator with the smallest variance. The
    published KID is the mean over random subsets of equal size, which only saves memory; `subsets`
    gives that, with the subsets that torch-fidelity draws.

    Args:
        x: (n, d), one row per sample.
        y: (m, d).
        degree, gamma, coef0: of the kernel; `gamma` None is 1/d.
        subsets: the number of subsets, or None for all samples.
        subset_size: samples of each side in a subset.
        seed: of the subsets.

    Returns:
        The distance; below 0 by chance if the sets hardly differ.

    Raises:
        ValueError: if there are fewer than 2 samples, a value is not finite, d differs, or a
            subset would be larger than a set.
    """
    x, y = as_pair(x, y)
    if subsets is None:
        return _unbiased(x, y, degree, gamma, coef0)
    if subsets < 1 or not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"{subsets} subsets of {subset_size}; expected at least 1, of 2 to "
            f"{min(len(x), len(y))} samples"
        )
    rng = np.random.RandomState(seed)  # the legacy generator, whose stream never changes
    values = []
    for _ in range(subsets):
        part_x = x[rng.choice(len(x), subset_size, replace=False)]
        part_y = y[rng.choice(len(y), subset_size, replace=False)]
        values.append(_unbiased(part_x, part_y, degree, gamma, coef0))
    return float(np.mean(values))


def jedi_distance(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """Return JEDi's distance: 100 times the biased squared MMD with the kernel (x·y / d)².

    It is JEDi only with features of V-JEPA, one row per video. The estimator is biased by about
    100 · (E k(x, x) − E k(x, x′)) (1/n + 1/m): compare values at the same n only.

    Args:
        x: (n, d), one row per video.
        y: (m, d).

    Returns:
        At least 0.

    Raises:
        ValueError: as `kernel_distance`.
    """
    x, y = as_pair(x, y)
    inside_x = polynomial_kernel(x, x, degree=2, coef0=0.0).mean()
    inside_y = polynomial_kernel(y, y, degree=2, coef0=0.0).mean()
    across = polynomial_kernel(x, y, degree=2, coef0=0.0).mean()
    return float(max(0.0, 100 * (inside_x + inside_y - 2 * across)))


def polynomial_kernel(
    x: np.ndarray, y: np.ndarray, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> np.ndarray:
    """Return (γ x·y + c)^p for each pair of rows: (n, d), (m, d) → (n, m)."""
    scale = 1 / x.shape[1] if gamma is None else gamma
    return (scale * (x @ y.T) + coef0) ** degree


def _unbiased(
    x: np.ndarray, y: np.ndarray, degree: int, gamma: float | None, coef0: float
) -> float:
    n, m = len(x), len(y)
    inside_x = polynomial_kernel(x, x, degree, gamma, coef0)
    inside_y = polynomial_kernel(y, y, degree, gamma, coef0)
    across = polynomial_kernel(x, y, degree, gamma, coef0).mean()
    # Pairs of different samples only: the diagonal would bias the mean.
    mean_x = (inside_x.sum() - np.trace(inside_x)) / (n * (n - 1))
    mean_y = (inside_y.sum() - np.trace(inside_y)) / (m * (m - 1))
    return float(mean_x + mean_y - 2 * across)
