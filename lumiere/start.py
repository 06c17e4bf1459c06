"""Checks the interpreter, the variables of a launch and the parent process when a program starts.

It also makes the PATH for the programs that this one starts, and sets the switches of telemetry.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from lumiere.errors import ParamsError

# torchrun and accelerate set all of them.
LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What MPI launchers set, and accelerate would take for a launch. The project is not launched by MPI.
MPI_VARIABLES = (
    *("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    *("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    *("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    *("MV2_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
)
SHELLS = {"sh", "bash", "dash", "zsh"}
# The switches of DVC, Hugging Face, MLflow and Prefect. The packages read them when they are imported.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
POLL_SECONDS = 1.0


def check_interpreter() -> None:
    """Check that Python keeps docstrings; transformers reads its own.

    Raises:
        ParamsError: if it does not.
    """
    if sys.flags.optimize >= 2:
        raise ParamsError(
            "PYTHONOPTIMIZE=2 (or -OO) removes docstrings, which the package transformers needs; "
            "unset it, or use 1"
        )


def switch_telemetry_off() -> None:
    """Keep every package from reporting its use, also if the environment asks for it."""
    os.environ.update(TELEMETRY_OFF)


def let_idle_threads_sleep() -> None:
    """Keep the threads of OpenMP from spinning while they wait, which takes the processor from other
    processes. The library reads this when torch is imported. The user's own choice stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def own_programs_first(path: str) -> str:
    """Return a PATH with which child processes find this interpreter, and the programs beside it,
    before others.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def drop_stray_launch() -> str:
    """Remove variables of a launch in several processes if they do not describe one.

    A cluster or an earlier shell can leave `RANK=1` behind. Such a process would train to its end
    and write nothing, because only the first one writes. With `OMPI_COMM_WORLD_SIZE=8`, it would
    look for seven others. In a launch, only the variables of MPI are removed.

    Returns:
        A note for the user; empty if nothing was removed, or the launch decides anyway.
    """
    has_launch = is_launch(os.environ)
    names = MPI_VARIABLES if has_launch else LAUNCH_VARIABLES[:3] + MPI_VARIABLES
    stray = {name: os.environ.pop(name) for name in names if name in os.environ}
    if not stray or has_launch:
        return ""
    shown = ", ".join(f"{name}={value}" for name, value in stray.items())
    return f"{shown} in the environment is ignored, because a launch sets {_LISTED}, and they agree"


_LISTED = f"{', '.join(LAUNCH_VARIABLES[:-1])} and {LAUNCH_VARIABLES[-1]}"


def is_launch(variables: Mapping[str, str]) -> bool:
    """Return whether variables describe one of several processes that torchrun or accelerate
    started: all of them are set, and they agree.
    """
    if not all(variables.get(name) for name in LAUNCH_VARIABLES):
        return False
    numbers = [variables[name] for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")]
    if not all(number.isdecimal() for number in numbers):
        return False
    local_rank, rank, world_size, _ = map(int, numbers)
    return local_rank <= rank < world_size


def end_with_dvc() -> None:
    """If DVC started this process, send it SIGTERM when DVC ends before it, as after `kill -9`.

    Otherwise a training would go on beside the next run. DVC starts a stage through a shell, which
    outlives DVC, so each process up to DVC is watched. The imports of a stage take seconds; if DVC
    has ended meanwhile, the system has given the shell another parent.
    """
    if "DVC_STAGE" not in os.environ or "LUMIERE_LAUNCHER" in os.environ:
        return
    watched: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            watched.append(process)
            if process.name() not in SHELLS:
                break
        if watched and adopts_orphans(watched[-1]):
            _end()
    threading.Thread(target=_end_with, args=(watched,), name="lumiere-dvc", daemon=True).start()


def adopts_orphans(process: psutil.Process) -> bool:
    """Return whether a process is one to which the system gives processes whose parent has ended: the
    first one or systemd, unless its program is DVC, as it may be in a container. Other programs can
    ask the system for orphans too; they are not recognised.
    """
    is_first = process.pid == 1 or process.name() == "systemd"
    return is_first and not any(re.search("dvc|python", word) for word in process.cmdline()[:1])


def _end_with(watched: list[psutil.Process]) -> None:
    while all(is_alive(process) for process in watched):
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> None:
    print("DVC has ended or is out of sight, so this stage ends too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process itself runs: not a later one of the same id, and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
