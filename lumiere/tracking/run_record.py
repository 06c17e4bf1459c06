"""One run that is being recorded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lumiere.tracking.clock import now_in_ms
from lumiere.tracking.courier import courier
from lumiere.tracking.journal import QUEUE, Journal
from lumiere.tracking.origins import PATCH
from lumiere.tracking.values import flatten, metric_name, shortened

WAKE_EVERY = 200  # points; a write to SQLite costs 70 ms, however many points it has
PATIENCE = 10.0  # seconds that the end of a run waits for MLflow

logger = logging.getLogger("lumiere.tracking")


class Run:
    """One run that is being recorded. Without a journal, every call is a no-op.

    A disk that is full does not end a training: the first failure is a warning.
    """

    def __init__(self, root: Path | None = None, journal: Journal | None = None) -> None:
        self._root, self._journal = root, journal
        self._process = os.getpid()
        self._points = 0  # since the delivery was last asked for
        self._has_warned = False

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has created it."""
        return None if self._journal is None else self._journal.run_id

    @property
    def is_recorded(self) -> bool:
        """Return whether calls record anything."""
        return self._journal is not None

    @property
    def reference(self) -> str | None:
        """The value of `LUMIERE_PARENT_RUN_ID` for a child."""
        return None if self._journal is None else self._journal.run_id or self._journal.key

    @property
    def is_failing(self) -> bool:
        """Return whether the last attempt to deliver something failed."""
        if self._journal is None or self._root is None:
            return False
        return courier(self._root).error is not None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append one point per metric."""
        now = now_in_ms()
        points = [[metric_name(name), float(value), now, step] for name, value in metrics.items()]
        self._points += len(points)
        self._add("metrics", urgent=self._points >= WAKE_EVERY, items=points)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write a nested mapping as flat params: `optim.steps`."""
        items = [[key, shortened(value)] for key, value in flatten(params).items()]
        for start in range(0, len(items), 100):  # MLflow takes at most 100 in a batch
            self._add("params", items=items[start : start + 100])

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file or a whole folder as it is now.

        An mp4 plays in the UI if it is H.264, yuv420p and faststart. A folder that leads out of the
        run's artifacts is refused with a warning.
        """
        if self._journal is None or self._is_forked:
            return
        parts = PurePosixPath(folder).parts
        if ".." in parts or "/" in parts:  # MLflow would refuse it, again at each try
            logger.warning("%s: leads out of the artifacts of the run; it is left out", folder)
            return
        with self._warning_once():
            entry = {"do": "artifact", "file": self._journal.copy(Path(path)), "folder": folder}
            self._journal.artifacts.add(entry)
            self._wake()

    def log_dict(self, values: Any, name: str) -> None:
        """Store `values` as a JSON artifact called `name`."""
        self.log_text(json.dumps(values, indent=2, sort_keys=True, default=str), name)

    def log_text(self, text: str, name: str) -> None:
        """Store `text` as an artifact called `name`."""
        artifact = PurePosixPath(name)
        folder = "" if artifact.parent == PurePosixPath() else str(artifact.parent)
        with self._warning_once(), tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, artifact.name)
            path.write_text(text, encoding="utf-8")
            self.log_artifact(path, folder)

    def log_patch(self, patch: str) -> None:
        """Store how tracked files differ from the commit, unless the patch is empty."""
        if patch:
            self.log_text(patch, PATCH)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags. Values are converted to text."""
        items = [[key, shortened(value)] for key, value in tags.items()]
        self._add("tags", items=items)

    def log_inputs(self, inputs: Mapping[str, str], context: str) -> None:
        """Record data sets that the run reads, for MLflow's column Dataset.

        Args:
            inputs: the digest of each, by path.
            context: what they are used for.
        """
        self._add("inputs", items=sorted(inputs.items()), context=context)

    def describe(self, text: str) -> None:
        """Set the description that MLflow shows above the run, in Markdown."""
        self.set_tags({"mlflow.note.content": text})

    def tag_family(self, tags: Mapping[str, str]) -> None:
        """Tag this run and those of its children that have finished."""
        self._add("family", tags=dict(tags))

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until MLflow has everything; return whether it has.

        Give up after `seconds`, or as soon as MLflow does not answer.
        """
        if self._journal is None or self._root is None or self._is_forked:
            return True
        return courier(self._root).wait([self._journal], seconds)

    def close_abandoned(self) -> None:
        """End runs in MLflow whose processes have ended."""
        self._add("close abandoned")

    def mark_ended(self, status: str) -> None:
        """Close the run without waiting for MLflow; `status` as in `end`."""
        self._add("end", status=status, time=now_in_ms())

    def end(self, status: str = "FINISHED", seconds: float = PATIENCE) -> None:
        """Close the run, and wait until MLflow has it, for at most `seconds`.

        Args:
            status: FINISHED, FAILED or KILLED.
            seconds: see `flush`.
        """
        self.mark_ended(status)
        if not self.flush(seconds):
            logger.warning(
                "MLflow does not have all of this run yet; the rest waits in %s, and the next run "
                "delivers it, or `python -m lumiere.tracking`",
                QUEUE,
            )

    def discard(self) -> None:
        """Forget the run, which MLflow does not have yet."""
        if self._journal is not None and self._root is not None:
            courier(self._root).discard(self._journal)
            self._journal = None

    @property
    def _is_forked(self) -> bool:
        """Return whether this is a copy in a forked child, such as a worker that reads clips. The
        run is its parent's.
        """
        return os.getpid() != self._process

    def _add(self, kind: str, urgent: bool = True, **values: Any) -> None:
        if self._journal is None or self._is_forked:
            return
        with self._warning_once():
            self._journal.figures.add({"do": kind, **values})
        if urgent:
            self._wake()

    def _wake(self) -> None:
        self._points = 0
        if self._root is not None:
            courier(self._root).wake()

    @contextlib.contextmanager
    def _warning_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                logger.warning("a part of this run is not recorded in MLflow: %s", error)
                self._has_warned = True
