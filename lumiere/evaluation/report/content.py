"""Everything that the report shows, as plain data: numbers, frames and sentences.

The page is drawn from this alone, so it can be made from any source, and equal content gives equal
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lumiere.evaluation.scores import LeftOut, Score


@dataclass(frozen=True)
class WallEntry:
    """A generated video beside the real video of its caption.

    Attributes:
        name: the video's name, unique on the wall.
        caption: its prompt; may be empty.
        generated: uint8 (t, h, w, 3).
        fps: frames per second of both videos.
        real: uint8 (t, h, w, 3), or None if there is no real video of this caption.
        similarity: cosine between the two in the independent features.
        rank: place of the video among all, 1 = worst.
        reasons: what is worst about it: names of measures with their values, the worst first.
        held_out: the caption was not in the training data.
    """

    name: str
    caption: str
    generated: np.ndarray
    fps: float
    real: np.ndarray | None = None
    similarity: float | None = None
    rank: int | None = None
    reasons: Mapping[str, float] = field(default_factory=dict)
    held_out: bool = False


@dataclass(frozen=True)
class Curve:
    """Lines over one axis, such as the spectrum over time of generated and real videos.

    Attributes:
        key: name of its file for `dvc plots`: "spectrum", "drift", "seams" or another name of
            lower-case letters, digits and underscores.
        title, x_label, y_label: words on the plot, with units.
        series: name of each line, with its values (n,).
        x: (n,) positions of the values; by default 0, 1, 2, ...
        marks: name of a kind of vertical lines, with their positions, such as the borders of
            windows.
        note: a sentence that says how to read it.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    series: Mapping[str, np.ndarray]
    x: np.ndarray | None = None
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class StyleRow:
    """A styled video at one strength α.

    Attributes:
        style: name of the style.
        alpha: weight of the style, 0 to 1.
        style_distance: distance to the style's images; lower is better.
        content_retention: how much of the unstyled video's content is left; higher is better.
        frames: uint8 (t, h, w, 3), or None.
        fps: frames per second.
    """

    style: str
    alpha: float
    style_distance: float
    content_retention: float
    frames: np.ndarray | None = None
    fps: float = 16.0


@dataclass(frozen=True)
class Slice:
    """One image row over time (x–t slice): x runs right, time runs down.

    Attributes:
        title: what it shows.
        generated, real: uint8 (t, w, 3), one line for each frame; real may be None.
    """

    title: str
    generated: np.ndarray
    real: np.ndarray | None = None


@dataclass(frozen=True)
class SensitivityRow:
    """The first step of a degradation of real clips at which a score lies outside the floor.

    Attributes:
        score: the label of the score.
        degradation: such as "Gaussian noise".
        first_step: such as "σ 5"; None if the score never sees this degradation.
    """

    score: str
    degradation: str
    first_step: str | None


class Previous(NamedTuple):
    """The metrics of an earlier run, as `scores.flat` names them.

    `commit` is the commit that has them, or the name of their file.
    """

    metrics: dict[str, float]
    commit: str


@dataclass(frozen=True)
class ReportContent:
    """The content that `write_report` shows.

    Attributes:
        title: heading of the page.
        generated: a sentence that describes the generated videos: number, length, size, source.
        real: the same for the real videos.
        scores: all scores; the tables follow their order within each group.
        left_out: measures that this input does not allow.
        wall: generated videos with their real ones, in any order; the page shows the worst first.
        curves, styles, slices, sensitivity: sections that the page leaves out if they are empty.
        facts: (what, value) pairs for "How it was measured": preprocessing, hashes of weights,
            numbers and sizes, the judge's held-out accuracy.
        previous: an earlier run to compare with. Do not give it in a DVC stage: see
            `lumiere.evaluation.report.changes`.
        wall_total: the number of all videos, if the wall has only some of them.
    """

    title: str
    generated: str
    real: str
    scores: Sequence[Score]
    left_out: Sequence[LeftOut] = ()
    wall: Sequence[WallEntry] = ()
    curves: Sequence[Curve] = ()
    styles: Sequence[StyleRow] = ()
    slices: Sequence[Slice] = ()
    sensitivity: Sequence[SensitivityRow] = ()
    facts: Sequence[tuple[str, str]] = ()
    previous: Previous | None = None
    wall_total: int | None = None
