"""Scores that are the mean of one value per video, beside the mean of real videos: one rule for all.

The mean has the bootstrap interval of the generated videos (Wilson's, for a share of videos). The
floor is the mean of the real videos, and its interval a prediction interval: where the mean of as
many other real videos lies in 95 % of cases. Videos of one subject count as one, because they are
alike. Equal real values give a floor without an interval.

Real videos of the *same* subjects differ less than this, because subjects cancel out, so that the
interval is usually too wide for them. With heavy tails, it is too narrow for videos of other subjects
(`lumiere.evaluation.bootstrap.prediction_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lumiere.evaluation.bootstrap import mean_interval, prediction_interval, share_interval
from lumiere.evaluation.scores import Definition, Floor, Interval, Score

ROUNDING = 1e-6  # a cosine of equal vectors may be 1 + 1e−16

Values = Sequence[float] | np.ndarray


def mean_score(
    key: str,
    definition: Definition,
    values: Values,
    real: Values,
    *,
    group: str,
    subjects: Sequence[str] | None = None,
    real_subjects: Sequence[str] | None = None,
    seed: int = 0,
) -> Score:
    """Return the mean of a value per video beside the real videos' mean.

    Args:
        key: of the score.
        definition: of the score.
        values: (n,), one per generated video; NaN marks a video that has no such value.
        real: (m,), the same of real videos; there is no floor if none has a value.
        group: the report's section.
        subjects, real_subjects: n and m names; videos of one subject are drawn together. By
            default, each video has its own.
        seed: of the bootstrap.

    Raises:
        ValueError: if no generated video has a value, or a value is infinite or outside the
            definition's bounds.
    """
    own, owners = _checked(key, definition, values, subjects)
    if not len(own):
        raise ValueError(f"{key}: no generated video has a value; leave the score out and say why")
    return Score(
        key=key,
        label=definition.label[:1].upper() + definition.label[1:],
        group=group,
        value=float(own.mean()),
        better=definition.better,
        interval=_own_interval(own, owners, definition, seed),
        floor=mean_floor(
            key, definition, real, count=len(set(owners)), subjects=real_subjects, seed=seed
        ),
        num_videos=len(own),
        note=definition.note,
        unit=definition.unit,
    )


def mean_floor(
    key: str,
    definition: Definition,
    real: Values,
    *,
    count: int,
    subjects: Sequence[str] | None = None,
    seed: int = 0,
) -> Floor | None:
    """Return the mean of real videos with the interval of the mean of `count` other real subjects.

    Args:
        key, definition, real, subjects, seed: as in `mean_score`.
        count: the number of generated subjects (of videos, if each has its own subject).

    Returns:
        None if no real video has a value. There is no interval with fewer than 2 subjects, or if
        all real videos have one value: they do not show how much others vary. A share always has one.

    Raises:
        ValueError: as `mean_score`.
    """
    values, owners = _checked(key, definition, real, subjects)
    if not len(values):
        return None
    mean, num_real = float(values.mean()), len(set(owners))
    if num_real < 2:
        return Floor(mean)
    if definition.is_share:
        return Floor(mean, share_interval(mean, num_real, count))
    interval = mean_interval(values, owners, seed=seed)
    predicted = prediction_interval(interval, mean, num_real, count)
    if predicted is None:
        return Floor(mean)
    return Floor(mean, predicted.within(definition.bounds))


def _own_interval(
    values: np.ndarray, owners: Sequence[str], definition: Definition, seed: int
) -> Interval | None:
    if len(set(owners)) < 2:
        return None
    if definition.is_share:
        return share_interval(float(values.mean()), len(set(owners)))
    return mean_interval(values, owners, seed=seed).within(definition.bounds)


def _checked(
    key: str, definition: Definition, values: Values, subjects: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Return the values that are not NaN, and the subject of each."""
    numbers = np.asarray(values, np.float64)
    names = [str(index) for index in range(len(numbers))] if subjects is None else list(subjects)
    if len(names) != len(numbers):
        raise ValueError(f"{key}: {len(numbers)} values of {len(names)} subjects; expected as many")
    kept = ~np.isnan(numbers)
    numbers, names = numbers[kept], [name for name, keep in zip(names, kept, strict=True) if keep]
    low, high = definition.bounds
    for value in numbers:
        if math.isinf(value) or not low - ROUNDING <= value <= high + ROUNDING:
            raise ValueError(f"{key}: a video has {value}; possible are {low:g} to {high:g}")
    return np.clip(numbers, low, high), names
