"""Writes report.html, one file without scripts that opens from disk, and the page of changes.

Equal content gives equal bytes. Every word that comes from outside, such as a prompt, is escaped by
the template; a content security policy in the page forbids scripts and the network as well.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from lumiere.evaluation.report import wording
from lumiere.evaluation.report.charts import draw_curve, svg
from lumiere.evaluation.report.content import (
    Curve,
    Previous,
    ReportContent,
    Slice,
    StyleRow,
    WallEntry,
)
from lumiere.evaluation.report.moving_pictures import Picture, animation, png, still
from lumiere.evaluation.report.plot_files import write_plots
from lumiere.evaluation.report.score_tables import change_view, score_groups
from lumiere.evaluation.report.verdict import verdict
from lumiere.evaluation.scores import Score
from lumiere.files import write_atomically

NUM_WORST = 8
MAX_EMBEDDED = 24 * 2**20  # bytes of videos; more are written beside the page
SLICE_WIDTH = 192  # pixels on the page


@dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
        source: a data: URI or a path relative to the page.
        still: the same for one frame of it; empty if it does not move.
        width: pixels on the page.
        ratio: width divided by height.
        alt: what it shows, in words.
    """

    source: str
    still: str
    width: int
    ratio: str
    alt: str


@dataclass(frozen=True)
class Pair:
    """A generated video beside its real one, as the page shows them."""

    name: str
    caption: str
    generated: Shown
    real: Shown | None
    facts: list[str]
    held_out: bool


