"""Carries journals to MLflow in a thread of their process, in order, and each entry once.

Everything sent may be sent again after a lost answer. MLflow keeps one point of equal name, step,
time and value (its primary key), and equal params, tags and files replace each other. Only the
creation of a run needs care: each run has the key of its journal as a tag, by which it is found.

The thread tries again as long as its process lives. What is left then is delivered by the next
process that records a run of the project, or by `python -m lumiere.tracking`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.addresses import redacted
from lumiere.errors import first_line
from lumiere.tracking import store
from lumiere.tracking.journal import QUEUE, Entry, Journal, abandoned_journals

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "lumiere_key"
BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits
EVERY_SECONDS = 5.0  # so that users can watch a curve while it grows
RETRY_SECONDS = 2.0  # doubled after each failure
MAX_RETRY_SECONDS = 30.0
# Errors about the content of a request; sending it again does not help.
REJECTED = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"}
UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}

logger = logging.getLogger("lumiere.tracking")

_couriers: dict[tuple[Path, str], Courier] = {}
os.register_at_fork(after_in_child=_couriers.clear)  # a child has none of its parent's threads


class ParentPending(Exception):
    """The run's parent is not in MLflow yet; another process delivers it."""


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
        self._restarted: set[str] = set()

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

    def wait(self, journals: Sequence[Journal], seconds: float) -> bool:
        """Wait until journals are delivered; return whether they are.

        Give up after `seconds`, or as soon as an attempt fails.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            first = self._attempts
            self._is_due = True
            self._failures = 0  # try at once
            self._changed.notify_all()
            while not all(journal.is_delivered for journal in journals):
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
        client = self._client
        # All figures come first: an artifact store that fails does not hold them up.
        failures = []
        for step in (self._deliver_figures, self._deliver_artifacts):
            failures.append(self._each(partial(step, client), self.journals))
        for journal in self.journals:
            self._forget_if_complete(journal)
        self._adopt_abandoned()
        for failure in failures:
            if failure is not None:
                raise failure

    def _each(
        self, deliver: Callable[[Journal], None], journals: Sequence[Journal]
    ) -> Exception | None:
        """Apply `deliver` to journals. Return the first error about one run, which does not keep the
        others back; raise any other error.
        """
        failure: Exception | None = None
        for journal in journals:
            try:
                self._begin_again_if_unknown(deliver, journal)
            except Exception as error:
                store.set_aside_if_malformed(error, self._root)
                if not _is_about_one_run(error):
                    raise
                failure = failure or error
        return failure

    def _begin_again_if_unknown(self, deliver: Callable[[Journal], None], journal: Journal) -> None:
        """Deliver; if the store does not know the run, begin again, because the journal has all of
        it. This happens if the database was replaced.
        """
        try:
            deliver(journal)
        except Exception as error:
            is_unknown = getattr(error, "error_code", "") in UNKNOWN
            if not is_unknown or journal.key in self._restarted:
                raise
            self._restarted.add(journal.key)
            journal.begin_again()
            self.wake()

    def _forget_if_complete(self, journal: Journal) -> None:
        is_complete = journal.is_ended and journal.is_delivered
        if is_complete:
            journal.remove()
        if is_complete or not journal.folder.exists():  # `make clean` may have deleted it
            with self._changed:
                self._journals.pop(journal.key, None)

    def _deliver_figures(self, client: MlflowClient, journal: Journal) -> None:
        for kind, group in groupby(list(journal.figures.pending()), lambda pair: pair[0]["do"]):
            entries = list(group)
            if kind in BATCH:
                for part in _parts(entries, BATCH[kind]):
                    self._send(client, journal, kind, part)
                    journal.figures.advance(part[-1][1])
                continue
            for entry, offset in entries:
                if kind == "create":
                    self._create(client, journal, entry)
                else:
                    with _rejection_noted():
                        self._act(client, journal, entry)
                journal.figures.advance(offset)

    def _act(self, client: MlflowClient, journal: Journal, entry: Entry) -> None:
        """Carry out an entry that changes more than one run, or ends one."""
        if entry["do"] == "family":
            self._tag_family(client, journal, entry["tags"])
        elif entry["do"] == "close abandoned":
            kept = {other.run_id for other in self.journals if other.run_id is not None}
            store.close_abandoned_runs(client, self._root, kept)
        elif entry["do"] == "end":
            client.set_terminated(_id(journal), entry["status"], entry["time"])

    def _deliver_artifacts(self, client: MlflowClient, journal: Journal) -> None:
        if journal.run_id is None:
            return
        for entry, offset in list(journal.artifacts.pending()):
            path = journal.folder / entry["file"]
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            if path.exists():
                with _rejection_noted():
                    log(journal.run_id, str(path), entry["folder"] or None)
            journal.artifacts.advance(offset)

    def _send(
        self, client: MlflowClient, journal: Journal, kind: str, part: list[tuple[Entry, int]]
    ) -> None:
        """Send entries of one kind; leave out those that MLflow rejects, and warn about each."""
        items = [item for entry, _ in part for item in entry["items"]]
        try:
            _log_batch(client, _id(journal), kind, items)
        except Exception as error:
            if getattr(error, "error_code", "") not in REJECTED:
                raise
            info = client.get_run(_id(journal)).info
            if info.lifecycle_stage == "active":
                _send_one_by_one(client, _id(journal), kind, items)
                return
            # If its whole experiment was deleted, the run is restored with it.
            if store.restore_experiment(client, client.get_experiment(info.experiment_id)):
                _log_batch(client, _id(journal), kind, items)

    def _create(self, client: MlflowClient, journal: Journal, entry: Entry) -> None:
        experiment = store.experiment_id(client, self._root)
        progress = journal.figures.progress
        if progress.may_exist:
            progress.run_id = _find(client, experiment, journal.key)
        if progress.run_id is not None:
            return
        progress.may_exist = True
        journal.figures.save()
        tags = entry["tags"] | {KEY_TAG: journal.key}
        parent = self._parent_id(client, experiment, entry["parent"])
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, entry["time"], tags, entry["name"])
        progress.run_id = run.info.run_id

    def _parent_id(self, client: MlflowClient, experiment: str, parent: str | None) -> str | None:
        """Return MLflow's id of a parent, which is given as that id or as the key of a journal."""
        if parent is None or "-" not in parent:
            return parent
        found = _find(client, experiment, parent)
        if found is None and (self._root / QUEUE / parent).exists():
            self._adopt_abandoned()
            for journal in self.journals:
                if journal.key == parent:
                    self._deliver_figures(client, journal)
                    return journal.run_id
            raise ParentPending(f"the parent {parent} is not delivered yet")
        return found

    def _tag_family(self, client: MlflowClient, journal: Journal, tags: dict[str, str]) -> None:
        """Tag a run and those of its children that have finished."""
        self._adopt_abandoned()  # children that could not deliver everything themselves
        children = [other for other in self.journals if other.key > journal.key]
        failure = self._each(partial(self._deliver_figures, client), children)
        if failure is not None:
            raise failure
        run_id = _id(journal)
        experiment = client.get_run(run_id).info.experiment_id
        runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
        finished = [run.info.run_id for run in runs if run.info.status == "FINISHED"]
        for member in (run_id, *finished):
            for key, value in tags.items():
                client.set_tag(member, key, value)

    def _adopt_abandoned(self) -> None:
        """Take over the journals of processes that have ended."""
        own = {journal.key for journal in self.journals}
        for journal in abandoned_journals(self._root, store.store_name(self._root), own):
            if not journal.is_ended:  # as after `kill -9`
                ended = int(journal.figures.path.stat().st_mtime * 1000)
                journal.figures.add({"do": "end", "status": "KILLED", "time": ended})
            with self._changed:
                self._journals[journal.key] = journal
                self._is_due = True


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
    found = Courier(root)
    found._adopt_abandoned()
    journals = found.journals
    if journals:
        found.add(journals[0])
        found.wait(journals, seconds)
    return len([journal for journal in journals if journal.folder.exists()]), found.error


