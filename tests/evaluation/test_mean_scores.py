"""Scores that are means of one value per video: one rule for the floor's interval, and bounds."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from lumiere.evaluation.bootstrap import bootstrap, prediction_interval, share_interval
from lumiere.evaluation.mean_scores import mean_floor, mean_score
from lumiere.evaluation.scores import (
    COSINE,
    NOT_NEGATIVE,
    UNBOUNDED,
    ZERO_TO_ONE,
    Better,
    Definition,
    Interval,
    Score,
    flat,
)
from lumiere.evaluation.temporal.seams import SeamRecord, seam_scores

TRIALS = 300


def define(bounds: tuple[float, float] = UNBOUNDED, is_share: bool = False) -> Definition:
    return Definition("some score", Better.CLOSER, "", "", bounds, is_share)


def held(draw: Callable[[np.random.Generator, int], np.ndarray], num_real: int, count: int):
    """Return how often the floor's interval holds the mean of other videos of the same kind."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(TRIALS):
        real, own = draw(rng, num_real), draw(rng, count)
        found = mean_score("s", define(), own, real, group="motion", seed=seed)
        inside += found.outside_floor() is False
    return inside / TRIALS


@pytest.mark.parametrize(("num_real", "count"), [(24, 24), (8, 24), (24, 8), (6, 6)])
def test_a_floor_holds_the_mean_of_other_real_videos_in_95_of_100_sets(num_real, count) -> None:
    share = held(lambda rng, n: rng.normal(size=n), num_real, count)
    assert 0.92 < share < 0.98


def test_skewed_values_are_held_nearly_as_often() -> None:
    assert 0.89 < held(lambda rng, n: rng.exponential(size=n), 24, 24) < 0.98


def test_heavy_tails_are_held_less_often_as_the_docstring_says() -> None:
    assert 0.78 < held(lambda rng, n: rng.lognormal(sigma=1.5, size=n), 24, 24) < 0.89


def test_a_prediction_interval_is_the_textbook_one_for_a_mean() -> None:
    """Mean ± t · s · √(1 / n + 1 / m), from an interval of ± z · s · √((n − 1) / n) / √n."""
    n, m, deviation, mean = 12, 5, 0.7, 3.0
    reach = stats.norm.ppf(0.975) * deviation * math.sqrt((n - 1) / n) / math.sqrt(n)
    found = prediction_interval(Interval(mean - reach, mean + reach), mean, n, m)
    assert found is not None
    expected = stats.t.ppf(0.975, n - 1) * deviation * math.sqrt(1 / n + 1 / m)
    assert found.high - mean == pytest.approx(expected)
    assert mean - found.low == pytest.approx(expected)
    for bad in ((1, 5), (5, 0)):
        with pytest.raises(ValueError, match="expected at least 2 and 1"):
            prediction_interval(Interval(0, 1), 0.5, *bad)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("count", [10, 24, 100])
def test_a_share_is_predicted_by_the_score_test_of_two_shares(share, count) -> None:
    n = 24
    found = share_interval(share, n, count)
    for end in (found.low, found.high):
        if end in (0, 1, share):
            continue
        pooled = (n * share + count * end) / (n + count)
        deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / count))
        assert abs(end - share) / deviation == pytest.approx(stats.norm.ppf(0.975))
    wilson = stats.binomtest(round(n * share), n).proportion_ci(method="wilson")
    true = share_interval(share, n)
    assert (true.low, true.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert found.low <= true.low and true.high <= found.high


def test_the_share_of_other_real_videos_is_held() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        real, own = rng.random((2, 24)) < 0.8
        found = mean_score("s", define(ZERO_TO_ONE, True), own, real, group="text")
        inside += found.outside_floor() is False
    assert 0.93 < inside / 2000 < 0.99


def test_no_interval_reaches_beyond_the_bounds() -> None:
    few = np.array([0.0, 0.0, 0.0, 0.0, 0.6])
    for bounds, values in ((NOT_NEGATIVE, few), (ZERO_TO_ONE, 1 - few), (COSINE, 1 - 2 * few)):
        found = mean_score("s", define(bounds), values, values, group="temporal")
        assert found.floor is not None and found.floor.interval is not None
        for ends in (found.interval, found.floor.interval):
            assert ends is not None
            assert bounds[0] <= ends.low <= found.value <= ends.high <= bounds[1]
        assert bounds[0] in (found.floor.interval.low, -1) or bounds[1] == found.floor.interval.high
        free = mean_floor("s", define(), values, count=5)
        assert free is not None and free.interval is not None
        beyond = free.interval.low < bounds[0] or free.interval.high > bounds[1]
        assert beyond  # so the bounds are what cut it off


def test_videos_of_one_subject_count_as_one() -> None:
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=8)
    values, names = np.repeat(subjects, 5), [f"s{i}" for i in range(8) for _ in range(5)]
    once = mean_score("s", define(), subjects, subjects, group="motion")
    often = mean_score(
        "s", define(), values, values, group="motion", subjects=names, real_subjects=names
    )
    assert often.value == pytest.approx(once.value) and often.num_videos == 40
    assert once.floor is not None and often.floor is not None
    assert once.floor.interval is not None and often.floor.interval is not None
    assert often.floor.interval.low == pytest.approx(once.floor.interval.low)
    one = mean_score("s", define(), [1.0, 2.0], [1.0, 3.0], group="motion", subjects=["a", "a"])
    assert one.interval is None and one.floor is not None and one.floor.interval is not None
    alone = mean_score("s", define(), [1.0, 2.0], [1.0], group="motion")
    assert alone.floor is not None and alone.floor.interval is None


