"""Scores of an evaluation with their intervals and floors, in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

DIGITS = 6  # of the numbers in the metrics file

# The values that a score can take, as (lowest, highest).
UNBOUNDED = (-math.inf, math.inf)
NOT_NEGATIVE = (0.0, math.inf)
ZERO_TO_ONE = (0.0, 1.0)
COSINE = (-1.0, 1.0)


class Better(StrEnum):
    """The values of a score that are good."""

    LOWER = "lower"
    HIGHER = "higher"
    CLOSER = "closer"  # to the real clips' value


@dataclass(frozen=True)
class Interval:
    """A 95 % interval over videos; `lumiere.evaluation.bootstrap` says how each kind is made."""

    low: float
    high: float

    def within(self, bounds: tuple[float, float]) -> Interval:
        """Cut the interval off at the lowest and the highest value that the score can take."""
        return Interval(max(self.low, bounds[0]), min(self.high, bounds[1]))


@dataclass(frozen=True)
class Floor:
    """The value that real clips reach in place of the generated ones, at the same number of videos.

    The interval is a prediction interval: where this score of as many other real videos as there
    are generated ones lies in 95 % of cases, or fewer with heavy tails. Both the real and the
    generated videos are a sample, so it is wider than the interval of the real value itself.
    Distances between sets are the exception; `lumiere.evaluation.distances.floors` says why.
    """

    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Definition:
    """The meaning of a score, for any videos.

    Attributes:
        label: its name in the report.
        better: which values are good.
        unit: such as "px" or "dB"; may be empty.
        note: a sentence for the report: what it is, its source, its preprocessing.
        bounds: the lowest and the highest value that it can take; no interval reaches beyond them.
        is_share: whether it is a share of videos, so that each video counts as 0 or 1.
    """

    label: str
    better: Better
    unit: str
    note: str
    bounds: tuple[float, float] = UNBOUNDED
    is_share: bool = False


@dataclass(frozen=True)
class Score:
    """One number about a set of videos, with all that is needed to read it.

    Attributes:
        key: its name in the metrics file: lower-case letters, digits and underscores.
        label: its name in the report.
        group: the report's section: "distances", "text", "temporal", "motion", "modes" or "seams".
        value: the score of the generated videos.
        better: which values are good.
        interval: of `value`.
        floor: the same score of real videos of the same subjects (other times or other windows).
        other_floor: the same score of real videos of other subjects.
        num_videos: the number of generated videos it was measured on.
        saturated: it is at its ceiling, so it can no longer show an improvement.
        sees: False if the study in `docs/evaluation.md` found the score blind, or could not judge it.
        note: a sentence for the report: what it is, its source, its preprocessing.
        unit: such as "px" or "dB"; may be empty.
    """

    key: str
    label: str
    group: str
    value: float
    better: Better
    interval: Interval | None = None
    floor: Floor | None = None
    other_floor: Floor | None = None
    num_videos: int = 0
    saturated: bool = False
    sees: bool = True
    note: str = ""
    unit: str = ""

    def outside_floor(self) -> bool | None:
        """Return whether the value is worse than the floor's interval allows; None without one.

        With `Better.CLOSER`, a value on either side of the interval is worse.
        """
        if self.floor is None or self.floor.interval is None or math.isnan(self.value):
            return None
        low, high = self.floor.interval.low, self.floor.interval.high
        if self.better is Better.LOWER:
            return self.value > high
        if self.better is Better.HIGHER:
            return self.value < low
        return not low <= self.value <= high


@dataclass(frozen=True)
class LeftOut:
    """A measure that this input does not allow; `why` is a sentence for the console and the report."""

    name: str
    why: str


def flat(scores: Iterable[Score], intervals: bool = False) -> dict[str, float]:
    """Return the scores as one flat mapping for the metrics file and MLflow.

    `<key>`, `<key>_floor` and, for distances, `<key>_floor_other_subjects`. What is unknown is
    absent. Intervals are in `detailed`, because a table of metrics with four ends of intervals for
    each score cannot be read; with `intervals=True`, `<key>_low` and `<key>_high` are here as well.

    Raises:
        ValueError: if two scores have one key, or a number is not finite.
    """
    values: dict[str, float] = {}
    for score in scores:
        if score.key in values:
            raise ValueError(f"two scores are called {score.key}")
        entries = {score.key: score.value}
        if intervals and score.interval is not None:
            entries[f"{score.key}_low"] = score.interval.low
            entries[f"{score.key}_high"] = score.interval.high
        if score.floor is not None:
            entries[f"{score.key}_floor"] = score.floor.value
        if score.other_floor is not None and score.group == "distances":
            entries[f"{score.key}_floor_other_subjects"] = score.other_floor.value
        for key, value in entries.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"the score {score.label!r} has {key} = {value}; metrics hold finite numbers "
                    "only, so leave the score out and say why"
                )
        values |= entries
    # Adding 0 turns −0 into 0.
    return {key: round(float(value), DIGITS) + 0.0 for key, value in values.items()}


def detailed(scores: Iterable[Score]) -> list[dict[str, object]]:
    """Return everything about each score as JSON: intervals, floors, marks and notes."""
    return [
        {
            "key": score.key,
            "label": score.label,
            "group": score.group,
            "value": round(score.value, DIGITS),
            "interval": _ends(score.interval),
            "better": str(score.better),
            "unit": score.unit,
            "floor": _floor(score.floor),
            "floor_other_subjects": _floor(score.other_floor),
            "outside_floor": score.outside_floor(),
            "num_videos": score.num_videos,
            "saturated": score.saturated,
            "sees": score.sees,
            "note": score.note,
        }
        for score in scores
    ]


def _floor(floor: Floor | None) -> dict[str, object] | None:
    if floor is None:
        return None
    return {"value": round(floor.value, DIGITS), "interval": _ends(floor.interval)}


def _ends(interval: Interval | None) -> list[float] | None:
    if interval is None:
        return None
    return [round(interval.low, DIGITS), round(interval.high, DIGITS)]
