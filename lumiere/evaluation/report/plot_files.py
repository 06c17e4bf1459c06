"""Writes the files that `dvc plots` shows: tables of numbers, and pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.evaluation.report.charts import draw_curve, draw_scores, positions, save_png
from lumiere.evaluation.report.content import Curve, ReportContent, WallEntry
from lumiere.evaluation.scores import DIGITS, Score
from lumiere.evaluation.videos import evenly
from lumiere.files import write_atomically

SHEET_VIDEOS, SHEET_FRAMES = 12, 4
SHEET_SIDE = 96  # pixels; smaller frames are enlarged without smoothing


def write_plots(folder: Path, content: ReportContent) -> None:
    """Write plots/*.csv, and scores.png, generated.png, real.png and a picture of each curve.

    - plots/scores.csv: score, group, value, low, high, floor, floor_low, floor_high, ratio (value
      divided by floor, which compares scores of different units; empty for a floor around zero).
    - plots/<curve>.csv: x, and a column for each line of the curve.
    - plots/per_video.csv: video, caption, rank, similarity, and a column for each reason.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    _write_scores(plots / "scores.csv", content.scores)
    for curve in content.curves:
        _write_curve(plots / f"{curve.key}.csv", curve)
        save_png(draw_curve(curve), folder / f"{curve.key}.png")
    save_png(draw_scores(content.scores), folder / "scores.png")
    if content.wall:
        _write_videos(plots / "per_video.csv", content.wall)
        _draw_sheets(folder, content.wall)


def _write_scores(path: Path, scores: Sequence[Score]) -> None:
    header = ["score", "group", "value", "low", "high", "floor", "floor_low", "floor_high", "ratio"]
    rows = []
    for score in scores:
        floor = score.floor.value if score.floor else None
        floor_ends = score.floor.interval if score.floor else None
        rows.append(
            [
                score.key,
                score.group,
                score.value,
                score.interval.low if score.interval else None,
                score.interval.high if score.interval else None,
                floor,
                floor_ends.low if floor_ends else None,
                floor_ends.high if floor_ends else None,
                _ratio(score),
            ]
        )
    _write_table(path, header, rows)


def _ratio(score: Score) -> float | None:
    """Divide a value by its floor; None if the floor may be zero."""
    if score.floor is None:
        return None
    low = score.floor.interval.low if score.floor.interval else score.floor.value
    return score.value / score.floor.value if min(low, score.floor.value) > 0 else None


def _write_curve(path: Path, curve: Curve) -> None:
    """Write one column for each line, which is the form that DVC's templates draw."""
    places = max((positions(curve, name) for name in curve.series), key=len)
    rows = []
    for i, x in enumerate(places):
        values = [line[i] if i < len(line) else None for line in curve.series.values()]
        rows.append([float(x), *values])
    _write_table(path, ["x", *curve.series], rows)


def _write_videos(path: Path, wall: Sequence[WallEntry]) -> None:
    reasons = sorted({reason for entry in wall for reason in entry.reasons})
    rows = []
    for entry in sorted(wall, key=lambda entry: entry.name):
        row = [entry.name, entry.caption, entry.rank, entry.similarity, entry.held_out]
        rows.append([*row, *(entry.reasons.get(reason) for reason in reasons)])
    header = ["video", "caption", "rank", "similarity", "held_out", *reasons]
    _write_table(path, header, rows)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    write_atomically(path, stream.getvalue().encode())


def _cell(value: object) -> object:
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) if math.isfinite(value) else ""
    if isinstance(value, bool):
        return int(value)
    return "" if value is None else value


def _draw_sheets(folder: Path, wall: Sequence[WallEntry]) -> None:
    """Draw generated.png and real.png: the same captions at the same places."""
    entries = sorted(wall, key=lambda entry: entry.name)
    shown = [entries[i] for i in evenly(len(entries), SHEET_VIDEOS)]
    _draw_sheet(folder / "generated.png", [(e.generated, e.caption or e.name) for e in shown])
    real = [(e.real, e.caption or e.name) for e in shown if e.real is not None]
    if real:
        _draw_sheet(folder / "real.png", real)


def _draw_sheet(path: Path, videos: Sequence[tuple[np.ndarray, str]]) -> None:
    """Draw four frames of each video side by side above its caption, three videos in a row."""
    strips = [_strip(frames) for frames, _ in videos]
    height = max(strip.shape[0] for strip in strips)
    width = max(strip.shape[1] for strip in strips)
    padded = [_padded(strip, height, width) for strip in strips]
    letters = width // 6  # how many letters fit below a strip
    labels = [_shortened(caption, letters) for _, caption in videos]
    save_picture(contact_sheet(padded, columns=3, labels=labels, gap=10), path)


def _strip(frames: np.ndarray, gap: int = 2) -> np.ndarray:
    """Lay four frames side by side with white between them: (t, h, w, 3) → (h, width, 3)."""
    moments = frames[evenly(len(frames), SHEET_FRAMES)]
    factor = max(1, SHEET_SIDE // moments.shape[1])
    step = max(1, moments.shape[1] // (2 * SHEET_SIDE))  # large frames: every step-th pixel
    moments = moments[:, ::step, ::step].repeat(factor, axis=1).repeat(factor, axis=2)
    spaced = np.pad(moments, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(spaced), axis=1)[:, :-gap]


def _padded(strip: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = ((0, height - strip.shape[0]), (0, width - strip.shape[1]), (0, 0))
    return np.pad(strip, missing, constant_values=255)


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
