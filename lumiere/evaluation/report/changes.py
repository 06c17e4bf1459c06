"""Compares the scores with those of an earlier run.

The report of the stage `evaluate` leaves the comparison out. DVC hashes the stage's folder, and the
last commit is not among the stage's inputs, so equal inputs would give other bytes after each
commit. The stage gives no `previous` to the report. It prints `summary` and writes the comparison
to a page outside its outputs (`write_changes` in page.py), which it logs to MLflow. `lumiere
evaluate --baseline METRICS.json` names the earlier run as an input, so there the comparison is part
of the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lumiere.errors import DataError
from lumiere.evaluation.report.content import Previous
from lumiere.evaluation.report.wording import number
from lumiere.evaluation.scores import DIGITS, Better, Interval, Score
from lumiere.git import git_text
from lumiere.plurals import counted

# The keys that `scores.flat` adds to the key of a score.
SUFFIXES = ("_floor_other_subjects", "_floor_low", "_floor_high", "_floor", "_low", "_high")


class Effect(StrEnum):
    """The direction in which a score changed."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN = "within the intervals"
    UNSURE = "changed, without an interval"
    EQUAL = "equal"
    NEW = "new"


@dataclass(frozen=True)
class Change:
    """A score of this run beside the same score of the earlier run; `before` is None if it is new."""

    score: Score
    before: float | None
    before_interval: Interval | None
    effect: Effect


def previous_metrics(metrics_path: str | Path) -> Previous | None:
    """Read the last committed version of a metrics file, and the commit that wrote it.

    Returns:
        None outside of a Git repository, without Git, or if the last commit has no such file.

    Raises:
        DataError: if the committed file is not a flat JSON mapping of numbers.
    """
    path = Path(metrics_path).absolute()
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    name = path.relative_to(folder).as_posix()
    text = git_text(folder, "show", f"HEAD:./{name}")
    commit = git_text(folder, "--literal-pathspecs", "log", "-1", "--format=%h", "--", name)
    if text is None or commit is None:
        return None
    return Previous(parse_metrics(text, f"{path} in the last commit"), commit)


def parse_metrics(text: str, name: str) -> dict[str, float]:
    """Read a flat JSON mapping of names to finite numbers.

    Raises:
        DataError: if it is anything else; the message begins with `name`.
    """
    try:
        metrics = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name}: not JSON ({error}); give the metrics of another run") from None
    if not isinstance(metrics, dict):
        raise DataError(f"{name}: expected one flat mapping of names to numbers")
    for key, value in metrics.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise DataError(f"{name}: {key} is {value!r}; expected a number")
    return {key: float(value) for key, value in metrics.items()}


def changes(scores: Sequence[Score], previous: Mapping[str, float]) -> list[Change]:
    """Compare each score with the earlier run's.

    A change counts if the 95 % intervals do not overlap. If only one run has an interval, the other
    run's value has to lie outside of it. With `Better.CLOSER`, better means nearer to the floor of
    the same run.
    """
    compared = []
    for score in scores:
        before = previous.get(score.key)
        ends = _interval(previous, score.key)
        effect = Effect.NEW if before is None else _effect(score, before, ends, previous)
        compared.append(Change(score, before, ends, effect))
    return compared


def gone(scores: Sequence[Score], previous: Mapping[str, float]) -> list[str]:
    """Return the earlier run's scores that this run does not have."""
    current_keys = {score.key for score in scores}
    return [key for key in previous if key not in current_keys and _stem(key, previous) == key]


def summary(scores: Sequence[Score], previous: Previous) -> list[str]:
    """Return lines for the console: what changed beyond the intervals, then a count of the rest."""
    all_changes = changes(scores, previous.metrics)
    lines = []
    for change in all_changes:
        if change.effect in (Effect.BETTER, Effect.WORSE):
            assert change.before is not None
            lines.append(
                f"{change.effect}: {change.score.key} {number(change.before)} → "
                f"{number(change.score.value)}"
            )
    lines.append(f"{counts_of_rest(all_changes)} (against {previous.commit})")
    return lines


def counts_of_rest(found: Sequence[Change]) -> str:
    """Count the scores that are neither better nor worse."""
    parts = []
    for effect in (Effect.EQUAL, Effect.WITHIN, Effect.UNSURE, Effect.NEW):
        count = sum(1 for change in found if change.effect is effect)
        if count:
            parts.append(f"{counted(count, 'score')} {effect}")
    return "; ".join(parts) or "no other scores"


def _effect(
    score: Score, before: float, ends: Interval | None, previous: Mapping[str, float]
) -> Effect:
    if round(score.value, DIGITS) == round(before, DIGITS):
        return Effect.EQUAL
    if score.interval is None and ends is None:
        return Effect.UNSURE
    now, then = score.interval, ends
    now_low, now_high = (now.low, now.high) if now else (score.value, score.value)
    then_low, then_high = (then.low, then.high) if then else (before, before)
    if now_low <= then_high and then_low <= now_high:
        return Effect.WITHIN
    if score.better is Better.LOWER:
        improved = score.value < before
    elif score.better is Better.HIGHER:
        improved = score.value > before
    else:
        target_before = previous.get(f"{score.key}_floor")
        if score.floor is None or target_before is None:
            return Effect.UNSURE
        improved = abs(score.value - score.floor.value) < abs(before - target_before)
    return Effect.BETTER if improved else Effect.WORSE


def _interval(metrics: Mapping[str, float], key: str) -> Interval | None:
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    return None if low is None or high is None else Interval(low, high)


def _stem(key: str, metrics: Mapping[str, float]) -> str:
    """Return the score that a key belongs to; the key itself if it is a score."""
    for suffix in SUFFIXES:
        stem = key.removesuffix(suffix)
        if stem != key and stem in metrics:
            return stem
    return key
