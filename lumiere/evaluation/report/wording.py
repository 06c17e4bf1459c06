"""Numbers and scores as short text, the same way everywhere in the report."""

from __future__ import annotations

import math

from lumiere.evaluation.scores import Better, Interval, Score

ARROWS = {Better.LOWER: "↓", Better.HIGHER: "↑", Better.CLOSER: "→"}
DIRECTIONS = {
    Better.LOWER: "lower is better",
    Better.HIGHER: "higher is better",
    Better.CLOSER: "closer to real clips is better",
}


def number(value: float) -> str:
    """Write a number with three significant digits, without exponents where people read them."""
    if not math.isfinite(value):
        return "not a number"
    if abs(value) >= 999.5:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}"
    if "e-" in text:
        text = f"{value:.7f}".rstrip("0").rstrip(".")
    return "0" if float(text) == 0 else text.replace("-", "−")


def interval(ends: Interval | None) -> str:
    """Write an interval as "low to high"; empty if there is none."""
    return "" if ends is None else f"{number(ends.low)} to {number(ends.high)}"


def against_floor(score: Score) -> str:
    """Write the value beside its floor, such as "286 against 16"."""
    assert score.floor is not None
    unit = f" {score.unit}" if score.unit else ""
    return f"{number(score.value)} against {number(score.floor.value)}{unit}"


def times_floor(score: Score) -> float | None:
    """Return how many times its floor a lower-is-better score is; None where a ratio means nothing.

    An unbiased distance may be zero or negative for real clips, which gives no ratio.
    """
    if score.better is not Better.LOWER or score.floor is None or score.floor.value <= 0:
        return None
    if score.floor.interval is not None and score.floor.interval.low <= 0:
        return None
    return score.value / score.floor.value


def listed(items: list[str]) -> str:
    """Join with commas and a final "and"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
