"""Reports a pipeline run: prints tables on the terminal and publishes artifacts in Prefect."""

from __future__ import annotations

import base64
import io
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from rich.console import Console
from rich.table import Table

from lumiere.addresses import redacted
from lumiere.errors import first_line

logger = logging.getLogger("lumiere.flows")

MAX_VIDEOS = 12  # paths printed
COLOURS = {
    "ran": "green",
    "cached": "cyan",
    "failed": "bold red",
    "stopped": "yellow",
    "not run": "yellow",
}


@dataclass(frozen=True)
class StageResult:
    """The result of one stage."""

    stage: str
    status: str  # ran, cached, failed, stopped or "not run"
    seconds: float = 0.0
    # Empty unless the stage ran or is cached. A cached stage has the metrics of its earlier run.
    metrics: dict[str, float] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()


def print_report(root: Path, results: list[StageResult], console: Console | None = None) -> None:
    """Print the stages, their metrics and their videos, and how to see the rest."""
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
    _print_videos(root, results, console)
    console.print("To review the runs in MLflow: [bold]make ui[/]", soft_wrap=True)


def _print_videos(root: Path, results: list[StageResult], console: Console) -> None:
    folders = [folder for result in results for folder in result.outputs]
    videos = sorted(video for folder in folders for video in folder.rglob("*.mp4"))
    if not videos:
        return
    console.print(f"Videos ({len(videos)}):")
    for video in videos[:MAX_VIDEOS]:
        console.print(f"  {os.path.relpath(video, root)}", soft_wrap=True, highlight=False)
    if len(videos) > MAX_VIDEOS:
        console.print(f"  … and {len(videos) - MAX_VIDEOS} more")


def publish_artifacts(
    results: list[StageResult],
    description: str,
    link: str = "",
    sheet: Image.Image | None = None,
) -> None:
    """Publish the description of the run, its tables and its contact sheet as Prefect artifacts.
    Prefect allows [a-z0-9-] in keys. A server that is away is a warning: the stages are done.

    Args:
        results: how the stages ended.
        description: of the run, in Markdown.
        link: the address of the run in MLflow's pages, if it has one.
        sheet: a small picture of the generated videos.
    """
    if link:
        description += f"\n\n[This run in MLflow]({link}), with its videos and pictures (`make ui` serves the pages)"
    try:
        _publish(results, description, sheet)
    except Exception as error:
        logger.warning(
            "Prefect's page of this run lacks artifacts: %s", redacted(first_line(error))
        )


def _publish(results: list[StageResult], description: str, sheet: Image.Image | None) -> None:
    create_markdown_artifact(description, key="lumiere-run", description="The last pipeline run")
    rows = [
        {"stage": result.stage, "status": result.status, "seconds": round(result.seconds, 1)}
        for result in results
    ]
    create_table_artifact(rows, key="lumiere-stages", description="Stages of the last pipeline run")
    if figures := metric_rows(results):
        create_table_artifact(
            figures, key="lumiere-metrics", description="Metrics of the last pipeline run"
        )
    if sheet is not None:
        create_image_artifact(
            data_url(sheet),
            key="lumiere-contact-sheet",
            description="Generated videos of the last pipeline run",
        )


def data_url(picture: Image.Image) -> str:
    """Return a `data:` URL that contains a picture. Prefect stores only the address of a picture."""
    with io.BytesIO() as file:
        picture.save(file, "WEBP", quality=80)
        content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/webp;base64,{content}"


def metric_rows(results: list[StageResult]) -> list[dict[str, str]]:
    """Return one row for each metric; stages that failed or did not run have none."""
    return [
        {
            "stage": result.stage,
            "metric": name,
            "value": shown(value),
        }
        for result in results
        for name, value in result.metrics.items()
    ]


def shown(value: float) -> str:
    """Return a figure as people read it."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
