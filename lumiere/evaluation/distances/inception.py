"""The Inception Score, from class probabilities (Salimans et al. 2016, "Improved techniques")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHUFFLE_SEED = 2020  # torch-fidelity's


@dataclass(frozen=True)
class InceptionScore:
    """The mean over the splits, their standard deviation, and the number of splits."""

    mean: float
    std: float
    splits: int


def inception_score(
    probabilities: np.ndarray, splits: int = 10, shuffle_seed: int | None = SHUFFLE_SEED
) -> InceptionScore:
    """Return exp E KL(p(y | x) ‖ p(y)), the mean over equal parts of the samples.

    It is the Inception Score only with the probabilities of Inception v3. It grows with the
    number of samples in a part, up to the number of classes, and never sees a real sample: 5,000
    images in a part are usual, and values at other numbers cannot be compared.

    Args:
        probabilities: (n, classes), rows that sum to 1, one row per image.
        splits: the number of parts, at most n; 10 is usual.
        shuffle_seed: of the order of the samples before they are split, as in torch-fidelity; None
            keeps the order.

    Returns:
        The mean is at least 1 and at most the number of classes.

    Raises:
        ValueError: if rows are no probabilities, or there are fewer samples than splits.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"probabilities of shape {p.shape}; expected (samples, classes)")
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("probabilities: rows must be finite, not negative, and sum to 1")
    if not 1 <= splits <= len(p):
        raise ValueError(f"{splits} splits of {len(p)} samples; expected 1 to {len(p)}")
    if shuffle_seed is not None:
        p = p[np.random.RandomState(shuffle_seed).permutation(len(p))]
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        scores.append(np.exp(_divergence(part)))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits)


def _divergence(p: np.ndarray) -> float:
    """Return the mean Kullback–Leibler divergence of rows from their mean, with 0 log 0 = 0."""
    ratio = np.divide(p, p.mean(0), out=np.ones_like(p), where=p > 0)
    return float((p * np.log(ratio)).sum(1).mean())
