"""The command `lumiere inspect`: the memory and arithmetic of the networks of a params file or a
saved folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lumiere.cli.model import DEMO
from lumiere.errors import one_line

if TYPE_CHECKING:
    from lumiere.inspection.networks import Workload

BAD_INPUT = 2


def inspect(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A saved pipeline, Space-Time U-Net or image model; or `demo`.", show_default=False
        ),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(
            "--params", metavar="FILE", help="A params file [params.yaml].", show_default=False
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            metavar="N",
            help="Number of GPUs [launch.processes].",
            show_default=False,
        ),
    ] = None,
    gpu_memory: Annotated[
        float,
        typer.Option(
            "--gpu-memory", min=0.001, metavar="GB", help="Memory of one GPU, in GB of 10^9 bytes."
        ),
    ] = 80.0,
    frames: Annotated[
        int,
        typer.Option(
            "--frames", min=1, metavar="N", help="Frames of a clip, where the folder does not say."
        ),
    ] = 16,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
) -> None:
    """Count parameters, memory and FLOPs without building the networks.

    For a params file it shows, for every network that the file trains, the memory of a training step on a GPU, whole
    and sharded, and the FLOPs of a step and of a video. For a folder it shows the networks and one forward pass.

    \b
    Examples:
      lumiere inspect --params profiles/paper.yaml --processes 64
      lumiere inspect --params profiles/h100.yaml --gpu-memory 80
      lumiere inspect outputs/pipeline
      lumiere inspect demo
    """
    from lumiere.config import LaunchConfig, load_params
    from lumiere.inspection.networks import stored_workloads, workloads
    from lumiere.inspection.plan import plan
    from lumiere.inspection.summary import as_data, as_text

    try:
        if folder is not None and params is not None:
            raise ValueError("a folder and --params; give one of them")
        if folder is not None:
            launch = LaunchConfig()
            loads = _demo_workloads() if str(folder) == DEMO else stored_workloads(folder, frames)
        else:
            loaded = load_params(params or Path("params.yaml"))
            launch, loads = loaded.launch, workloads(loaded)
        count = processes or launch.processes
        plans = []
        for workload in loads:
            plans.append(plan(workload, launch, count))
            if not as_json:
                typer.echo(
                    as_text(
                        plans[-1],
                        count,
                        gpu_memory,
                        launch.precision,
                        launch.gradient_checkpointing,
                    )
                    + "\n"
                )
        if as_json:
            networks = [as_data(each, gpu_memory) for each in plans]
            typer.echo(
                json.dumps(
                    {"processes": count, "gpu_memory_gb": gpu_memory, "networks": networks},
                    indent=2,
                )
            )
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None


def _demo_workloads() -> list[Workload]:
    """The networks of the demo, whose weights are put together first."""
    from lumiere.inspection.networks import stored_workloads
    from lumiere.pipelines.assemble import demo_pipeline

    with TemporaryDirectory() as folder:
        demo_pipeline().save_pretrained(folder)
        return stored_workloads(Path(folder))
