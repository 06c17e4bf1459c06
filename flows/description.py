"""Describes a pipeline run for a reviewer who opens nothing but MLflow."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from flows.report import StageResult, shown
from lumiere import tracking

FLOOR = "_floor"  # the ending of the metric of real clips that belongs to another metric
FLOOR_COLUMNS = ("metric", "this run", "real clips", "before")
MAX_CHANGES = 12  # lines
SHEET = "contact-sheet.png"
SHEET_SIZE = (640, 2560)  # at most; a wider picture would make MLflow's whole page wider

Metrics = Mapping[str, Mapping[str, float]]


def describe(
    results: Sequence[StageResult],
    before: Metrics,
    git: Mapping[str, str],
    run_id: str | None = None,
    picked: Sequence[str] = (),
    has_sheet: bool = False,
) -> str:
    """Return the description of a run, in Markdown.

    Args:
        results: how its stages ended.
        before: the metrics by stage as they were before the run.
        git: the tags of the run's commit.
        run_id: MLflow's id of the run, if MLflow has created it yet.
        picked: the stages that the run selected; empty if they are all there are.
        has_sheet: whether to show the artifact `SHEET`. Only MLflow's pages find it.
    """
    parts = [_verdict(results), _stages(results), _floors(results, before)]
    if has_sheet and run_id:
        # Relative, so that it leads to the server that shows the page.
        parts.append(f"![generated videos](get-artifact?path={SHEET}&run_uuid={run_id})")
    parts += [_changes(results, before), _again(git, run_id or "RUN_ID", picked)]
    return "\n\n".join(part for part in parts if part)


def contact_sheet(results: Sequence[StageResult]) -> Image.Image | None:
    """Return a small copy of the evaluation's contact sheet; None if there is none."""
    for path in (output / "generated.png" for result in results for output in result.outputs):
        # What Pillow raises for damaged PNG files.
        unreadable = contextlib.suppress(OSError, SyntaxError, ValueError)
        with unreadable, Image.open(path) as picture:
            picture.thumbnail(SHEET_SIZE)
            return picture.convert("RGB")
    return None


def log_contact_sheet(tracked: tracking.Run, sheet: Image.Image) -> bool:
    """Store a contact sheet as the artifact `SHEET`; return whether the disk had room for it."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
        sheet.save(Path(folder, SHEET))
        tracked.log_artifact(Path(folder, SHEET))
        return True
    return False


def _verdict(results: Sequence[StageResult]) -> str:
    """Return the verdict that the evaluation's report begins with."""
    for result in results:
        for output in result.outputs:
            report = output / "report.html"
            if report.is_file():
                reader = _VerdictReader()
                reader.feed(report.read_text(encoding="utf-8"))
                if reader.sentences:
                    title, *sentences = reader.sentences
                    return f"**{title}.** {' '.join(sentences)}"
    return ""


class _VerdictReader(HTMLParser):
    """Collects the heading and the sentences of the section `verdict`."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []
        self._is_inside, self._is_text = False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = (dict(attrs).get("class") or "").split()
        if tag == "section" and "verdict" in names:
            self._is_inside = True
        elif self._is_inside and tag in ("h2", "p"):
            self._is_text = True
            self.sentences.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._is_inside = False
        if tag in ("h2", "p"):
            self._is_text = False

    def handle_data(self, data: str) -> None:
        if self._is_inside and self._is_text:
            self.sentences[-1] += data


def _stages(results: Sequence[StageResult]) -> str:
    by_status: dict[str, list[str]] = {}
    for result in results:
        by_status.setdefault(result.status, []).append(result.stage)
    lines = [f"{status}: {', '.join(stages)}" for status, stages in by_status.items()]
    return "**Stages**: " + "; ".join(lines)


def _floors(results: Sequence[StageResult], before: Metrics) -> str:
    """Return a table of the metrics for which real clips set a floor."""
    rows = []
    for result in results:
        for name, value in result.metrics.items():
            floor = result.metrics.get(name + FLOOR)
            if floor is None:
                continue
            old = before.get(result.stage, {}).get(name)
            change = "–" if old is None else "same" if old == value else f"was {shown(old)}"
            rows.append([name, shown(value), shown(floor), change])
    if not rows:
        return ""
    # MLflow's pages put no space between columns.
    lines = [f"| {' | &emsp;'.join(row)} |" for row in (FLOOR_COLUMNS, *rows)]
    return "\n".join([lines[0], "|---|---:|---:|---:|", *lines[1:]])


def _changes(results: Sequence[StageResult], before: Metrics) -> str:
    """List the other metrics that differ from those before the run."""
    lines = []
    for result in results:
        old = before.get(result.stage, {})
        for name, value in result.metrics.items():
            has_floor = name + FLOOR in result.metrics
            if not has_floor and name in old and old[name] != value:
                lines.append(f"- {result.stage}/{name}: {shown(old[name])} → {shown(value)}")
    left_out = len(lines) - MAX_CHANGES
    if left_out > 0:
        lines = [*lines[:MAX_CHANGES], f"- and {left_out} more"]
    return "\n".join(["**Other metrics that changed**", "", *lines]) if lines else ""


def _again(git: Mapping[str, str], run_id: str, picked: Sequence[str]) -> str:
    commit = git.get("git_commit")
    if commit is None:
        return ""
    return (
        f"**Make it again**: `lumiere reproduce {run_id} again` makes a fresh clone, runs its stages there "
        "and compares the outputs. By hand:\n\n"
        "```sh\n"
        f"git clone REPOSITORY again && cd again && git checkout {commit}\n"
        "git apply --allow-empty uncommitted.patch    # if this run has that artifact\n"
        "make install && source .venv/bin/activate\n"
        f"{' '.join(['dvc repro', *picked])}\n"
        "```"
    )
