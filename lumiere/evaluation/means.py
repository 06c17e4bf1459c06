"""Scores that are means of one value per video, beside the mean of real videos."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from lumiere.evaluation.bootstrap import hull, mean_interval, share_interval
from lumiere.evaluation.scores import Better, Floor, Interval, Score
from lumiere.evaluation.video_numbers import Definition

MOTION = re.compile("motion|static|period|phase|spectrum")


def value_score(
    key: str,
    label: str,
    group: str,
    better: Better,
    values: Sequence[float] | np.ndarray,
    real: Sequence[float] | np.ndarray,
    *,
    note: str = "",
    unit: str = "",
    seed: int = 0,
) -> Score:
    """Return the mean of a value per video, beside that of real videos if there are at least 2.

    Unlike with `mean_score`, the floor's interval is that of the real mean itself.

    Raises:
        ValueError: if there are fewer than 2 generated videos, or a value is not finite.
    """
    floor = None
    if len(real) >= 2:
        floor = Floor(float(np.mean(real)), mean_interval(real, seed=seed))
    return Score(
        key=key,
        label=label,
        group=group,
        value=float(np.mean(values)),
        better=better,
        interval=mean_interval(values, seed=seed),
        floor=floor,
        num_videos=len(values),
        note=note,
        unit=unit,
    )


def mean_score(
    key: str,
    definition: Definition,
    values: Sequence[float],
    real: Sequence[float],
    seed: int = 0,
) -> Score | None:
    """Return the mean of a value per video beside the real videos' mean; None if no video has it.

    The floor's interval is where the mean of as many other real videos lies in 95 % of cases: a
    prediction interval, wider than that of the real mean itself, because both means vary. NaN marks
    a video that has no such value.
    """
    own = np.asarray([value for value in values if math.isfinite(value)])
    reference = np.asarray([value for value in real if math.isfinite(value)])
    if not len(own):
        return None
    is_share = definition.unit == "share"
    floor = None
    if len(reference):
        interval = _interval(reference, is_share, seed)
        floor = Floor(float(reference.mean()), _widened(interval, reference, len(own), is_share))
    return Score(
        key=key,
        label=_capital(definition.label),
        group="motion" if MOTION.search(key) else "temporal",
        value=float(own.mean()),
        better=definition.better,
        interval=_interval(own, is_share, seed),
        floor=floor,
        num_videos=len(own),
        note=definition.note,
        unit=definition.unit,
    )


def _interval(values: np.ndarray, is_share: bool, seed: int) -> Interval | None:
    if len(values) < 2:
        return None
    interval = mean_interval(values, seed=seed)
    # The bootstrap of a share has no width if all videos agree.
    return (
        hull(interval, share_interval(float(values.mean()), len(values))) if is_share else interval
    )


def _widened(
    interval: Interval | None, reference: np.ndarray, count: int, is_share: bool
) -> Interval | None:
    """Turn the interval of a mean into one for the mean of `count` other videos.

    Variances of independent means add up. The bootstrap's own variance is too small by (n − 1) / n.
    """
    if interval is None:
        return None
    n, mean = len(reference), float(reference.mean())
    factor = math.sqrt((1 + n / count) * n / (n - 1))
    low, high = mean + factor * (interval.low - mean), mean + factor * (interval.high - mean)
    return Interval(max(low, 0.0), min(high, 1.0)) if is_share else Interval(low, high)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
