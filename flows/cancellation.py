"""Notices that a run of the flow is being cancelled.

Prefect's worker notices it too, but it gives up for good when its server was away for half a minute.
A run that a person started by hand has no worker at all. So the flow asks the server itself.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

import prefect.runtime
from prefect.client.orchestration import SyncPrefectClient, get_client

POLL_SECONDS = 1.5


@contextlib.contextmanager
def cancellation_watched(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `stop` from a thread if the current flow run is being cancelled.

    Yields:
        An event that is set then.
    """
    is_cancelled, has_ended = threading.Event(), threading.Event()
    run_id = UUID(str(prefect.runtime.flow_run.id))

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not has_ended.wait(POLL_SECONDS):
                if is_being_cancelled(client, run_id):
                    is_cancelled.set()
                    stop()
                    return

    thread = threading.Thread(target=watch, name="lumiere-cancellation", daemon=True)
    thread.start()
    try:
        yield is_cancelled
    finally:
        has_ended.set()


def is_being_cancelled(client: SyncPrefectClient, run_id: UUID) -> bool:
    """Return whether a flow run is being cancelled, as far as the server says so now."""
    try:
        state = client.read_flow_run(run_id).state
    except Exception:  # the server is away; it is asked again later
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
