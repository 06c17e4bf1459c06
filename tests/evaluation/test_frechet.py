"""The Fréchet distance against its analytic value, and where other implementations break."""

import numpy as np
import pytest
import torch

from lumiere.evaluation import frechet_distance


def gaussian_distance(mean_x, cov_x, mean_y, cov_y):
    """The textbook formula by eigenvalues, for symmetric positive definite covariances."""
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root)).sum()
    return np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * cross


def test_equals_the_formula_on_fitted_moments():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 1
    y = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) - 2
    expected = gaussian_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_approaches_the_analytic_distance_of_two_gaussians():
    rng = np.random.default_rng(1)
    scale_x, scale_y, shift = (
        np.array([1.0, 2.0, 0.5]),
        np.array([3.0, 1.0, 0.5]),
        np.array([1.0, 0.0, -2.0]),
    )
    x = rng.normal(size=(200_000, 3)) * scale_x
    y = rng.normal(size=(200_000, 3)) * scale_y + shift
    analytic = np.sum(shift**2) + np.sum((scale_x - scale_y) ** 2)
    assert frechet_distance(x, y) == pytest.approx(analytic, rel=0.02)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(5, 7, 64), (5, 200, 64), (200, 5, 64), (64, 64, 64), (2, 2, 1)]
)
def test_is_right_with_fewer_samples_than_dimensions(n, m, d):
    """Against the formula with n × n Gram matrices, which needs no square root of a singular matrix."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 2 + 1
    centred_x, centred_y = (x - x.mean(0)) / np.sqrt(n - 1), (y - y.mean(0)) / np.sqrt(m - 1)
    gram = centred_x @ centred_y.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(gram @ gram.T), 0, None)).sum()
    expected = (
        np.sum((x.mean(0) - y.mean(0)) ** 2)
        + np.sum(centred_x**2)
        + np.sum(centred_y**2)
        - 2 * cross
    )
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_is_unchanged_by_rotation_and_grows_with_a_shift():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 8)), rng.normal(size=(30, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(
        frechet_distance(x, y), rel=1e-9
    )
    assert frechet_distance(x, x + 3) == pytest.approx(9 * 8, rel=1e-9)


def test_takes_tensors_of_any_float_type_and_computes_in_float64():
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    y = x.flip(0) + 1000
    assert frechet_distance(x, y) == pytest.approx(4e6, rel=1e-6)
    assert frechet_distance(
        x.bfloat16().requires_grad_(), x.bfloat16().float().numpy()
    ) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3))),
        (np.zeros((5, 3)), np.zeros((1, 3))),
        (np.zeros((5, 3)), np.zeros((5, 4))),
        (np.full((5, 3), np.nan), np.zeros((5, 3))),
        (np.zeros((5, 3)), np.full((5, 3), np.inf)),
        (np.zeros(5), np.zeros(5)),
    ],
)
def test_refuses_what_has_no_covariance(x, y):
    with pytest.raises(ValueError):
        frechet_distance(x, y)
