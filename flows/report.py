"""What a pipeline run leaves behind for people: tables on the terminal, artifacts in Prefect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def print_report(
    root: Path, results: list[StageResult], metrics: dict[str, dict[str, Any]], console: Console | None = None
) -> None:
    """The table of stages, the table of metrics, the videos, and how to look at the rest."""
    console = console or Console()
    stages = Table("stage", "status", title="Stages", title_justify="left")
    stages.add_column("seconds", justify="right")
    for result in results:
        colour = COLOURS[result.status]
        stages.add_row(result.stage, f"[{colour}]{result.status}[/]", f"{result.seconds:.1f}")
    console.print(stages)
    if any(metrics.values()):
        figures = Table("stage", "metric", title="Metrics", title_justify="left")
        figures.add_column("value", justify="right")
        for row in metric_rows(metrics):
            figures.add_row(row["stage"], row["metric"], row["value"])
        console.print(figures)
    videos = sorted((root / "outputs" / "videos").rglob("*.mp4"))
    if videos:
        console.print(f"{len(videos)} videos:")
        for video in videos[:MAX_VIDEOS]:
            console.print(f"  {video.relative_to(root)}", soft_wrap=True, highlight=False)
        if len(videos) > MAX_VIDEOS:
            console.print(f"  … and {len(videos) - MAX_VIDEOS} more")
    console.print("To review the runs in MLflow: [bold]make ui[/]", soft_wrap=True)


def publish_artifacts(results: list[StageResult], metrics: dict[str, dict[str, Any]]) -> None:
    """The two tables as Prefect artifacts; Prefect allows [a-z0-9-] in keys."""
    rows = [{"stage": r.stage, "status": r.status, "seconds": round(r.seconds, 1)} for r in results]
    create_table_artifact(rows, key="lumiere-stages", description="Stages of the last pipeline run")
    if any(metrics.values()):
        create_table_artifact(
            metric_rows(metrics), key="lumiere-metrics", description="Metrics of the last pipeline run"
        )


def metric_rows(metrics: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """{stage: {name: number}} -> one row per number."""
    return [
        {"stage": stage, "metric": name, "value": f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"}
        for stage, values in metrics.items()
        for name, value in values.items()
    ]
