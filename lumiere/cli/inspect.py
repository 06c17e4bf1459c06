"""The command `lumiere inspect`: shows what the networks of a params file, or of a saved folder,
need.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lumiere.cli.model import DEMO
from lumiere.cli.options import declared

if TYPE_CHECKING:
    from lumiere.config import LaunchConfig
    from lumiere.inspection.networks import Workload


Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="FOLDER",
        help="A saved pipeline, Space-Time U-Net or image model; or `demo`.",
        show_default=False,
    ),
]
ParamsFile = Annotated[
    Path | None, declared("--params", metavar="FILE", help="A params file [params.yaml].")
]
Processes = Annotated[
    int | None,
    declared(
        "--processes", min=1, metavar="N", help="The number of GPUs. Default: launch.processes."
    ),
]
GpuMemory = Annotated[
    float,
    declared(
        "--gpu-memory", min=0.001, metavar="GB", help="Memory of one GPU, in GB of 10^9 bytes [80]."
    ),
]
Frames = Annotated[
    int,
    declared(
        "--frames", min=1, metavar="N", help="Length of the clip, if the folder does not say [16]."
    ),
]
AsJson = Annotated[bool, declared("--json", help="Print one JSON object instead of tables.")]


def inspect(
    folder: Folder = None,
    params: ParamsFile = None,
    processes: Processes = None,
    gpu_memory: GpuMemory = 80.0,
    frames: Frames = 16,
    as_json: AsJson = False,
) -> None:
    """Show the parameters, memory and FLOPs of networks before you train them.

    For a params file it shows, for every network that the file trains, the memory of a training step on a GPU, whole
    and sharded, and the FLOPs of a step and of a video. For a folder it shows the networks and one forward pass.

    \b
    Examples:
      lumiere inspect --params profiles/paper.yaml --processes 64
      lumiere inspect --params profiles/h100.yaml --gpu-memory 80
      lumiere inspect outputs/pipeline
      lumiere inspect demo
    """
    from lumiere.inspection.plan import plan
    from lumiere.inspection.summary import as_data, as_text

    launch, workloads = _workloads(folder, params, frames)
    count = processes or launch.processes
    plans = []
    for workload in workloads:
        each = plan(workload, launch, count)
        plans.append(each)
        if not as_json:
            checkpointing = launch.gradient_checkpointing
            text = as_text(each, count, gpu_memory, launch.precision, checkpointing)
            typer.echo(f"{text}\n")
    if as_json:
        networks = [as_data(each, gpu_memory) for each in plans]
        content = {"processes": count, "gpu_memory_gb": gpu_memory, "networks": networks}
        typer.echo(json.dumps(content, indent=2))


def _workloads(
    folder: Path | None, params: Path | None, frames: int
) -> tuple[LaunchConfig, list[Workload]]:
    """Return the launch settings, and the networks of a folder or of a params file."""
    from lumiere.config import LaunchConfig, load_params
    from lumiere.inspection.networks import stored_workloads, workloads

    if folder is not None and params is not None:
        raise ValueError("a folder and --params; give one of them")
    if folder is None:
        loaded = load_params(params or Path("params.yaml"))
        return loaded.launch, workloads(loaded)
    if str(folder) == DEMO:
        return LaunchConfig(), _demo_workloads()
    return LaunchConfig(), stored_workloads(folder, frames)


def _demo_workloads() -> list[Workload]:
    """Build the demo model, and return its networks."""
    from lumiere.inspection.networks import stored_workloads
    from lumiere.pipelines.assemble import demo_pipeline

    with TemporaryDirectory() as folder:
        demo_pipeline().save_pretrained(folder)
        return stored_workloads(Path(folder))
