"""Intervals of scores: the bootstrap for means, the jackknife for distances between sets.

A score has an interval of its own, and its floor has a *prediction* interval: where the score of as
many other real videos lies (`prediction_interval`; `share_interval` with `count`).

What is resampled is always a whole video (or a subject, with all its videos): frames of one video
are near copies, and to resample them one by one would give intervals far too narrow.

Distances are not bootstrapped with replacement. A resample of n videos holds about 0.63 n different
ones, and the copies do harm: they lower the rank of the covariance, they put k(x, x) where the
kernel distance sums over different samples, and they are each other's nearest neighbours at
distance 0. For two sets of 24 samples of one Gaussian in 60 dimensions, the Fréchet distance is
65 ± 2.4 and the average percentile interval 74 to 89; KID is 0 ± 0.05 and its interval 0.3 to 0.9.
The jackknife leaves one video out at a time, so no video occurs twice, and its variance is too
large rather than too small on average, for every statistic that does not depend on the order of the
videos (Efron & Stein 1981, "The jackknife estimate of variance"). On Gaussians its intervals cover
the mean distance in 91 to 100 % of sets of 10 and 24 videos. They cover less where a few videos
dominate the distance: 83 % for KID of 12 videos in one dimension, 1.5 deviations apart.

All intervals here have a level of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np
from scipy.special import stdtrit

from lumiere.evaluation.scores import Interval
from lumiere.plurals import counted

LEVEL = 0.95
NORMAL_QUANTILE = 1.959963984540054  # the normal distribution's quantile at 0.975
NUM_DRAWS = 2000
MAX_GROUPS = 32  # of the jackknife: more cost time and hardly sharpen the variance
MIN_UNITS = 3  # leaving one out has to leave two
ROUNDING = 1e-9  # relative; means of equal values differ by as much


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    num_videos: int,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic that repeated videos do not distort.

    It suits means, medians and shares of per-video values. It does not suit distances between
    sets (see the module's docstring): use `jackknife` for these. With few videos it is a little
    too narrow: for the mean of 10 normal values it covers 90 %, with 24 values 93 %.

    Args:
        statistic: takes (num_videos,) indices in 0 … num_videos − 1, drawn with replacement, and
            returns the score of these videos.
        num_videos: at least 2.
        num_draws: the number of resamples.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: if there are fewer than 2 videos, or the statistic is not finite.
    """
    if num_videos < 2:
        raise ValueError(f"{counted(num_videos, 'video')}; an interval needs at least 2")
    rng = np.random.default_rng(seed)
    draws = rng.integers(num_videos, size=(num_draws, num_videos))
    return _percentiles(np.array([statistic(indices) for indices in draws], np.float64))


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str] | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of the mean of one value per video, as `bootstrap` does.

    Args:
        values: (n,), one per video.
        groups: n names; videos of one name (one subject) are drawn together.
        num_draws: the number of resamples.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: if there are fewer than 2 groups, or a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if groups is None:
        owner = np.arange(len(values))
    else:
        if len(groups) != len(values):
            raise ValueError(f"{len(values)} values and {len(groups)} groups; expected as many")
        owner = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(owner, weights=values)
    counts = np.bincount(owner)
    if len(counts) < 2:
        raise ValueError(f"{counted(len(counts), 'video')}; an interval needs at least 2")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(counts), size=(num_draws, len(counts)))
    return _percentiles(sums[draws].sum(1) / counts[draws].sum(1))