def _log_batch(client: MlflowClient, run_id: str, kind: str, items: list[list[Any]]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    made: dict[str, Any] = {"metrics": Metric, "params": Param, "tags": RunTag}
    client.log_batch(run_id, **{kind: [made[kind](*item) for item in items]})


def _send_one_by_one(client: MlflowClient, run_id: str, kind: str, items: list[list[Any]]) -> None:
    """Send halves of a batch that MLflow rejects, and halves of these, down to the rejected item."""
    if len(items) == 1:
        with _rejection_noted():
            _log_batch(client, run_id, kind, items)
        return
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        try:
            _log_batch(client, run_id, kind, half)
        except Exception as error:
            if getattr(error, "error_code", "") not in REJECTED:
                raise
            _send_one_by_one(client, run_id, kind, half)


@contextlib.contextmanager
def _rejection_noted() -> Iterator[None]:
    """Warn if MLflow rejects a request, and go on."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") not in REJECTED:
            raise
        logger.warning("MLflow refuses this, so it is left out: %s", redacted(first_line(error)))


def _parts(entries: list[tuple[Entry, int]], limit: int) -> Iterator[list[tuple[Entry, int]]]:
    """Yield runs of entries that have at most `limit` items together."""
    part: list[tuple[Entry, int]] = []
    size = 0
    for entry, offset in entries:
        length = len(entry["items"])
        if part and size + length > limit:
            yield part
            part, size = [], 0
        part.append((entry, offset))
        size += length
    if part:
        yield part


def _find(client: MlflowClient, experiment: str, key: str) -> str | None:
    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None


def _id(journal: Journal) -> str:
    assert journal.run_id is not None
    return journal.run_id


def _is_about_one_run(error: Exception) -> bool:
    """Return whether the store answers, so that other runs can be delivered."""
    status = getattr(error, "get_http_status_code", None)
    return isinstance(error, ParentPending) or (status is not None and status() < 500)
