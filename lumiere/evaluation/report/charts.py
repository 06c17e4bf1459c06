"""Draws the report's charts: as SVG for the page, as PNG for `dvc plots`.

The SVG takes its colours from the page's style, so that it is readable on light and dark paper.
Lines differ by dashes and markers as well as by colour. Equal content gives equal bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np

from lumiere.evaluation.report.content import Curve
from lumiere.evaluation.scores import Interval, Score

matplotlib.use("Agg")  # before pyplot, because there may be no display

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Each colour is the name of a variable of the page's style, and what it is on white paper.
COLOURS = {
    "ink": "#1f2328",
    "faint": "#d0d4da",
    "quiet": "#5c6470",
    "line-1": "#1d5fa8",
    "line-2": "#8a5a00",
    "line-3": "#2f7d32",
    "line-4": "#a03a8c",
    "bad": "#b3261e",
}
LINES = ["line-1", "line-2", "line-3", "line-4"]
DASHES = ["-", "--", ":", "-."]
MARKERS = ["o", "s", "^", "D"]
# Kinds of vertical lines: a broad one first, so that a thin one at the same place stays visible.
MARK_LOOKS = [
    {"color": COLOURS["faint"], "linewidth": 8},
    {"color": COLOURS["quiet"], "linewidth": 1.3, "linestyle": ":"},
    {"color": COLOURS["quiet"], "linewidth": 1.3, "linestyle": "-."},
]
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, and the page sets its font
    "svg.hashsalt": "lumiere",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["quiet"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["faint"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "legend.frameon": False,
}
MAX_MARKERS = 40  # points; markers of longer lines would touch


def draw_curve(curve: Curve) -> Figure:
    """Draw the lines of a curve, with dotted vertical lines at its marks.

    Raises:
        ValueError: if a line and the positions differ in length, or there is no line.
    """
    if not curve.series:
        raise ValueError(f"the curve {curve.key!r} has no series")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.7, 3.1), layout="constrained")
        looks = zip(cycle(LINES), cycle(DASHES), cycle(MARKERS))
        for (name, values), (colour, dashes, marker) in zip(curve.series.items(), looks):  # noqa: B905
            values = np.asarray(values, dtype=np.float64)
            x = positions(curve, name)
            axes.plot(
                x,
                values,
                color=COLOURS[colour],
                linestyle=dashes,
                marker=marker if len(values) <= MAX_MARKERS else None,
                markersize=3.5,
                linewidth=1.6,
                label=name,
            )
        for (name, marks), look in zip(curve.marks.items(), cycle(MARK_LOOKS)):
            for i, mark in enumerate(marks):
                axes.axvline(mark, label="_" if i else name, zorder=0.5, **look)
        axes.set(xlabel=curve.x_label, ylabel=curve.y_label)
        figure.legend(loc="outside upper left", ncols=2, fontsize=9)
    return figure


def positions(curve: Curve, name: str) -> np.ndarray:
    """Return the positions of one line's values."""
    values = np.asarray(curve.series[name])
    if curve.x is None:
        return np.arange(len(values), dtype=np.float64)
    if len(curve.x) != len(values):
        raise ValueError(
            f"the curve {curve.key!r} has {len(curve.x)} positions, but {len(values)} values of "
            f"{name!r}"
        )
    return np.asarray(curve.x, dtype=np.float64)


def draw_scores(scores: Sequence[Score]) -> Figure:
    """Draw each score beside its floor, one row each, on an axis of its own."""
    shown = [s for s in scores if s.floor is not None and math.isfinite(s.value)]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        if not shown:
            figure = plt.figure(figsize=(8, 1))
            figure.text(0.5, 0.5, "No score has a floor.", ha="center", va="center")
            return figure
        figure, panels = plt.subplots(
            len(shown), 1, figsize=(8, 0.62 * len(shown) + 0.6), layout="constrained", squeeze=False
        )
        for axes, score in zip(panels[:, 0], shown, strict=True):
            _draw_row(axes, score)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=9)
    return figure


def _draw_row(axes: plt.Axes, score: Score) -> None:
    assert score.floor is not None
    floor = score.floor
    bad = score.outside_floor()
    rows = [
        (1, score.value, score.interval, "bad" if bad else "line-1", "D", "generated"),
        (0, floor.value, floor.interval, "quiet", "o", "real clips in their place"),
    ]
    for y, value, ends, colour, marker, name in rows:
        axes.errorbar(
            [value],
            [y],
            xerr=_error_bar(value, ends),
            color=COLOURS[colour],
            marker=marker,
            markersize=5,
            capsize=3,
            linestyle="none",
            label=name,
        )
    axes.set_yticks([])
    axes.set_ylim(-0.8, 1.8)
    axes.margins(x=0.08)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines["left"].set_visible(False)
    words = f"{score.label}{' (outside)' if bad else ''}"
    axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=9)


def _error_bar(value: float, ends: Interval | None) -> list[list[float]] | None:
    if ends is None:
        return None
    # A bootstrap interval need not hold the value itself.
    return [[max(0.0, value - ends.low)], [max(0.0, ends.high - value)]]


def svg(figure: Figure, key: str) -> str:
    """Return the figure as an SVG element whose colours are variables of the page's style.

    Args:
        key: letters, digits and underscores; keeps the ids of several charts apart.
    """
    stream = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{key}-", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    head = (
        f'<svg viewBox="{size[0][9:-1]}" width="{round(float(size[1]) * 4 / 3)}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" focusable="false">'
    )
    return head + text[text.index(">") + 1 :]


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as PNG without the version of matplotlib, so that the bytes stay the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
