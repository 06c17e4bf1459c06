"""What an evaluation finds: scores with their intervals and floors, told in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

DIGITS = 6  # of the numbers in the metrics file


class Better(StrEnum):
    """Which values of a score are good."""

    LOWER = "lower"
    HIGHER = "higher"
    CLOSER = "closer"  # to the real clips' value


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, from the bootstrap over videos."""

    low: float
    high: float


@dataclass(frozen=True)
class Floor:
    """The value that real clips reach in place of the generated ones, at the same number of videos."""

    value: float
    interval: Interval | None = None


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
        saturated: it is at its ceiling, so it can no longer tell good from better.
        sees: False if `docs/evaluation.md` shows that its order of degraded sets is wrong.
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
        """Whether the value is worse than the floor's interval allows; None without an interval.

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
        found = {score.key: score.value}
        if intervals and score.interval is not None:
            found[f"{score.key}_low"] = score.interval.low
            found[f"{score.key}_high"] = score.interval.high
        if score.floor is not None:
            found[f"{score.key}_floor"] = score.floor.value
        if score.other_floor is not None and score.group == "distances":
            found[f"{score.key}_floor_other_subjects"] = score.other_floor.value
        for key, value in found.items():
            if not math.isfinite(value):
                raise ValueError(f"{key} is {value}; leave the score out and say why")
        values |= found
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
