"""Measures what DVC, Prefect and MLflow cost.

The parts are a run with nothing to do, a stage, a thousand logged steps, and a training that is
recorded.

`python -m benchmarks.orchestration` makes a small project with stages that only write a file, so
all time is overhead. `--root FOLDER` measures a project of yours in which everything is up to date
instead. The contenders take turns, and figures are medians over the rounds. CPU seconds count all
processes; on a machine that others use, they say more than seconds do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import yaml

from lumiere import tracking
from lumiere.start import own_programs_first
from lumiere.tracking.system_metrics import log_sample, working_monitors

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES, STEPS = 8, 1000
POINTS = {"loss": 0.5, "learning_rate": 1e-3, "seconds": 0.2}  # of one step
TRAINING_STEPS = 100  # of a block; long enough for samples of the machine's load
DVC, FLOW = ("dvc", "repro", "--quiet"), ("flows.pipeline",)
STAGE = "python -c \"import pathlib; pathlib.Path('{name}').write_text('made')\""


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--root", type=Path, help="a project that is up to date")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or _make_project(Path(folder, "project"))
        rows = [*_idle(root, options.rounds)]
        if options.root is None:
            rows += _busy(root, options.rounds)
            rows.append(_for_each_stage(rows))
        print("| run | seconds | CPU seconds |\n|---|---|---|")
        for name, seconds, cpu in rows:
            print(f"| {name} | {seconds:.2f} | {cpu:.2f} |")
        print(f"\nlogging of {STEPS} steps with {len(POINTS)} metrics each:\n")
        print("| | seconds in the training's thread | until MLflow has all |\n|---|---|---|")
        for name, (inside, total) in _logging(Path(folder)).items():
            print(f"| {name} | {inside:.3f} | {total:.2f} |")
        print(f"\na training of {TRAINING_STEPS} steps, CPU seconds of all its threads:\n")
        print("\n".join(_training(Path(folder), options.rounds)))


def _make_project(root: Path) -> Path:
    root.mkdir()
    stages = {}
    for number in range(STAGES):
        name = f"s{number}.txt"
        stages[f"s{number}"] = {
            "cmd": STAGE.format(name=name),
            "deps": [f"s{number - 1}.txt"] if number else ["input.txt"],
            "outs": [name],
        }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / "params.yaml").write_text("curate:\n  seed: 0\n")
    (root / "input.txt").write_text("0")
    _run(root, "dvc", "init", "--no-scm", "--quiet")
    _run(root, *DVC)
    _run(root, *FLOW, "--root", str(root))  # it makes the databases
    return root


def _idle(root: Path, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Measure runs with nothing to do."""
    calls = {
        "`dvc repro`, nothing to do": lambda: _run(root, *DVC),
        "flow, everything cached": lambda: _run(root, *FLOW, "--root", str(root)),
    }
    yield from _medians(calls, rounds)


