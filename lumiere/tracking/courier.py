"""Carries the journals of a process to MLflow in a thread.

The thread tries again as long as its process lives. What is left then is delivered by the next
process that records a run of the project, or by `python -m lumiere.tracking`.

MLflow's own asynchronous logging (tried with 3.17.2) is not used. Runs that end at the same time in
one process shut down each other's queue and lose points (8 of 240 in a trial), and only a queue
with one thread keeps the order.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.addresses import redacted
from lumiere.tracking import store
from lumiere.tracking.delivery import Delivery, ParentPending
from lumiere.tracking.journal import QUEUE, Journal, abandoned_journals

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVERY_SECONDS = 5.0  # so that users can watch a curve while it grows
RETRY_SECONDS = 2.0  # doubled after each failure
MAX_RETRY_SECONDS = 30.0
CLEANING_SECONDS = 5.0  # for the deletion of what was delivered
MAX_ADOPTED = 100  # journals at a time; each keeps a file open

logger = logging.getLogger("lumiere.tracking")

_couriers: dict[tuple[Path, str], Courier] = {}
os.register_at_fork(after_in_child=_couriers.clear)  # a child has none of its parent's threads


class Courier:
    """Delivers the journals of this process for one store.

    Attributes:
        error: why the last attempt failed; None if it did not.
    """

    def __init__(self, root: Path) -> None:
        self.error: Exception | None = None
        self._root = root
        self._client: MlflowClient | None = None
        self._journals: dict[str, Journal] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_due = False
        self._failures = 0  # since the last success
        self._attempts = 0
        self._has_warned = False

    # --- called by the threads that record ---------------------------------------------------------

    def add(self, journal: Journal) -> None:
        """Begin to deliver a journal."""
        with self._changed:
            self._journals[journal.key] = journal
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="lumiere-mlflow", daemon=True
                )
                self._thread.start()

    def discard(self, journal: Journal) -> None:
        """Delete a journal without delivering it."""
        with self._changed:
            self._journals.pop(journal.key, None)
        journal.remove()

    def wake(self) -> None:
        """Deliver soon, instead of within `EVERY_SECONDS`."""
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    def wait(
        self,
        journals: Sequence[Journal],
        seconds: float,
        is_done: Callable[[Journal], bool] = lambda journal: journal.is_delivered,
    ) -> bool:
        """Wait until all journals are done, by default delivered; return whether they are.

        Give up after `seconds`, or as soon as an attempt fails.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            first = self._attempts
            self._is_due = True
            self._failures = 0  # try at once
            self._changed.notify_all()
            while not all(map(is_done, journals)):
                has_failed = self.error is not None and self._attempts > first
                left = deadline - time.monotonic()
                if has_failed or left <= 0:
                    return False
                self._changed.wait(min(left, 0.5))
        return True

    @property
    def journals(self) -> list[Journal]:
        """The journals that are not delivered, oldest first."""
        with self._changed:
            return [journal for _, journal in sorted(self._journals.items())]

    # --- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._sleep()
                if not self._journals:
                    self._thread = None
                    return
                self._is_due = False
            error: Exception | None = None
            try:
                self._deliver_all()
            except Exception as failure:  # MLflow, SQLAlchemy and the network raise many kinds
                error = failure
            with self._changed:
                self._note(error)
                self._attempts += 1
                self._changed.notify_all()

    def _sleep(self) -> None:
        """Wait until something is due, or for longer after failures."""
        pause = EVERY_SECONDS
        if self._failures:
            pause = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** (self._failures - 1))
        deadline = time.monotonic() + pause
        while self._journals:
            left = deadline - time.monotonic()
            if left <= 0 or (self._is_due and not self._failures):
                return
            self._changed.wait(left)

    def _note(self, error: Exception | None) -> None:
        self.error = error
        if error is None:
            self._failures = 0
            return
        self._failures += 1
        self._client = None  # opened again, because the database may have been replaced
        if isinstance(error, ParentPending) or self._has_warned:
            return
        self._has_warned = True
        problem = store.lasting_problem(error, self._root)
        reason = problem or (
            f"MLflow at {redacted(store.tracking_uri(self._root))} does not answer "
            f"({store.reason(error)})"
        )
        logger.warning(
            "%s; what this run records waits in %s and is delivered later", reason, QUEUE
        )

    def _deliver_all(self) -> None:
        if self._client is None:
            self._client = store.open_store(self._root)
        delivery = Delivery(self._client, self._root, self._all_journals)
        # All figures come first: an artifact store that fails does not hold them up.
        failures = []
        for step in (delivery.figures, delivery.artifacts):
            failures.append(delivery.each(step, self.journals))
        for journal in self.journals:
            self._forget_if_complete(journal)
        self.adopt_abandoned()
        for failure in failures:
            if failure is not None:
                raise failure

    def _forget_if_complete(self, journal: Journal) -> None:
        is_complete = journal.is_ended and journal.is_delivered
        if is_complete:
            journal.remove()
        if is_complete or not journal.folder.exists():  # `make clean` may have deleted it
            with self._changed:
                self._journals.pop(journal.key, None)

    def _all_journals(self) -> list[Journal]:
        """List the journals of this process, and those of processes that have ended."""
        self.adopt_abandoned()
        return self.journals

    def adopt_abandoned(self) -> None:
        """Take over journals of processes that have ended, the oldest first."""
        own = {journal.key for journal in self.journals}
        if len(own) >= MAX_ADOPTED:
            return
        for journal in abandoned_journals(self._root, store.store_name(self._root), own):
            if not journal.is_ended:  # as after `kill -9`
                # The clock may have been set back since the run began.
                last_written = int(journal.figures.path.stat().st_mtime * 1000)
                ended = max(last_written, journal.begun_at)
                journal.figures.add({"do": "end", "status": "KILLED", "time": ended})
            with self._changed:
                self._journals[journal.key] = journal
                self._is_due = True
                if len(self._journals) >= MAX_ADOPTED:
                    return


def courier(root: Path) -> Courier:
    """Return this process's courier for the project's store."""
    name = root.resolve(), store.store_name(root)
    if name not in _couriers:
        _couriers[name] = Courier(root)
    return _couriers[name]


def deliver_abandoned(root: Path, seconds: float) -> tuple[int, Exception | None]:
    """Deliver what earlier processes left behind.

    Returns:
        How many journals are left, and why.
    """
    own_courier = Courier(root)
    deadline = time.monotonic() + seconds
    while True:
        own_courier.adopt_abandoned()
        journals = own_courier.journals
        if not journals:
            return 0, None
        own_courier.add(journals[0])
        # A process that ends once they are delivered would leave their folders behind.
        own_courier.wait(journals, deadline - time.monotonic())
        own_courier.wait(journals, CLEANING_SECONDS, lambda one: not one.folder.exists())
        left = [journal for journal in journals if journal.folder.exists()]
        if left:
            return len(left), own_courier.error