class _Videos:
    """Encodes videos, and writes them beside the page if they are too large to embed."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.waiting: list[tuple[str, Picture, Picture]] = []

    def add(self, name: str, frames: np.ndarray, fps: float) -> int:
        """Encode a video; return its number for `show`."""
        self.waiting.append((name, animation(frames, fps), still(frames)))
        return len(self.waiting) - 1

    def linked(self) -> bool:
        """Return whether the videos are beside the page."""
        return sum(len(moving.data) for _, moving, _ in self.waiting) > self.limit

    def show(self, number: int, alt: str) -> Shown:
        """Return a video for the page; all videos have to be added before."""
        name, moving, frozen = self.waiting[number]
        source = moving.uri()
        if self.linked():
            file = f"videos/{number + 1:03d}-{_slug(name)}.webp"
            write_atomically(self.folder / file, moving.data)
            source = file
        ratio = f"{moving.width} / {moving.height}"
        return Shown(source, frozen.uri(), moving.shown_width(), ratio, alt)


def write_report(
    folder: str | Path, content: ReportContent, max_embedded: int = MAX_EMBEDDED
) -> Path:
    """Write report.html, and the files for `dvc plots` (`plot_files.write_plots`).

    Args:
        folder: made if it does not exist; files of an earlier report are replaced.
        content: what to show.
        max_embedded: bytes of videos that the page may hold. If there are more, the videos are
            written to videos/ beside the page.

    Returns:
        The path of report.html.

    Raises:
        ValueError: if frames are not uint8 (t, h, w, 3), a curve's lengths differ, or two videos on
            the wall or two curves have one name.
    """
    folder = Path(folder)
    _check(content)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("videos/[0-9][0-9][0-9]-*.webp"):
        stale.unlink()
    videos = _Videos(folder, max_embedded)
    wall = _wall(content.wall, videos)
    styles = [(row, _add_style(row, videos)) for row in content.styles]
    change_tables = _changes(content)
    page = _render(
        "report.html",
        content=content,
        verdict=verdict(content.scores),
        worst=[_pair(*entry, videos) for entry in wall[:NUM_WORST]],
        others=[_pair(*entry, videos) for entry in wall[NUM_WORST:]],
        groups=score_groups(content.scores),
        marks={
            "saturated": any(score.saturated for score in content.scores),
            "blind": any(not score.sees for score in content.scores),
        },
        curves=[_curve(curve) for curve in content.curves],
        styles=_styles(styles, videos),
        style_curves=[_curve(curve) for curve in _style_curves(content.styles)],
        slices=[_slice(item) for item in content.slices],
        changes=change_tables,
        linked=videos.linked(),
        number=wording.number,
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    write_plots(folder, content)
    return path


def write_changes(path: str | Path, scores: Sequence[Score], previous: Previous) -> None:
    """Write what changed against an earlier run as a page of its own (see changes.py for why)."""
    page = _render(
        "changes.html", title="What changed", changes=change_view(scores, previous),
        number=wording.number,
    )  # fmt: skip
    write_atomically(Path(path), page.encode())


def _render(template: str, **values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lumiere.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def _check(content: ReportContent) -> None:
    _refuse_twice("videos", (entry.name for entry in content.wall))
    _refuse_twice("curves", (curve.key for curve in content.curves))
    _refuse_twice("scores", (score.key for score in content.scores))
    for curve in content.curves:
        if not re.fullmatch(r"[a-z0-9_]+", curve.key):
            raise ValueError(
                f"a curve's key is {curve.key!r}; expected lower-case letters, digits and underscores"
            )


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {what} are called {name!r}")
        seen.add(name)


# --- videos ---------------------------------------------------------------------------------------


def sorted_wall(wall: Sequence[WallEntry]) -> list[WallEntry]:
    """Sort the worst first: by rank, then by similarity; entries without either come last."""

    def badness(entry: WallEntry) -> tuple[float, float]:
        rank = math.inf if entry.rank is None else entry.rank
        return rank, math.inf if entry.similarity is None else entry.similarity

    return sorted(wall, key=badness)


def _wall(wall: Sequence[WallEntry], videos: _Videos) -> list[tuple[WallEntry, int, int | None]]:
    """Encode the videos of the wall: entry, number of the generated video, number of the real one."""
    entries = []
    for entry in sorted_wall(wall):
        generated = videos.add(f"{entry.name}-generated", entry.generated, entry.fps)
        real = None
        if entry.real is not None:
            real = videos.add(f"{entry.name}-real", entry.real, entry.fps)
        entries.append((entry, generated, real))
    return entries


def _pair(entry: WallEntry, generated: int, real: int | None, videos: _Videos) -> Pair:
    caption = entry.caption or entry.name
    facts = []
    if entry.similarity is not None:
        facts.append(f"similarity to the real video {wording.number(entry.similarity)}")
    facts += [f"{reason} {wording.number(value)}" for reason, value in entry.reasons.items()]
    return Pair(
        name=entry.name,
        caption=caption,
        generated=videos.show(generated, f"Generated video: {caption}"),
        real=None if real is None else videos.show(real, f"Real video: {caption}"),
        facts=facts,
        held_out=entry.held_out,
    )


def _add_style(row: StyleRow, videos: _Videos) -> int | None:
    if row.frames is None:
        return None
    return videos.add(f"{row.style}-{row.alpha:g}", row.frames, row.fps)


def _styles(
    rows: Sequence[tuple[StyleRow, int | None]], videos: _Videos
) -> list[list[dict[str, object]]]:
    """Return the rows of each style, in the order of α."""
    groups: dict[str, list[dict[str, object]]] = {}
    for row, number in sorted(rows, key=lambda pair: pair[0].alpha):
        groups.setdefault(row.style, []).append(_style(row, number, videos))
    return [groups[name] for name in dict.fromkeys(row.style for row, _ in rows)]


def _style(row: StyleRow, number: int | None, videos: _Videos) -> dict[str, object]:
    alt = f"Generated video in the style {row.style} at α = {row.alpha:g}"
    return {
        "style": row.style,
        "alpha": f"{row.alpha:g}",
        "distance": wording.number(row.style_distance),
        "retention": wording.number(row.content_retention),
        "video": None if number is None else videos.show(number, alt),
    }


def _style_curves(rows: Sequence[StyleRow]) -> list[Curve]:
    """Draw both numbers over α, one line for each style, if there is more than one α."""
    names = list(dict.fromkeys(row.style for row in rows))
    alphas = {name: [row.alpha for row in rows if row.style == name] for name in names}
    grid = sorted({row.alpha for row in rows})
    if len(grid) < 2 or any(sorted(alphas[name]) != grid for name in names):
        return []
    curves = []
    for key, title, label in (
        ("style_distance", "Style distance over α", "distance to the style ↓"),
        ("content_retention", "Content retention over α", "content that is left ↑"),
    ):
        series = {}
        for name in names:
            values = {row.alpha: getattr(row, key) for row in rows if row.style == name}
            series[name] = np.array([values[alpha] for alpha in grid])
        curves.append(Curve(key, title, "α, weight of the style", label, series, np.array(grid)))
    return curves


def _slice(item: Slice) -> dict[str, object]:
    pictures = []
    for name, lines in (("generated", item.generated), ("real", item.real)):
        if lines is None:
            continue
        if lines.dtype != np.uint8 or lines.ndim != 3 or lines.shape[-1] != 3:
            raise ValueError(
                f"the slice {item.title!r} is {lines.dtype} {lines.shape}; expected uint8 (t, w, 3)"
            )
        picture = png(lines)
        alt = f"x–t slice of the {name} video: {item.title}"
        ratio = f"{picture.width} / {picture.height}"
        pictures.append((name, Shown(picture.uri(), "", SLICE_WIDTH, ratio, alt)))
    return {"title": item.title, "pictures": pictures}


def _slug(name: str) -> str:
    """Return a file name for any name; the hash keeps names apart that look alike."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{words or 'video'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


# --- charts and changes ------------------------------------------------------------------------------


def _curve(curve: Curve) -> dict[str, object]:
    lines = wording.listed(list(curve.series))
    return {
        "title": curve.title,
        "svg": Markup(svg(draw_curve(curve), curve.key)),
        "alt": f"{curve.title}: {curve.y_label} over {curve.x_label}, for {lines}.",
        "note": curve.note,
    }


def _changes(content: ReportContent) -> dict[str, object] | None:
    if content.previous is None:
        return None
    return change_view(content.scores, content.previous)
