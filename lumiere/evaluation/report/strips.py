"""Draws one score beside its floor as a small strip for a table row."""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup

from lumiere.evaluation.report import wording
from lumiere.evaluation.scores import Score

WIDTH, HEIGHT, MARGIN = 180, 26, 9
MIDDLE = HEIGHT / 2


def strip(score: Score) -> Markup:
    """Return an SVG: the floor's interval as a band, the value as a dot with its interval.

    A hollow diamond is the floor of other subjects. The scale is the row's own, and linear. Without
    a floor there is nothing to compare with, so the strip is empty.
    """
    if score.floor is None or not math.isfinite(score.value):
        return Markup("")
    place = _scale(score)
    floor = score.floor
    parts = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{MIDDLE}" y2="{MIDDLE}"/>']
    if floor.interval is not None:
        left = place(floor.interval.low)
        width = max(3.0, place(floor.interval.high) - left)
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="3" width="{width:.1f}" height="{HEIGHT - 6}"/>'
        )
    x = place(floor.value)
    parts.append(f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="3" y2="{HEIGHT - 3}"/>')
    if score.other_floor is not None:
        x = place(score.other_floor.value)
        points = f"{x - 5:.1f},13 {x:.1f},8 {x + 5:.1f},13 {x:.1f},18"
        parts.append(f'<polygon class="other" points="{points}"/>')
    look = "bad" if score.outside_floor() else "value"
    if score.interval is not None:
        low, high = place(score.interval.low), place(score.interval.high)
        parts.append(
            f'<line class="{look}" x1="{low:.1f}" x2="{high:.1f}" y1="{MIDDLE}" y2="{MIDDLE}"/>'
        )
    parts.append(f'<circle class="{look}" cx="{place(score.value):.1f}" cy="{MIDDLE}" r="4.5"/>')
    words = Markup.escape(f"{wording.against_floor(score)} of real clips")
    return Markup(
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{words}">{"".join(parts)}</svg>'
    )


def _scale(score: Score) -> Callable[[float], float]:
    """Return a function from values to pixels that fits everything that the strip shows."""
    assert score.floor is not None
    values = [score.value, score.floor.value]
    for ends in (score.interval, score.floor.interval):
        if ends is not None:
            values += [ends.low, ends.high]
    if score.other_floor is not None:
        values.append(score.other_floor.value)
    low, high = min(values), max(values)
    span = high - low or 1.0

    def place(value: float) -> float:
        return MARGIN + (value - low) / span * (WIDTH - 2 * MARGIN)

    return place
