"""Notices that a run of the flow has to end: it is being cancelled, or its worker has ended.

Prefect's worker notices a cancellation too, but it gives up for good when its server was away for half
a minute. A run that a person started by hand has no worker at all. So the flow asks the server itself.

A run outlives a worker that was killed, and nobody would end it with `make serve`. It could not go on
for long either, because its output leads to the worker.
"""

from __future__ import annotations

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
# A process id, in the environment of all processes below that process: of the one that starts runs, or of
# one that starts a worker, which starts them.
STARTED_BY, SERVED_BY = "LUMIERE_STARTED_BY", "LUMIERE_SERVED_BY"
CANCELLED = "the stages at work were stopped; the next run goes on from there"
WORKER_LOST = f"the worker that started this run has ended; {CANCELLED}"


@dataclass(frozen=True)
class Starter:
    """What has started this process for a run of Prefect's.

    Attributes:
        process: a worker, or `python -m flows.pipeline --schedule`. None for a run by hand.
        was_lost: whether it had ended before this process asked for it. Then the system has given
            this process another parent. Only known below a process that set `STARTED_BY` or `SERVED_BY`.
    """

    process: psutil.Process | None = None
    was_lost: bool = False

    @classmethod
    def find(cls) -> Starter:
        """Look among the parents of this process."""
        if RUN_VARIABLE not in os.environ:
            return cls()
        with contextlib.suppress(psutil.Error):
            parents = psutil.Process().parents()
            above = [str(process.pid) for process in parents]
            # In a container, the process that started the worker may also be the one that takes orphans.
            was_lost = os.environ.get(STARTED_BY) not in (None, *above[:1])
            was_lost = was_lost or os.environ.get(SERVED_BY) not in (None, *above[1:])
            return cls(parents[0] if parents else None, was_lost)
        return cls()

    def is_alive(self) -> bool:
        """Return whether it runs; True for a run by hand."""
        return not self.was_lost and (self.process is None or is_alive(self.process))


# Asked when the program starts: later, the process may be gone, and a run waits for the lock for hours.
STARTER = Starter.find()


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
    starter = STARTER

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
        while not has_ended.wait(POLL_SECONDS):
            if not starter.is_alive():
                end(worker_lost())
                return

    # Two threads, because a server may take long to answer.
    for watch in (watch_server, watch_worker) if starter.process else (watch_server,):
        threading.Thread(target=watch, name=f"lumiere-{watch.__name__}", daemon=True).start()
    try:
        yield ending
    finally:
        has_ended.set()


def worker_lost() -> State[Any]:
    """Return the state in which a run ends whose worker has ended. Its output leads nowhere now."""
    drop_output()
    return Crashed(message=WORKER_LOST)


def is_being_cancelled(client: SyncPrefectClient, run_id: UUID) -> bool:
    """Return whether a flow run is being cancelled, as far as the server says so now."""
    try:
        state = client.read_flow_run(run_id).state
    except Exception:  # the server is away; it is asked again later
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
