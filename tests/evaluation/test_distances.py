"""Distances against other packages and closed forms.

The golden values were computed once, with `golden_sets()`, by
    torchmetrics 1.9.0    image.kid.poly_mmd, image.fid._compute_fid
    torch-fidelity 0.4.0  metric_kid.kernel_mmd and kid_features_to_metric(kid_subsets=5,
                          kid_subset_size=20, rng_seed=2020), metric_fid.fid_statistics_to_metric
    clean-fid 0.1.35      fid.frechet_distance, fid.kernel_distance(num_subsets=1)
    videojedi 1.1.0       mmd_polynomial.mmd_poly(degree=2, coef0=0) * 100
    prdc 0.2              compute_prdc
"""

import numpy as np
import pytest

from lumiere.evaluation.distances.frechet import frechet_distance, frechet_from_gram
from lumiere.evaluation.distances.kernel import jedi_distance, kernel_distance
from lumiere.evaluation.distances.neighbours import density_coverage, precision_recall


def golden_sets():
    rng = np.random.RandomState(12)  # its stream never changes
    return rng.standard_normal((40, 6)), rng.standard_normal((40, 6)) * 1.3 + 0.4


def test_equals_other_packages():
    x, y = golden_sets()
    # torchmetrics, torch-fidelity and clean-fid agree to 1e-14.
    assert frechet_distance(x, y) == pytest.approx(2.645978583790633, abs=1e-6)
    assert kernel_distance(x, y) == pytest.approx(1.140874958603214, abs=1e-6)
    subsets = kernel_distance(x, y, subsets=5, subset_size=20)
    assert subsets == pytest.approx(1.366363735418918, abs=1e-6)
    assert jedi_distance(x, y) == pytest.approx(11.45386340836142, abs=1e-6)


def test_neighbours_equal_prdc():
    real, generated = golden_sets()
    three, five = precision_recall(real, generated, k=3), precision_recall(real, generated, k=5)
    assert (three.precision, three.recall) == pytest.approx((0.775, 1.0), abs=1e-6)
    assert (five.precision, five.recall) == pytest.approx((0.875, 1.0), abs=1e-6)
    three, five = density_coverage(real, generated, k=3), density_coverage(real, generated, k=5)
    assert (three.density, three.coverage) == pytest.approx((0.6333333333, 0.725), abs=1e-6)
    assert (five.density, five.coverage) == pytest.approx((0.61, 0.825), abs=1e-6)


def test_the_gram_matrix_gives_the_same_frechet_distance():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 50)) + 3
    x, y = np.arange(12), np.arange(12, 30)
    centred = rows - rows.mean(0)
    found = frechet_from_gram(centred @ centred.T, x, y)
    assert found == pytest.approx(frechet_distance(rows[x], rows[y]), rel=1e-9)


def test_kernel_distance_of_single_points_by_hand():
    # d = 1, k(x, y) = (xy + 1)³: x = {0, 1}, y = {2, 2}.
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [2.0]])
    assert kernel_distance(x, y) == pytest.approx(1 + 125 - 2 * (1 + 27) / 2)
    # k(x, y) = (xy)²: means with the diagonal, times 100.
    assert jedi_distance(x, y) == pytest.approx(100 * (1 / 4 + 16 - 2 * (0 + 4) / 2))


def test_kernel_distance_is_right_on_average_at_any_number_of_samples():
    """x ~ N(0, 1), y ~ N(1, 1), k = (xy + 1)³: E k(x, x') = 4, E k(y, y') = 32, E k(x, y) = 7."""
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(4, 1)), rng.normal(size=(7, 1)) + 1) for _ in range(4000)
    ]
    # E (xy + 1)³ = E[xy]³ + 3 E[xy]² + 3 E[xy] + 1 by moments m1 m1, m2 m2, m3 m3.
    inside_x, inside_y, across = 0 + 3 * 1 + 0 + 1, 4 * 4 + 3 * 2 * 2 + 3 * 1 + 1, 0 + 3 * 2 + 0 + 1
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(inside_x + inside_y - 2 * across, abs=4 * error)


def test_neighbours_of_extreme_sets():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(20, 4))
    same = precision_recall(real, real.copy())
    assert (same.precision, same.recall) == (1, 1)
    far = precision_recall(real, real + 100)
    assert (far.precision, far.recall) == (0, 0)
    one = np.repeat(real[:1], 20, axis=0) + rng.normal(size=(20, 4)) * 1e-6
    collapsed = precision_recall(real, one)
    assert collapsed.precision == 1 and collapsed.recall < 0.1
    assert density_coverage(real, one).coverage < 0.5


def test_refuses_what_it_cannot_measure():
    x, y = golden_sets()
    bad = x.copy()
    bad[3, 2] = np.nan
    for function in (kernel_distance, jedi_distance, precision_recall, density_coverage):
        with pytest.raises(ValueError, match="not finite"):
            function(bad, y)
        with pytest.raises(ValueError, match="at least 2"):
            function(x[:1], y)
        with pytest.raises(ValueError, match="dimensions"):
            function(x, y[:, :3])
    with pytest.raises(ValueError, match="k = 40 and 40 samples"):
        precision_recall(x, y, k=40)
    with pytest.raises(ValueError, match="equal"):
        density_coverage(np.ones((10, 3)), y[:, :3])
    with pytest.raises(ValueError, match="subsets"):
        kernel_distance(x, y, subsets=5)
