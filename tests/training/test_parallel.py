"""Several processes learn what one learns, end together, and go on where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.training.parallel_task import CONFIG

TWO = ("--processes", "2")
SHARDED = (*TWO, "--strategy", "fsdp", "--parts", "2")


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.parallel_task", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RANK", None)
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], out: Path) -> list[dict[str, Any]]:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return [json.loads(path.read_text()) for path in sorted(out.parent.glob(f"{out.stem}.[0-9].json"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each process of a run tells; the runs go on side by side."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"one": (), "parts": ("--parts", "2"), "two": TWO, "sharded": SHARDED}
    started = {
        name: (start(folder / f"{name}.json", *given), folder / f"{name}.json") for name, given in options.items()
    }
    return {name: finish(*one) for name, one in started.items()}


@pytest.mark.parametrize("name", ["parts", "two", "sharded"])
def test_the_losses_are_those_of_one_process(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    (one,), many = runs["one"], runs[name]
    assert len(many) == (1 if name == "parts" else 2)
    for process in many:
        for curve in ("losses", "validation"):
            assert [step for step, _ in process[curve]] == [step for step, _ in one[curve]]
            assert [loss for _, loss in process[curve]] == pytest.approx([loss for _, loss in one[curve]], rel=1e-4)
        assert process["norms"] == pytest.approx(one["norms"], rel=1e-4)
        assert process["frozen"] and process["class"] == "SpaceTimeUNet"
    assert len({process["weights"] for process in many}) == 1  # whole, and the same in every process


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_each_example_is_seen_once_by_one_process(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    parts = 2 if name == "sharded" else 1
    size = CONFIG.batch_size // (2 * parts)
    seen = [process["seen"][size:] for process in runs[name]]  # the first part is drawn once more, to count operations
    assert sorted(seen[0] + seen[1]) == list(range(CONFIG.steps * CONFIG.batch_size))


def test_only_the_first_process_logs(runs: dict[str, list[dict[str, Any]]]) -> None:
    first, second = runs["two"]
    assert first["logged"] and not second["logged"]


@pytest.mark.parametrize("action, options, says", [
    ("kill", SHARDED, "process 1 of 2 failed (killed by SIGKILL), so the others were ended"),
    ("hang", TWO, "of 2 failed (exit code 1), so the others were ended"),
    ("term", TWO, ""),
])  # fmt: skip
def test_a_process_that_dies_or_hangs_ends_all_and_the_next_run_goes_on(
    action: str, options: tuple[str, ...], says: str, runs: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "run.json"
    process = start(out, *options, "--at", "4", "--action", action)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == (143 if action == "term" else 1), said
    assert says in said
    assert not list(tmp_path.glob("run.[0-9].json"))
    resumed = finish(start(out, *options), out)
    assert resumed[0]["resumed_from"] == (5 if action == "term" else 3)
    whole = runs["sharded" if options == SHARDED else "two"]
    assert [one["weights"] for one in resumed] == [one["weights"] for one in whole]
    assert resumed[0]["losses"] == whole[0]["losses"]