def test_equal_real_values_give_no_interval_and_no_verdict() -> None:
    """They do not show how much others vary, so that any small change would be outside."""
    own = np.zeros(24)
    own[0] = 0.01
    for real in (0.0, 0.1, 1e6):
        found = mean_score("s", define(), own + real, np.full(24, real), group="motion")
        assert found.floor is not None and found.floor.value == pytest.approx(real)
        assert found.floor.interval is None and found.outside_floor() is None
        # Subjects with unequally many videos have equal means but for rounding.
        names = [f"s{min(i, 9)}" for i in range(24)]
        floor = mean_floor("s", define(), np.full(24, real), count=24, subjects=names)
        assert floor is not None and floor.interval is None
    share = mean_score("s", define(ZERO_TO_ONE, True), np.zeros(24), np.ones(24), group="text")
    assert share.floor is not None and share.floor.interval == share_interval(1, 24, 24)
    assert share.outside_floor() is True
    still = SeamRecord(np.ones((3, 9)), np.ones((3, 9)), [4], [], 5, 2, [""] * 3, np.zeros((3, 9)))
    scores = seam_scores(still)
    assert isinstance(scores, list) and scores[0].floor is not None
    assert scores[0].floor.value == 1 and scores[0].floor.interval is None


def test_values_that_are_absent_are_left_out_and_impossible_ones_refused() -> None:
    nan = math.nan
    found = mean_score("s", define(), [1.0, nan, 3.0], [nan, nan], group="motion")
    assert (found.value, found.num_videos, found.floor) == (2.0, 2, None)
    with pytest.raises(ValueError, match="speed: no generated video has a value"):
        mean_score("speed", define(), [nan], [1.0], group="motion")
    for bad in (-0.1, math.inf):
        with pytest.raises(ValueError, match=r"speed: a video has .*possible are 0 to inf"):
            mean_score("speed", define(NOT_NEGATIVE), [1.0, bad], [1.0], group="motion")
    with pytest.raises(ValueError, match="2 values of 1 subjects"):
        mean_score("speed", define(), [1.0, 2.0], [], group="motion", subjects=["a"])
    rounded = mean_score("s", define(COSINE), [1 + 1e-12, 1.0], [], group="text")
    assert rounded.value == 1.0
    with pytest.raises(ValueError, match=r"'Some score' has speed = inf"):
        flat([Score("speed", "Some score", "motion", math.inf, Better.LOWER)])


def test_a_ratio_of_means_follows_the_same_rule() -> None:
    """The seam ratio is no mean of one value per video, but a smooth function of two such means."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(TRIALS):
        at, elsewhere = rng.lognormal(sigma=0.4, size=(2, 2, 16))

        def ratio(picks: np.ndarray, top=at[0], bottom=elsewhere[0]) -> float:
            return float(top[picks].sum() / bottom[picks].sum())

        value = ratio(np.arange(16))
        interval = bootstrap(ratio, 16, num_draws=200, seed=seed)
        ends = prediction_interval(interval, value, 16, 16)
        assert ends is not None
        inside += ends.low <= at[1].mean() / elsewhere[1].mean() <= ends.high
    assert 0.90 < inside / TRIALS < 0.98


def test_the_floor_of_a_seam_ratio_is_not_negative() -> None:
    curves = np.ones((3, 9))
    curves[:, 4] = [0.1, 3.0, 0.1]
    scores = seam_scores(SeamRecord(curves, curves, [4], [], 5, 2, ["", "", ""], curves))
    assert isinstance(scores, list) and scores[0].floor is not None
    assert scores[0].floor.interval is not None and scores[0].floor.interval.low == 0
