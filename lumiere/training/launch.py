"""Starts several processes of one training on this machine, as torchrun does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lumiere.errors import TRY_AGAIN, WorkerError
from lumiere.start import is_launch

LAUNCHER = "LUMIERE_LAUNCHER"  # an environment variable: the launcher's process id
PR_SET_PDEATHSIG = 1
SAVING_SECONDS = 600  # a process has this long after SIGTERM to save its state


def is_launched() -> bool:
    """Return whether torchrun, accelerate or this module started this process as one of several."""
    return is_launch(os.environ)


def end_with_launcher() -> None:
    """Let the kernel kill this process when its launcher ends for any reason (Linux only).

    Does nothing in a process that torchrun started.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # the launcher has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def _cause(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the rank and the failure that made the others fail.

    When a process ends, the others lose their connection to it and fail too, often before the next
    look at them; the times of those failures are equal then. So a killed process is the cause
    before one that ended with TRY_AGAIN, and that one before others. SIGABRT is how NCCL's watchdog
    ends a process that lost another. One that was asked to end (SIGTERM) is the cause only if all
    were.
    """
    start = min(failure.timestamp for failure in failures.values()) + 1
    together = [rank for rank, failure in failures.items() if failure.timestamp <= start]

    rank = min(together, key=lambda rank: _distance(failures[rank].exitcode))
    return rank, failures[rank]


def _distance(code: int) -> int:
    """Return how far a failure with an exit code is from being the cause of others."""
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return 3
    if code < 0 and code != -signal.SIGABRT:
        return 0
    return 1 if code == TRY_AGAIN else 2


def run_in_processes(module: str, arguments: Sequence[str], processes: int) -> None:
    """Run `python -m module arguments` as `processes` processes, and wait for them.

    A SIGTERM to this process is passed on to all of them. When one fails or is killed, the others
    are ended.

    Raises:
        WorkerError: one of them failed; its own message is printed above.
        SystemExit: this process received SIGTERM or Ctrl-C.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING_SECONDS))
    os.environ[LAUNCHER] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # DVC or Prefect runs the stage again, and it resumes from its checkpoint
        monitor_interval=1.0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = _cause(error.failures)
        how = f"exit code {failure.exitcode}"
        if failure.exitcode < 0:
            how = f"killed by {signal.Signals(-failure.exitcode).name}"
        raise WorkerError(
            f"process {rank} of {processes} failed ({how}), so the others were ended",
            may_pass=failure.exitcode in (-signal.SIGKILL, TRY_AGAIN),
        ) from None
    except SignalException as error:
        sys.exit(128 + error.sigval)
