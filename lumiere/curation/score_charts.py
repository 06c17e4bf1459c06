"""Draws the histograms of the scores for the curation page, as SVG, with the thresholds in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT, BASE = 400, 150, 128  # of a chart in its own units; bars stand on BASE
BINS = 40
BLUE, GREY, RED = "#2f6db3", "#b9c0c7", "#c0392b"


@dataclass(frozen=True)
class Score:
    """A score of clips, and the threshold that it has to reach.

    Attributes:
        key: a name for the script.
        title: what it is, with its unit.
        values: one per measured clip.
        accepted: whether each of these clips is accepted.
        parameter: the key of the threshold; empty without one.
        threshold: its value.
        reason: the reason of clips that do not reach it.
        is_strict: whether a value equal to the threshold is rejected.
        is_upper: whether values above the threshold are rejected.
        is_off: whether nothing is rejected now; the threshold is then where a slider begins.
        is_log: whether the axis is logarithmic; it begins at `lowest`, which holds all lower values.
        lowest: of a logarithmic axis.
    """

    key: str
    title: str
    values: Sequence[float]
    accepted: Sequence[bool]
    parameter: str = ""
    threshold: float = 0.0
    reason: str = ""
    is_strict: bool = False
    is_upper: bool = False
    is_off: bool = False
    is_log: bool = False
    lowest: float = 1e-4


def chart(score: Score) -> str:
    """Return a chart with a slider for the threshold, if there is one, as HTML."""
    values = _scaled(score, np.array(score.values, float))
    limit = float(_scaled(score, np.array([score.threshold]))[0])
    low, high = _range(score, values, limit)
    edges = np.linspace(low, high, BINS + 1)
    accepted = np.array(score.accepted, bool)
    kept, _ = np.histogram(values[accepted], edges)
    dropped, _ = np.histogram(values[~accepted], edges)
    parts = [f'<section class="chart"><h3>{escape(score.title)}</h3>']
    parts.append(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">')
    parts += _bars(kept, dropped)
    parts += _axis(score, low, high)
    if score.parameter and not score.is_off:
        x = (limit - low) / (high - low) * WIDTH
        parts.append(
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{BASE}" stroke="{RED}" '
            'stroke-width="2" stroke-dasharray="5 3"/>'
        )
    parts.append("</svg>")
    if score.parameter:
        parts.append(_slider(score, low, high, limit))
    else:
        parts.append('<small class="dim">No threshold uses this score.</small>')
    return "".join([*parts, "</section>"])


def _scaled(score: Score, values: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(values, score.lowest)) if score.is_log else values


def _range(score: Score, values: np.ndarray, limit: float) -> tuple[float, float]:
    """Return the ends of the axis, which holds all values and the threshold."""
    ends = [*values.tolist(), *([limit] if score.parameter else [])]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    low = np.log10(score.lowest) if score.is_log else min(0.0, low)
    return float(low), float(max(high + 0.02 * abs(high - low), low + 1e-3))


def _bars(kept: np.ndarray, dropped: np.ndarray) -> list[str]:
    """Draw accepted clips in blue, and rejected ones in grey on top of them."""
    highest = max(1, int((kept + dropped).max()))
    width = WIDTH / BINS
    bars = []
    for i, (low, extra) in enumerate(zip(kept.tolist(), dropped.tolist(), strict=True)):
        top = BASE
        for count, color, word in ((low, BLUE, "accepted"), (extra, GREY, "rejected")):
            if not count:
                continue
            height = max(2.0, count / highest * (BASE - 8))  # a single clip must be seen
            top -= height
            bars.append(
                f'<rect x="{i * width:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
                f'height="{height:.1f}" fill="{color}"><title>{count} {word}</title></rect>'
            )
    return bars


def _axis(score: Score, low: float, high: float) -> list[str]:
    """Draw the base line and round numbers below it."""
    marks = [f'<line x1="0" y1="{BASE}" x2="{WIDTH}" y2="{BASE}" stroke="{GREY}"/>']
    for place in _round_places(low, high, score.is_log):
        value = 10**place if score.is_log else place
        x = (place - low) / (high - low) * WIDTH
        anchor = "start" if x < 12 else "end" if x > WIDTH - 12 else "middle"
        prefix = "≤ " if score.is_log and place == low else ""
        marks.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 5}" font-size="12" fill="#5b6570" '
            f'text-anchor="{anchor}">{prefix}{_number(value)}</text>'
        )
    return marks


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _round_places(low: float, high: float, is_log: bool) -> list[float]:
    """Return up to about six places on an axis with round numbers; powers of ten on a logarithmic
    one.
    """
    if is_log:
        return [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
    power = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(power * f for f in (0.5, 1, 2, 5, 10, 20) if (high - low) / (power * f) <= 6)
    count = math.floor((high - low) / step)
    return [math.ceil(low / step) * step + i * step for i in range(count + 1)]


def _slider(score: Score, low: float, high: float, limit: float) -> str:
    step = (high - low) / 400
    now = repr(score.threshold)
    if score.is_off:
        now = "Infinity" if score.is_upper else "-Infinity"
    upper = ' data-upper="1"' if score.is_upper else ""
    return (
        f"<label><small>Move the threshold <code>{escape(score.parameter)}</code></small>"
        f'<input type="range" min="{low:.6g}" max="{high:.6g}" step="{step:.6g}" '
        f'value="{limit:.6g}" data-key="{score.key}" data-now="{now}" '
        f'data-name="{escape(score.parameter)}" data-reason="{score.reason}" '
        f'data-strict="{"1" if score.is_strict else ""}" data-log="{"1" if score.is_log else ""}"'
        f"{upper}>"
        '<output class="dim"></output></label>'
    )
