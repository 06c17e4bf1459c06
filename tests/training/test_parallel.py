"""Several processes learn what one learns, end together, and go on where they were."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from lumiere.errors import TRY_AGAIN, WorkerError
from lumiere.training import launch
from lumiere.training.checkpoint import load_checkpoint
from tests import forked
from tests.conftest import REPOSITORY
from tests.forked import Program
from tests.training import parallel_task
from tests.training.parallel_task import CONFIG

TWO = ("--processes", "2")
SHARDED = (*TWO, "--strategy", "fsdp", "--parts", "2")


def start(out: Path, *options: str, **variables: str) -> Program:
    """Start the task; with more than one process, it starts them as a stage does."""
    command = ["tests.training.parallel_task", str(out), *options]
    environment = {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5", **variables}
    log = out.with_suffix(f".{variables.get('RANK', 'all')}.log")
    return forked.start(command, log, REPOSITORY, environment)


def start_ranks(out: Path, *options: str) -> list[Program]:
    """Start two processes as torchrun would, but at once: the launcher's part is tested elsewhere."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(out, *options, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]


def told(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) for path in sorted(out.parent.glob(f"{out.stem}.[0-9].json"))
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each process of a run tells; the runs go on side by side."""
    folder = tmp_path_factory.mktemp("runs")
    outs = {name: folder / f"{name}.json" for name in ("one", "parts", "two", "sharded")}
    two, sharded = start(outs["two"], *TWO), start_ranks(outs["sharded"], *SHARDED)
    parallel_task.main([str(outs["one"])])
    parallel_task.main([str(outs["parts"]), "--parts", "2"])
    two.wait()
    for process in sharded:
        process.wait()
    return {name: told(out) for name, out in outs.items()}


@pytest.mark.parametrize("name", ["parts", "two", "sharded"])
def test_the_losses_are_those_of_one_process(
    name: str, runs: dict[str, list[dict[str, Any]]]
) -> None:
    (one,), many = runs["one"], runs[name]
    assert len(many) == (1 if name == "parts" else 2)
    for process in many:
        for curve in ("losses", "validation"):
            assert [step for step, _ in process[curve]] == [step for step, _ in one[curve]]
            assert [loss for _, loss in process[curve]] == pytest.approx(
                [loss for _, loss in one[curve]], rel=1e-4
            )
        assert process["norm"] == pytest.approx(one["norm"], rel=1e-4)
        assert process["frozen"] and process["class"] == "SpaceTimeUNet"
    # Whole, and the same in every process.
    assert len({process["weights"] for process in many}) == 1


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_each_example_is_seen_once_by_one_process(
    name: str, runs: dict[str, list[dict[str, Any]]]
) -> None:
    seen = [process["seen"] for process in runs[name]]
    assert sorted(seen[0] + seen[1]) == list(range(CONFIG.steps * CONFIG.batch_size))


def test_only_the_first_process_logs(runs: dict[str, list[dict[str, Any]]]) -> None:
    first, second = runs["two"]
    assert first["logged"] and not second["logged"]


def test_a_dead_process_ends_the_others_and_the_next_run_goes_on(
    runs: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "run.json"
    said = start(out, *SHARDED, "--at", "4", "--action", "kill").wait(expected=1)
    assert "process 1 of 2 failed (killed by SIGKILL), so the others were ended" in said
    assert told(out) == []
    for process in start_ranks(out, *SHARDED):
        process.wait()
    for resumed, whole in zip(told(out), runs["sharded"], strict=True):
        assert resumed["resumed_from"] == 3
        assert resumed["weights"] == whole["weights"] and resumed["losses"] == whole["losses"]


@pytest.mark.parametrize(
    "codes, cause, may_pass",
    [
        ((1, -signal.SIGKILL), "process 1 of 2 failed (killed by SIGKILL)", True),
        ((1, -signal.SIGSEGV), "process 1 of 2 failed (killed by SIGSEGV)", False),
        ((-signal.SIGABRT, -signal.SIGKILL), "process 1 of 2 failed (killed by SIGKILL)", True),
        ((TRY_AGAIN, -signal.SIGBUS), "process 1 of 2 failed (killed by SIGBUS)", False),
        ((1, TRY_AGAIN), "process 1 of 2 failed (exit code 75)", True),
        ((-signal.SIGABRT, TRY_AGAIN), "process 1 of 2 failed (exit code 75)", True),
        ((1, -signal.SIGABRT), "process 0 of 2 failed (exit code 1)", False),
        ((-signal.SIGTERM, 1), "process 1 of 2 failed (exit code 1)", False),
        ((143, -signal.SIGABRT), "process 1 of 2 failed (killed by SIGABRT)", False),
        ((-signal.SIGTERM, -signal.SIGTERM), "process 0 of 2 failed (killed by SIGTERM)", False),
    ],
)
def test_of_failures_at_the_same_time_the_one_that_caused_the_others_is_named(
    codes: tuple[int, int], cause: str, may_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failure_of(codes, (100, 100), monkeypatch)
    assert cause in str(failure) and failure.may_pass == may_pass


@pytest.mark.parametrize("seconds, cause", [(1, "process 1"), (2, "process 0")])
def test_failures_up_to_a_second_apart_are_at_the_same_time(
    seconds: int, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failure_of((1, -signal.SIGKILL), (100, 100 + seconds), monkeypatch)
    assert str(failure).startswith(f"{cause} of 2 failed")


def failure_of(
    codes: tuple[int, int], times: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> WorkerError:
    """Return the error of a launch whose processes end with these codes at these times."""

    def fail(*_: object) -> None:
        failures = {rank: ProcessFailure(rank, 1, code, "") for rank, code in enumerate(codes)}
        for rank, failure in failures.items():
            failure.timestamp = times[rank]
        raise ChildFailedError("training", failures)

    for name in ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", launch.LAUNCHER):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(launch, "elastic_launch", lambda *_: fail)
    with pytest.raises(WorkerError) as raised:
        launch.run_in_processes("training", (), 2)
    return raised.value


@pytest.mark.parametrize("action, code", [("hang", 1), ("term", 143)])
def test_a_hung_process_or_a_signal_ends_all_with_the_state_kept(
    action: str, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "run.json"
    said = start(out, *TWO, "--at", "4", "--action", action).wait(expected=code)
    assert told(out) == [] and ("so the others were ended" in said) == (action == "hang")
    found = load_checkpoint(tmp_path / "run")
    assert found is not None and found["step"] == (5 if action == "term" else 3)


def test_a_full_disk_ends_all_with_the_first_ones_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    for process in start_ranks(out, *TWO, "--at", "4", "--action", "full"):
        said = process.wait(expected=1)
        assert f"DiskError: {tmp_path}/run: the state of step 6 cannot be written" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-0000003"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's death signal")
def test_no_process_outlives_a_killed_launcher(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.orphans", str(tmp_path)]
    launcher = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    launcher.communicate(timeout=300)  # the pipe ends when the last process does
    assert launcher.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
