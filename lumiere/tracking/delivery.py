"""Delivers the entries of journals to MLflow, in order, and each once.

Everything sent may be sent again after a lost answer. MLflow keeps one point of equal name, step,
time and value (its primary key), and equal params, tags and files replace each other. Only the
creation of a run needs care: each run has the key of its journal as a tag, by which it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.tracking import batches, store
from lumiere.tracking.journal import QUEUE, Entry, Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "lumiere_key"
UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


class ParentPending(Exception):
    """The run's parent is not in MLflow yet; another process delivers it."""


class Delivery:
    """Delivers journals through one client of the store.

    Args:
        client: the client.
        root: the project's folder.
        all_journals: lists the journals that this process may deliver, oldest first.
    """

    def __init__(
        self, client: MlflowClient, root: Path, all_journals: Callable[[], list[Journal]]
    ) -> None:
        self._client, self._root, self._all_journals = client, root, all_journals

    def each(
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

    def figures(self, journal: Journal) -> None:
        """Deliver everything but the artifacts."""
        for kind, group in groupby(list(journal.figures.pending()), lambda pair: pair[0]["do"]):
            entries = list(group)
            if kind in batches.LIMITS:
                for part in batches.parts(entries, batches.LIMITS[kind]):
                    items = [item for entry, _ in part for item in entry["items"]]
                    self._send(_id(journal), kind, items)
                    journal.figures.advance(part[-1][1])
                continue
            for entry, offset in entries:
                if kind == "create":
                    self._create(journal, entry)
                else:
                    with batches.rejection_noted():
                        self._act(journal, entry)
                journal.figures.advance(offset)

    def artifacts(self, journal: Journal) -> None:
        """Deliver the artifacts, if the run exists."""
        if journal.run_id is None:
            return
        for entry, offset in list(journal.artifacts.pending()):
            path = journal.folder / entry["file"]
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            if path.exists():
                with batches.rejection_noted():
                    log(journal.run_id, str(path), entry["folder"] or None)
            journal.artifacts.advance(offset)

    def _begin_again_if_unknown(self, deliver: Callable[[Journal], None], journal: Journal) -> None:
        """Deliver; if the store does not know the run, begin again, because the journal has all of
        it. This happens if the database was replaced.
        """
        try:
            deliver(journal)
        except Exception as error:
            is_unknown = getattr(error, "error_code", "") in UNKNOWN
            if not is_unknown or journal.has_begun_again:
                raise
            journal.begin_again()
            self.figures(journal)
            deliver(journal)

    def _create(self, journal: Journal, entry: Entry) -> None:
        experiment = store.experiment_id(self._client, self._root)
        progress = journal.figures.progress
        if progress.may_exist:
            progress.run_id = self._find(experiment, journal.key)
        if progress.run_id is not None:
            return
        progress.may_exist = True
        journal.figures.save()
        tags = entry["tags"] | {KEY_TAG: journal.key}
        parent = self._parent_id(experiment, entry["parent"])
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(experiment, entry["time"], tags, entry["name"])
        progress.run_id = run.info.run_id

    def _parent_id(self, experiment: str, parent: str | None) -> str | None:
        """Return MLflow's id of a parent, which is given as that id or as the key of a journal."""
        if parent is None or "-" not in parent:
            return parent
        run_id = self._find(experiment, parent)
        if run_id is None and (self._root / QUEUE / parent).exists():
            for journal in self._all_journals():
                if journal.key == parent:
                    self.figures(journal)
                    return journal.run_id
            raise ParentPending(f"the parent {parent} is not delivered yet")
        return run_id

    def _find(self, experiment: str, key: str) -> str | None:
        """Return MLflow's id of the run with this key, if it has one."""
        text = f"tags.`{KEY_TAG}` = '{key}'"
        runs = self._client.search_runs([experiment], text, max_results=1)
        return runs[0].info.run_id if runs else None

    def _send(self, run_id: str, kind: str, items: list[list[object]]) -> None:
        """Send items of one kind; leave out those that MLflow rejects, and warn about each."""
        try:
            batches.log_batch(self._client, run_id, kind, items)
        except Exception as error:
            if getattr(error, "error_code", "") not in batches.REJECTED:
                raise
            info = self._client.get_run(run_id).info
            if info.lifecycle_stage == "active":
                batches.send_one_by_one(self._client, run_id, kind, items)
                return
            # If its whole experiment was deleted, the run is restored with it.
            experiment = self._client.get_experiment(info.experiment_id)
            if store.restore_experiment(self._client, experiment):
                batches.log_batch(self._client, run_id, kind, items)

    def _act(self, journal: Journal, entry: Entry) -> None:
        """Carry out an entry that is not part of a batch."""
        if entry["do"] == "family":
            self._tag_family(journal, entry["tags"])
        elif entry["do"] == "close abandoned":
            journals = self._all_journals()
            kept = {other.run_id for other in journals if other.run_id is not None}
            store.close_abandoned_runs(self._client, self._root, kept)
        elif entry["do"] == "inputs":
            batches.log_inputs(self._client, _id(journal), entry["items"], entry["context"])
        elif entry["do"] == "end":
            self._client.set_terminated(_id(journal), entry["status"], entry["time"])

    def _tag_family(self, journal: Journal, tags: dict[str, str]) -> None:
        """Tag a run and those of its children that have finished."""
        # Some children could not deliver everything themselves.
        children = [other for other in self._all_journals() if other.is_child_of(journal)]
        failure = self.each(self.figures, children)
        if failure is not None:
            raise failure
        run_id = _id(journal)
        experiment = self._client.get_run(run_id).info.experiment_id
        runs = self._client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
        finished = [run.info.run_id for run in runs if run.info.status == "FINISHED"]
        for member in (run_id, *finished):
            for key, value in tags.items():
                self._client.set_tag(member, key, value)


def _id(journal: Journal) -> str:
    assert journal.run_id is not None
    return journal.run_id


def _is_about_one_run(error: Exception) -> bool:
    """Return whether the store answers, so that other runs can be delivered."""
    status = getattr(error, "get_http_status_code", None)
    return isinstance(error, ParentPending) or (status is not None and status() < 500)
