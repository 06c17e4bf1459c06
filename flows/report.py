"""What a pipeline run leaves behind for people: tables on the terminal, artifacts in Prefect."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from prefect.artifacts import create_table_artifact
from rich.console import Console
from rich.table import Table

MAX_VIDEOS = 12  # paths printed
COLOURS = {"ran": "green", "cached": "cyan", "failed": "bold red", "not run": "yellow"}


@dataclass(frozen=True)
class StageResult:
    """How one stage ended."""

    stage: str
    status: str  # ran, cached, failed or "not run"
    seconds: float = 0.0
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # of this run, or of the earlier one that stands
    outputs: tuple[Path, ...] = ()  # the same: empty unless it ran or is cached


def print_report(root: Path, results: list[StageResult], console: Console | None = None) -> None:
    """The table of stages, the table of metrics, the videos, and how to look at the rest."""
    console = console or Console()
    stages = Table("stage", "status", title="Stages", title_justify="left")
    stages.add_column("seconds", justify="right")
    for result in results:
        colour = COLOURS[result.status]
        stages.add_row(result.stage, f"[{colour}]{result.status}[/]", f"{result.seconds:.1f}")
    console.print(stages)
    if rows := metric_rows(results):
        figures = Table("stage", "metric", title="Metrics", title_justify="left")
        figures.add_column("value", justify="right")
        for row in rows:
            figures.add_row(row["stage"], row["metric"], row["value"])
        console.print(figures)
    videos = sorted(
        video for result in results for folder in result.outputs for video in folder.rglob("*.mp4")
    )
    if videos:
        console.print(f"{len(videos)} videos:")
        for video in videos[:MAX_VIDEOS]:
            console.print(f"  {os.path.relpath(video, root)}", soft_wrap=True, highlight=False)
        if len(videos) > MAX_VIDEOS:
            console.print(f"  … and {len(videos) - MAX_VIDEOS} more")
    console.print("To review the runs in MLflow: [bold]make ui[/]", soft_wrap=True)


def publish_artifacts(results: list[StageResult]) -> None:
    """The two tables as Prefect artifacts; Prefect allows [a-z0-9-] in keys."""
    rows = [{"stage": r.stage, "status": r.status, "seconds": round(r.seconds, 1)} for r in results]
    create_table_artifact(rows, key="lumiere-stages", description="Stages of the last pipeline run")
    if figures := metric_rows(results):
        create_table_artifact(
            figures, key="lumiere-metrics", description="Metrics of the last pipeline run"
        )


def metric_rows(results: list[StageResult]) -> list[dict[str, str]]:
    """One row per number; a stage that failed or was not run has none."""
    return [
        {
            "stage": result.stage,
            "metric": name,
            "value": f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}",
        }
        for result in results
        for name, value in result.metrics.items()
    ]
