"""The Fréchet distance between two sets of features (Heusel et al. 2017, Dowson & Landau 1982)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lumiere.plurals import counted

if TYPE_CHECKING:
    from torch import Tensor


def frechet_distance(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two samples.

        |μx − μy|² + tr Σx + tr Σy − 2 tr (Σx Σy)^½

    The last term is computed without a matrix square root, which is ill-conditioned, and useless
    with fewer samples than dimensions. With centred rows X and Y, Σx Σy = XᵀX YᵀY / ((n−1)(m−1))
    has the same non-zero eigenvalues as M Mᵀ with M = X Yᵀ, so tr (Σx Σy)^½ = ‖X Yᵀ‖_* /
    √((n−1)(m−1)), the nuclear norm. If n > d, the R of X's QR replaces X (XᵀX = RᵀR), which avoids
    an n × m matrix.

    Small samples bias the estimate upwards: report n with it, and the distance between two real
    samples of the same sizes.

    Args:
        x: (n, d) array or tensor, one row per sample.
        y: (m, d).

    Returns:
        At least 0, in squared feature units.

    Raises:
        ValueError: if there are fewer than 2 samples, a value is not finite, the rank is not 2, or
            d differs.
    """
    x, y = as_pair(x, y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    # ddof 1: dividing by √(n−1) here makes RᵀR the covariance itself.
    root_x = _square_root_rows((x - mean_x) / np.sqrt(len(x) - 1))  # (≤ d, d)
    root_y = _square_root_rows((y - mean_y) / np.sqrt(len(y) - 1))
    cross = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    distance = np.sum((mean_x - mean_y) ** 2) + np.sum(root_x**2) + np.sum(root_y**2) - 2 * cross
    return float(max(distance, 0.0))  # rounding can leave −1e−16 for equal samples


def frechet_from_gram(gram: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Return `frechet_distance` of rows x and y of a set, from the dot products of all its rows.

    With fewer samples than dimensions, that is much faster for many choices of x and y, because
    the features are not needed again.

    Args:
        gram: (n, n) float64, the dot products of all rows; subtract the mean of all rows before, or
            rounding errors grow with it.
        x, y: indices of rows, at least 2 each.
    """
    inside_x, inside_y, across = gram[np.ix_(x, x)], gram[np.ix_(y, y)], gram[np.ix_(x, y)]
    n, m = across.shape
    means = inside_x.mean() + inside_y.mean() - 2 * across.mean()  # |μx − μy|²
    trace_x = (np.trace(inside_x) - inside_x.mean() * n) / (n - 1)
    trace_y = (np.trace(inside_y) - inside_y.mean() * m) / (m - 1)
    centred = across - across.mean(0) - across.mean(1, keepdims=True) + across.mean()
    cross = np.linalg.svd(centred, compute_uv=False).sum() / np.sqrt((n - 1) * (m - 1))
    return float(max(means + trace_x + trace_y - 2 * cross, 0.0))


def _square_root_rows(centred: np.ndarray) -> np.ndarray:
    """R with RᵀR = XᵀX and at most d rows: X itself, or the triangle of its QR."""
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def as_pair(
    x: np.ndarray | Tensor, y: np.ndarray | Tensor, names: tuple[str, str] = ("x", "y")
) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of the same features as float64 arrays: (n, d) and (m, d).

    Raises:
        ValueError: if there are fewer than 2 samples, a value is not finite, the rank is not 2, or
            d differs.
    """
    x, y = _as_samples(x, names[0]), _as_samples(y, names[1])
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} dimensions, {names[1]} has {y.shape[1]}; "
            "they must be the same features"
        )
    return x, y


def _as_samples(values: np.ndarray | Tensor, name: str) -> np.ndarray:
    if not isinstance(values, np.ndarray) and hasattr(values, "detach"):
        # A torch tensor, possibly of bfloat16, which NumPy does not have.
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"{name} has shape {values.shape}; expected (samples, dimensions)")
    if len(values) < 2:
        raise ValueError(
            f"{name} has {counted(len(values), 'sample')}; a covariance needs at least 2"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values