def _busy(root: Path, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Measure runs of all stages, and what the flow adds to each."""
    calls = {
        f"`dvc repro`, {STAGES} stages": lambda: _run(root, *DVC, "--force"),
        f"flow, {STAGES} stages": lambda: _run(root, *FLOW, "--root", str(root), "--force"),
    }
    yield from _medians(calls, rounds)


def _for_each_stage(rows: list[tuple[str, float, float]]) -> tuple[str, float, float]:
    """Return what the flow adds to each stage that runs, beyond its start and end."""
    idle, idle_flow, busy, busy_flow = (row[1:] for row in rows)
    seconds = busy_flow[0] - idle_flow[0] - (busy[0] - idle[0])
    cpu = busy_flow[1] - idle_flow[1] - (busy[1] - idle[1])
    return "what the flow adds to each stage that runs", seconds / STAGES, cpu / STAGES


def _medians(
    calls: dict[str, Callable[[], tuple[float, float]]], rounds: int
) -> Iterator[tuple[str, float, float]]:
    made: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            made[name].append(call())
    for name, pairs in made.items():
        seconds, cpu = zip(*pairs, strict=True)
        yield name, statistics.median(seconds), statistics.median(cpu)


def _run(root: Path, *command: str) -> tuple[float, float]:
    """Run a module in the project; return its seconds and the CPU seconds of its processes."""
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1"}
    env["PATH"] = own_programs_first(env["PATH"])
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY if command[0].startswith("flows") else root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    used: dict[int, float] = {}
    while process.poll() is None:
        _note_cpu(process.pid, used)
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return seconds, sum(used.values())


def _note_cpu(pid: int, used: dict[int, float]) -> None:
    """Note the CPU seconds of a process and of all below it, which may have ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system


def _logging(folder: Path) -> dict[str, tuple[float, float]]:
    """Measure this project's logging, and MLflow's own, in databases of their own."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    found = {}
    project = folder / "logging"
    project.mkdir()
    (project / "dvc.yaml").write_text("stages: {}\n")
    with contextlib.chdir(project):
        with tracking.stage_run("warm-up", {}) as run:
            run.log_metrics(POINTS)
        with tracking.stage_run("train", {}) as run:
            run.flush(60)
            started = time.perf_counter()
            for step in range(STEPS):
                run.log_metrics(POINTS, step)
            inside = time.perf_counter() - started
            run.flush(600)
            found["this project"] = inside, time.perf_counter() - started

    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/plain.db")
    with mlflow.start_run():
        mlflow.log_metrics(POINTS, step=-1)
        started = time.perf_counter()
        for step in range(STEPS):
            mlflow.log_metrics(POINTS, step=step)
        found["`mlflow.log_metrics`"] = (time.perf_counter() - started,) * 2
    return found


def _training(folder: Path, rounds: int) -> list[str]:
    """Measure a training with and without records, in turns, in one process.

    A recorded block has metrics at each step, the thread that delivers them to SQLite, and the one
    that samples the machine's load. CPU time is compared, because other programs on the machine
    change it less than the time on the clock. They still change it by more than the tracking costs,
    so the tracking's own work is also counted by itself. The threads work by the clock: if others
    use the machine, they work more often in the time that a step takes. So theirs is given as a
    share of a core, and that of the calls for each step.
    """
    project = folder / "training"
    project.mkdir()
    (project / "dvc.yaml").write_text("stages: {}\n")
    os.environ.pop("LUMIERE_TRACKING", None)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torch.nn.Conv3d(32, 32, 3, padding=1)
    clips = torch.randn(1, 32, 16, 32, 32)
    plain, recorded = [], []
    with contextlib.chdir(project):
        with tracking.stage_run("warm-up", {}) as run:
            _train(network, clips, run)
            sample = _sample_cost(run)
        for _ in range(rounds):
            plain.append(_train(network, clips, None))
            with tracking.stage_run("train", {}) as run:
                run.flush(60)  # what a run costs once is no matter of its steps
                recorded.append(_train(network, clips, run))
    base = statistics.median(block.total for block in plain)
    with_records = statistics.median(block.total for block in recorded)
    pairs = zip(plain, recorded, strict=True)
    difference = statistics.median(after.total - before.total for before, after in pairs)
    threads = statistics.median(block.threads / block.seconds for block in recorded)
    calls = statistics.median(block.calls for block in recorded) / TRAINING_STEPS
    return [
        "| not recorded | recorded | difference | threads, share of a core | calls of a step, ms | a sample, ms |",
        "|---|---|---|---|---|---|",
        f"| {base:.2f} | {with_records:.2f} | {100 * difference / base:+.1f} % | {100 * threads:.2f} % | "
        f"{1000 * calls:.3f} | {1000 * sample:.1f} |",
    ]


def _sample_cost(run: tracking.Run, count: int = 50) -> float:
    """Return the CPU seconds of a sample of the machine's load, with its delivery."""
    monitors = working_monitors()
    run.flush(60)
    started = time.process_time()
    for step in range(count):
        log_sample(run, monitors, step)
    run.flush(60)
    return (time.process_time() - started) / count


@dataclass(frozen=True)
class Block:
    """The time that some steps of a training took, in seconds.

    Attributes:
        seconds: on the clock.
        total: CPU time of all threads.
        threads: CPU time of all threads but the training's.
        calls: CPU time of the training's thread in calls of the tracking.
    """

    seconds: float
    total: float
    threads: float
    calls: float


def _train(network: torch.nn.Module, clips: torch.Tensor, run: tracking.Run | None) -> Block:
    calls = 0.0
    clock, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
    for step in range(TRAINING_STEPS):
        network.zero_grad()
        network(clips).square().mean().backward()
        if run is not None:
            before = time.thread_time()
            run.log_metrics(POINTS, step)
            calls += time.thread_time() - before
    if run is not None:
        run.flush(60)
    total, own = time.process_time() - process, time.thread_time() - thread
    return Block(time.perf_counter() - clock, total, total - own, calls)


if __name__ == "__main__":
    main()
