"""Notices that a run of the flow has to end: it is being cancelled, or its worker has ended.

Prefect's worker notices a cancellation too, but it gives up for good when its server was away for half
a minute. A run that a person started by hand has no worker at all. So the flow asks the server itself.

A run outlives a worker that was killed, and nobody would end it with `make serve`. It could not go on
for long either, because its output leads to the worker.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import prefect.runtime
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Crashed

from flows.screen import drop_output
from lumiere.start import is_alive

POLL_SECONDS = 1.5
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of every process that a worker starts
CANCELLED = "the stages at work were stopped; the next run goes on from there"
WORKER_LOST = f"the worker that started this run has ended; {CANCELLED}"


def starting_process() -> psutil.Process | None:
    """Return the process that has started this one for a run of Prefect's: a worker, or
    `python -m flows.pipeline --schedule`. None for a run by hand.
    """
    if RUN_VARIABLE not in os.environ:
        return None
    with contextlib.suppress(psutil.Error):
        return psutil.Process().parent()
    return None


# Asked when the program starts: later, the process may be gone, and a run waits for the lock for hours.
STARTER = starting_process()


@dataclass
class Ending:
    """Why a run has to end: the state in which it ends, None while it may go on."""

    state: State[Any] | None = None


@contextlib.contextmanager
def ending_watched(stop: Callable[[], None]) -> Iterator[Ending]:
    """Call `stop` from a thread if the current flow run has to end.

    Yields:
        The state in which the run ends, once it has to.
    """
    ending, has_ended = Ending(), threading.Event()
    run_id = UUID(str(prefect.runtime.flow_run.id))
    worker = STARTER

    def end(state: State[Any]) -> None:
        ending.state = ending.state or state
        stop()

    def watch_server() -> None:
        with get_client(sync_client=True) as client:
            while not has_ended.wait(POLL_SECONDS):
                if is_being_cancelled(client, run_id):
                    end(Cancelled(message=CANCELLED))
                    return

    def watch_worker() -> None:
        while worker is not None and not has_ended.wait(POLL_SECONDS):
            if not is_alive(worker):
                drop_output()
                end(Crashed(message=WORKER_LOST))
                return

    # Two threads, because a server may take long to answer.
    for watch in (watch_server, watch_worker):
        threading.Thread(target=watch, name=f"lumiere-{watch.__name__}", daemon=True).start()
    try:
        yield ending
    finally:
        has_ended.set()


def is_being_cancelled(client: SyncPrefectClient, run_id: UUID) -> bool:
    """Return whether a flow run is being cancelled, as far as the server says so now."""
    try:
        state = client.read_flow_run(run_id).state
    except Exception:  # the server is away; it is asked again later
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
