"""Intervals: how often they cover a known value, and that they are deterministic."""

import math

import numpy as np
import pytest

from lumiere.evaluation.bootstrap import (
    at_ceiling,
    bootstrap,
    hull,
    jackknife,
    mean_interval,
    share_interval,
)
from lumiere.evaluation.distances.feature_sets import FeatureSet
from lumiere.evaluation.distances.floors import distances
from lumiere.evaluation.scores import Interval


def coverage(make_interval, truth, trials):
    rng = np.random.default_rng(0)
    found = [make_interval(rng) for _ in range(trials)]
    return np.mean([interval.low <= truth <= interval.high for interval in found])


def test_means_are_covered():
    share = coverage(lambda rng: mean_interval(rng.normal(size=24), num_draws=300), 0.0, 400)
    assert 0.90 <= share <= 0.97


def test_videos_of_one_subject_are_drawn_together():
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=12)
    values, groups = np.repeat(subjects, 10), [f"s{i}" for i in np.repeat(np.arange(12), 10)]
    together = mean_interval(values, groups)
    apart = mean_interval(values)
    once = mean_interval(subjects)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.1)
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_bootstrap_takes_any_statistic_and_repeats_itself():
    values = np.random.default_rng(1).normal(size=15)

    def mean(picks):
        return float(values[picks].mean())

    assert bootstrap(mean, 15, seed=4) == bootstrap(mean, 15, seed=4)
    assert bootstrap(mean, 15, seed=4) != bootstrap(mean, 15, seed=5)
    expected = mean_interval(values, seed=4)
    assert bootstrap(mean, 15, seed=4).low == pytest.approx(expected.low)


def test_jackknife_of_a_mean_is_the_t_interval():
    values = dict(zip("abcdef", [1.0, 4.0, 2.0, 8.0, 5.0, 7.0], strict=True))

    def mean(left_out):
        return float(np.mean([value for name, value in values.items() if name not in left_out]))

    found = jackknife(mean, [list(values)])
    numbers = np.array(list(values.values()))
    reach = 2.570581835636314 * numbers.std(ddof=1) / math.sqrt(6)  # t at 0.975, 5 degrees
    assert found.low == pytest.approx(numbers.mean() - reach)
    assert found.high == pytest.approx(numbers.mean() + reach)
    assert jackknife(mean, [list(values)], bounds=(4.0, 5.0)) == Interval(4.0, 5.0)


def test_jackknife_of_many_units_leaves_out_groups_of_equal_size():
    numbers = np.random.default_rng(2).normal(size=103)
    values = {f"video {i}": number for i, number in enumerate(numbers)}
    sizes = []

    def mean(left_out):
        sizes.append(len(left_out))
        return float(np.mean([value for name, value in values.items() if name not in left_out]))

    found = jackknife(mean, [list(values)], max_groups=20)
    assert sizes == [0] + [6] * 17
    expected = 2 * 2.12 * numbers.std(ddof=1) / math.sqrt(103)
    assert found.high - found.low == pytest.approx(expected, rel=0.35)


def one_dimension(rng, shift, n=12):
    """Distances of n videos of one frame, x ~ N(shift, 1), from n real ones, x ~ N(0, 1)."""
    names = [f"real {i}" for i in range(n)]
    real = FeatureSet(list(rng.normal(size=(n, 1, 1))), names)
    generated = FeatureSet(list(rng.normal(size=(n, 1, 1)) + shift), [""] * n)
    scores, _ = distances(generated, real, measures=["frechet", "kernel"])
    return {score.key.split("_")[-1]: score for score in scores}


def test_distances_of_gaussians_are_covered():
    """Against closed forms of the mean at n samples, in one dimension."""
    shift, n = 1.5, 12
    # (x̄ − ȳ)² + (s_x − s_y)², with E s = c₄ and E s² = 1
    c4 = math.sqrt(2 / (n - 1)) * math.gamma(n / 2) / math.gamma((n - 1) / 2)
    frechet = shift**2 + 2 / n + 2 - 2 * c4**2
    # k = (xy + 1)³: E k = m₃² + 3 m₂² + 3 m₁² + 1 inside a set; across, moments of N(0, 1) are 0, 1, 0
    m1, m2, m3 = shift, 1 + shift**2, shift**3 + 3 * shift
    kernel = (m3**2 + 3 * m2**2 + 3 * m1**2 + 1) + (3 + 1) - 2 * (3 * m2 + 1)
    rng = np.random.default_rng(0)
    found = [one_dimension(rng, shift) for _ in range(120)]
    for key, truth, least in (("frechet", frechet, 0.9), ("kernel", kernel, 0.8)):
        values = np.array([scores[key].value for scores in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(120))
        inside = [score[key].interval.low <= truth <= score[key].interval.high for score in found]
        assert np.mean(inside) >= least


def test_shares_have_an_interval_at_their_ends():
    # Wilson's interval of 24 of 24: 1 / (1 + z² / n)
    full = share_interval(1.0, 24)
    assert full.low == pytest.approx(1 / (1 + 1.959963984540054**2 / 24)) and full.high == 1.0
    empty = share_interval(0.0, 24)
    assert empty.low == 0.0 and empty.high == pytest.approx(1 - full.low)
    assert hull(Interval(0, 1), Interval(-1, 0.5)) == Interval(-1, 1)
    assert at_ceiling(1.0, 24) and at_ceiling(23 / 24, 24) and not at_ceiling(22 / 24, 24)


def test_refuses_what_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0, 2.0], ["same", "same"])
    with pytest.raises(ValueError, match="not finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="at least 3"):
        jackknife(lambda _: 1.0, [["a", "b"]])
    with pytest.raises(ValueError, match="not finite"):
        jackknife(lambda _: math.inf, [["a", "b", "c"]])
    with pytest.raises(ValueError, match="share"):
        share_interval(1.5, 3)