def jackknife(
    statistic: Callable[[Collection[str]], float],
    strata: Sequence[Sequence[str]],
    value: float | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    max_groups: int = MAX_GROUPS,
    seed: int = 0,
) -> Interval:
    """Return value ± t · s, where s is the jackknife's standard error.

    The interval covers the mean of the statistic over sets of the same number of videos: what
    another set of n videos of the same kind would score on average. It says how much depends on
    the choice of the videos. It does not remove the bias of the statistic at this n (the Fréchet
    distance of few videos is too large): compare with a floor at the same n. Nor does it cover
    other seeds of the generator beyond the one video of each caption, other captions than those of
    the kind that was drawn, or the choice of the network.

    Each stratum is a set of units that were drawn independently of the other strata: the generated
    videos and the real ones, or the subjects, if each generated video belongs to a real one. The
    variances of the strata add up. With more than `max_groups` units in a stratum, groups of equal
    size are left out.

    Args:
        statistic: takes the names of the units to leave out (possibly none), returns the score.
        strata: names of units, at least 3 in each.
        value: the centre; by default, the statistic of all units.
        bounds: the range of the statistic; the interval is cut off there.
        max_groups: the most evaluations per stratum.
        seed: of the grouping.

    Raises:
        ValueError: if a stratum has fewer than 3 units, or a value is not finite.
    """
    if value is None:
        value = statistic(())
    variance = 0.0
    fewest = max_groups
    for number, units in enumerate(strata):
        if len(units) < MIN_UNITS:
            raise ValueError(
                f"{counted(len(units), 'video')}; the jackknife needs at least {MIN_UNITS}"
            )
        groups = _equal_groups(units, max_groups, np.random.default_rng([seed, number]))
        left = np.array([statistic(group) for group in groups], np.float64)
        if not (np.isfinite(left).all() and math.isfinite(value)):
            raise ValueError("the statistic is not finite")
        size = len(groups[0])
        # The delete-d jackknife (Shao & Wu 1989); with d = 1 the factor is (n − 1) / n.
        factor = (len(units) - size) / (size * len(groups))
        variance += factor * float(np.sum((left - left.mean()) ** 2))
        fewest = min(fewest, len(groups))
    reach = float(stdtrit(fewest - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Interval(max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def prediction_interval(
    interval: Interval, value: float, num_real: int, count: int
) -> Interval | None:
    """Turn the bootstrap interval of a real value into one for that of other real videos.

    It answers the question "could this be the score of as many other real videos?". The two values
    are independent, so their variances add up: a factor of √(1 + n / count) on the width. The
    bootstrap's variance is too small by (n − 1) / n, and Student's t takes the place of the normal
    distribution, because the deviation is itself estimated from n videos. For normal values and a
    mean this is the textbook's prediction interval; for skewed values, ratios and medians of few
    videos it is an approximation.

    It holds less often than 95 % of cases where a few videos hold the large values (heavy tails):
    about 17 % of means of 24 lognormal values with σ = 1.5 lie outside the interval of 24 others.
    Of sets of 24 real subjects, 22 % (background_noise), 19 % (background_flicker), 9 %
    (frame_change) and 7 % (motion_px) lie outside that of 24 other subjects; `docs/evaluation.md`
    says more.

    Args:
        interval: from `bootstrap` or `mean_interval`.
        value: of the real videos.
        num_real: n, the real videos (or subjects) behind it, at least 2.
        count: the other videos (or subjects) whose score is predicted, at least 1.

    Returns:
        None if the bootstrap's interval has no width, as where all real values are equal: they do
        not show how much others vary, and any other value would lie outside.

    Raises:
        ValueError: for fewer videos.
    """
    if num_real < 2 or count < 1:
        raise ValueError(f"{num_real} real and {count} other videos; expected at least 2 and 1")
    if math.isclose(interval.low, interval.high, rel_tol=ROUNDING, abs_tol=1e-12):
        return None
    student = float(stdtrit(num_real - 1, (1 + LEVEL) / 2)) / NORMAL_QUANTILE
    factor = student * math.sqrt((1 + num_real / count) * num_real / (num_real - 1))
    return Interval(
        value + factor * (interval.low - value), value + factor * (interval.high - value)
    )


def share_interval(share: float, num_videos: int, count: float = math.inf) -> Interval:
    """Return Wilson's interval of a share of videos, or where the share of `count` others lies.

    Unlike the bootstrap, it has a width when the share is 0 or 1: 24 of 24 videos are compatible
    with a share of 0.86. The share of 24 other videos has to fall below 0.85 before the two-sample
    score test finds a difference.

    Args:
        share: of the videos.
        num_videos: n, at least 1.
        count: the other videos m whose share is predicted; infinitely many by default, whose share
            is the true one.

    Raises:
        ValueError: if there is no video, or the share is not in [0, 1].
    """
    if num_videos < 1 or not count >= 1 or not 0 <= share <= 1:
        raise ValueError(
            f"a share of {share} of {num_videos} videos, for {count} others; expected 0 to 1 of at "
            "least 1"
        )
    # With d the difference of the shares and q the share of all n + m videos, the test's limit is
    # d² = z² q (1 − q) (1 / n + 1 / m), a quadratic equation in d: a d² − 2 b d − c = 0.
    z_squared = NORMAL_QUANTILE**2
    n, n_per_m = num_videos, num_videos / count
    a = 1 + z_squared / (n * (1 + n_per_m))
    b = z_squared * (1 - 2 * share) / (2 * n)
    c = z_squared * share * (1 - share) * (1 + n_per_m) / n
    root = math.sqrt(b**2 + a * c)
    low, high = share + (b - root) / a, share + (b + root) / a
    # The share itself is inside; rounding must not leave 1 − 1e−16.
    return Interval(max(0.0, min(low, share)), min(1.0, max(high, share)))


def at_ceiling(share: float, num_videos: int) -> bool:
    """Return whether a share of videos is 1 up to one video, so that it can hardly become better."""
    return share >= 1 - 1 / num_videos - 1e-9


def hull(first: Interval, second: Interval) -> Interval:
    """Return the smallest interval that holds both."""
    return Interval(min(first.low, second.low), max(first.high, second.high))


def _percentiles(draws: np.ndarray) -> Interval:
    if not np.isfinite(draws).all():
        raise ValueError("the statistic of a resample is not finite")
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _equal_groups(
    units: Sequence[str], max_groups: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Split units into at most `max_groups` groups of equal size; the rest is never left out.

    Equal sizes matter: the bias of a distance depends on the number of videos.
    """
    size = math.ceil(len(units) / max_groups)
    shuffled = [units[i] for i in rng.permutation(len(units))] if size > 1 else list(units)
    return [tuple(shuffled[k * size : (k + 1) * size]) for k in range(len(units) // size)]
