"""What programs check as they start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import accelerate.state
import accelerate.utils.environment
import psutil
import pytest
import torch

import stages
from lumiere import start
from lumiere.training.launch import is_launched

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCH = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUMIERE_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what a stage sets is gone afterwards
    for name in start.LAUNCH_VARIABLES + start.MPI_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test removes comes back, or goes
        monkeypatch.delenv(name)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_launch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCH.items():
        monkeypatch.setenv(name, value)
    assert start.drop_stray_launch() == "" and is_launched()
    assert {name: os.environ[name] for name in LAUNCH} == LAUNCH


@pytest.mark.parametrize(
    "stray",
    [
        {"RANK": "1"},
        {"RANK": ""},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "8"},
        {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "1"},
        {"PMI_SIZE": "2", "PMI_RANK": ""},
        {"MV2_COMM_WORLD_SIZE": "2", "MPI_LOCALRANKID": "1", "RANK": "1"},
        LAUNCH | {"LOCAL_RANK": ""},
        LAUNCH | {"RANK": "2"},
        LAUNCH | {"RANK": "0"},  # the second process of its machine cannot be the first of all
        LAUNCH | {"WORLD_SIZE": "two"},
    ],
)
def test_stray_variables_of_a_launch_are_removed_and_named(
    stray: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert not is_launched()
    seen: list[str] = []
    dropped = {"RANK", "LOCAL_RANK", "WORLD_SIZE", *start.MPI_VARIABLES}
    stages.run(lambda: seen.extend(set(os.environ) & dropped))
    assert seen == []
    note = capsys.readouterr().err
    assert note.startswith("note: ") and note.count("\n") == 1
    assert all(f"{name}=" in note for name in stray if not name.startswith("MASTER"))


def test_a_launch_that_mpi_started_keeps_its_own_variables_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where `mpirun` starts one `torchrun` for each node."""
    for name, value in (LAUNCH | {"OMPI_COMM_WORLD_SIZE": "8", "PMI_SIZE": "8"}).items():
        monkeypatch.setenv(name, value)
    assert start.drop_stray_launch() == "" and is_launched()
    assert {name: os.environ[name] for name in LAUNCH} == LAUNCH
    assert not set(os.environ) & set(start.MPI_VARIABLES)


def test_accelerate_reads_no_variable_of_another_launch() -> None:
    """The list has every name that the installed accelerate asks for."""
    names: set[str] = set()
    for module in (accelerate.state, accelerate.utils.environment):
        source = Path(module.__file__).read_text(encoding="utf-8")
        names |= set(re.findall(r'"((?:\w+_COMM_WORLD|PMI|MPI)_\w+)"', source))
    assert names == set(start.MPI_VARIABLES)


def test_nothing_is_said_without_such_variables(capsys: pytest.CaptureFixture[str]) -> None:
    stages.run(lambda: None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("level", [0, 1, 2])
def test_python_without_docstrings_is_refused(level: int) -> None:
    # A stage imports the packages that need docstrings before it is run.
    words = [sys.executable, "-m", "stages.prepare_t2i", "--help"]
    env = os.environ | {"PYTHONOPTIMIZE": str(level), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    if level < 2:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1 and done.stderr.startswith("error: PYTHONOPTIMIZE=2 (or -OO)")
        assert done.stderr.count("\n") == 1


def test_a_stage_ends_when_dvc_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from lumiere.start import end_with_dvc; end_with_dvc()\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    # As DVC does: a shell that starts a stage. `true` keeps the shell from becoming the stage.
    parent = """import subprocess\nsubprocess.run('"$PYTHON" -c "$CODE"; true', shell=True)"""
    env = os.environ | {
        "PYTHON": sys.executable,
        "CODE": code,
        "DVC_STAGE": "a",
        "PYTHONPATH": str(REPOSITORY),
    }
    dvc = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=env)
    assert dvc.stdout is not None
    stage = psutil.Process(int(dvc.stdout.readline()))
    assert stage.parent() != psutil.Process(dvc.pid)  # the shell is between them
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()
    _, alive = psutil.wait_procs([stage], timeout=20)
    assert not alive


def test_a_stage_ends_if_dvc_was_killed_before_it_could_look(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    code = (
        "import os, sys, time\n"
        "while os.getppid() == int(os.environ['DVC']): time.sleep(0.01)\n"
        "from lumiere.start import end_with_dvc; end_with_dvc(); time.sleep(60)"
    )
    # The shell becomes the stage, as with most shells.
    parent = (
        "import os, signal, subprocess\n"
        "env = os.environ | {'DVC': str(os.getpid())}\n"
        """subprocess.Popen('exec "$PYTHON" -c "$CODE" 2> "$SAID"', shell=True, env=env)\n"""
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = os.environ | {
        "PYTHON": sys.executable,
        "CODE": code,
        "DVC_STAGE": "a",
        "PYTHONPATH": str(REPOSITORY),
        "SAID": str(said),
    }
    assert subprocess.run([sys.executable, "-c", parent], env=env).returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while not (said.exists() and "DVC has ended" in said.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("pid", "name", "command", "is_orphanage"),
    [
        (1, "systemd", "/sbin/init", True),
        (1, "tini", "tini -- bash", True),
        (1, "docker-init", "/sbin/docker-init -- python -m flows.worker", True),
        (1, "dvc", "/usr/bin/dvc repro", False),
        (1, "python3", "python3 -m dvc repro", False),
        (700, "systemd", "/usr/lib/systemd/systemd --user", True),
        (700, "srun", "srun python -m stages.curate", False),
    ],
)
def test_who_takes_orphans(pid: int, name: str, command: str, is_orphanage: bool) -> None:
    process = Mock(pid=pid)
    process.name.return_value, process.cmdline.return_value = name, command.split()
    assert start.adopts_orphans(process) is is_orphanage


def test_a_stage_without_dvc_watches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(start, "_end_with", lambda watched: pytest.fail("watched"))
    start.end_with_dvc()
    time.sleep(0.05)
