"""Ends runs that Prefect shows as at work although their processes are gone, as after a power cut.

Prefect's server learns from the run itself or from its worker that the run has ended. If both die at
once, the run keeps its state forever, and other runs wait for it forever.

`make serve` does this before it starts its worker. For a worker of your own, run
`python -m flows.leftovers` on its machine, as its user, before you start it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from flows.cancellation import RUN_VARIABLE
from flows.program import check_server
from lumiere.errors import run_program

POOL = "lumiere"
AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
# A stage's processes may outlive a killed flow by 14 s, and a worker needs seconds to start a run.
PATIENCE = 30.0  # seconds
LOOK_SECONDS = 1.0
MESSAGE = "its process is gone, as after a power cut; the next run goes on from there"


def crash_leftovers(
    client: SyncPrefectClient, pool: str = POOL, patience: float = PATIENCE
) -> list[str]:
    """Set the runs of a work pool whose processes are gone to Crashed, or to Cancelled.

    Runs with a process of this user on this machine stay as they are: another worker or an earlier
    one has started them.

    Args:
        client: the client of the server.
        pool: the work pool. All its workers run on this machine, as this user.
        patience: how many seconds to wait for runs that seem to be at work, or whose process a
            worker may be about to start.

    Returns:
        One sentence for each run, for people to read.
    """
    before = {run.id for run in _runs_at_work(client, pool)}
    deadline = time.monotonic() + patience
    lines = []
    while before:
        alive = processes_by_run()
        is_over = time.monotonic() >= deadline
        remaining = [run for run in _runs_at_work(client, pool) if run.id in before]
        for run in remaining:
            process = alive.get(str(run.id))
            if process is None and (is_over or run.state_type != StateType.PENDING):
                lines.append(_end(client, run))
            elif process is not None and is_over:
                lines.append(
                    f"the run {run.name!r} is at work in process {process}, which another worker "
                    "has started; it stays as it is"
                )
            else:
                continue
            before.discard(run.id)
        before &= {run.id for run in remaining}
        if before:
            time.sleep(LOOK_SECONDS)
    return lines


def processes_by_run() -> dict[str, int]:
    """Return a process of this user for each flow run that has one, by the run's id."""
    pids: dict[str, int] = {}
    for process in psutil.process_iter():
        try:
            run = process.environ().get(RUN_VARIABLE)
        except (psutil.Error, OSError):  # it has ended, or belongs to another user
            continue
        if run:
            pids.setdefault(run, process.pid)
    return pids


def _runs_at_work(client: SyncPrefectClient, pool: str) -> Sequence[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )


def _end(client: SyncPrefectClient, run: FlowRun) -> str:
    is_cancelled = run.state_type == StateType.CANCELLING
    state: State[Any] = (Cancelled if is_cancelled else Crashed)(message=MESSAGE)
    client.set_flow_run_state(run.id, state, force=True)
    this = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task in client.read_task_runs(flow_run_filter=this):
        if task.state_type in AT_WORK:
            client.set_task_run_state(task.id, state, force=True)
    return f"the run {run.name!r} was cut off, and Prefect shows it as {state.name} now"


def main() -> None:
    """Look, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m flows.leftovers", description=__doc__)
    parser.add_argument("--pool", default=POOL, help=f"the work pool (default: {POOL})")
    pool = parser.parse_args().pool
    check_server()
    with get_client(sync_client=True) as client:
        for line in crash_leftovers(client, pool) or ["no run was cut off"]:
            print(line)


if __name__ == "__main__":
    run_program(main)
