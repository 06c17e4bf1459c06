"""Starts a worker of Prefect that ends its runs when it ends: `python -m flows.worker`.

Prefect's own program, when it gets SIGTERM, waits until its runs have ended. That is too late where a
system is shut down, or where the time of an allocation of Slurm is over: a training would be killed
before it has saved its state.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.cancellation import SERVED_BY
from flows.flow import PROJECT, pipeline_lock
from flows.leftovers import POOL, crash_leftovers
from flows.program import check_server
from flows.supervisor import Supervisors
from lumiere.errors import LockError, ParamsError, run_program
from lumiere.start import own_programs_first

STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Work until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description=__doc__)
    parser.add_argument("--pool", default=POOL, help=f"the work pool (default: {POOL})")
    parser.add_argument(
        "--end-leftovers",
        action="store_true",
        help="first set runs of the pool that have no process here to Crashed; only for the one worker of a pool",
    )
    parser.add_argument("--limit", type=int, default=2, help="runs at the same time (default: 2)")
    options = parser.parse_args()
    if not PREFECT_API_URL.value():
        raise ParamsError(
            "a worker needs a Prefect server; set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_server()
    if options.end_leftovers:
        with get_client(sync_client=True) as client:
            for line in crash_leftovers(client, options.pool):
                print(line, flush=True)
    words = ["prefect", "worker", "start", "--pool", options.pool, "--type", "process"]
    words.append("--no-create-pool-if-not-found")  # a typing error would wait forever
    sys.exit(work([sys.executable, "-m", *words, "--limit", str(options.limit)]))


def work(command: list[str]) -> int:
    """Run a worker until it ends, or until SIGINT or SIGTERM; then end it with all its runs.

    Returns:
        The exit status of the worker; 0 after a signal.
    """
    supervisors, is_stopped = Supervisors(), threading.Event()

    def stop(*_: object) -> None:
        is_stopped.set()
        # In a thread, because this one may hold the lock of the supervisors.
        threading.Thread(target=supervisors.stop).start()

    for number in STOPPING:
        signal.signal(number, stop)
    env = os.environ | {
        "PATH": own_programs_first(os.environ.get("PATH", "")),
        SERVED_BY: str(os.getpid()),
    }
    status = supervisors.run(command, PROJECT, env, lambda text, _: print(text, flush=True))
    # The stages save their state, and hold this lock until they have.
    with contextlib.suppress(LockError), pipeline_lock(PROJECT):
        pass
    return 0 if is_stopped.is_set() else status


if __name__ == "__main__":
    run_program(main)
