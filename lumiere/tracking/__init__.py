"""Records runs in MLflow: their params, metrics, artifacts and origin.

This package is the only importer of MLflow.

A run of the pipeline is a parent run, and each of its stages is a child run. A stage gets its
parent from `LUMIERE_PARENT_RUN_ID` and never from `MLFLOW_RUN_ID`, which would make the first child
overwrite its parent.

What a run records goes to a journal on disk first (`lumiere.tracking.journal`), and a thread
carries it to MLflow (`lumiere.tracking.delivery`). So no step waits for a server or a database. If
MLflow does not answer, the journal keeps everything, and a later process delivers it.

The tag `dvc_lock_md5` names the `dvc.lock` that records the stage. DVC writes that file after the
stage, so the parent sets the tag, on the runs that finished. A stage started by plain `dvc repro`
has no parent and therefore no such tag.

Environment:
    MLFLOW_TRACKING_URI: the store; by default SQLite in the project's folder `.lumiere/`.
    LUMIERE_TRACKING: `off` turns every call into a no-op.
    LUMIERE_PARENT_RUN_ID: the parent of a stage's run: MLflow's id of it, or the key of its journal
        if MLflow has not created it yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lumiere.addresses import redacted
from lumiere.errors import DataError, ParamsError, first_line
from lumiere.run_origin import experiment_tags, git_patch, git_tags, process_tags
from lumiere.tracking import store
from lumiere.tracking.delivery import courier
from lumiere.tracking.journal import QUEUE, Journal, begin_journal
from lumiere.tracking.store import EXPERIMENT, tracking_uri

__all__ = [
    "EXPERIMENT",
    "PARENT_VARIABLE",
    "Run",
    "flatten",
    "is_on",
    "log_cached_stage",
    "numbers",
    "pipeline_run",
    "project_root",
    "record_with_every_run",
    "stage_run",
    "tracking_uri",
]

PARENT_VARIABLE = "LUMIERE_PARENT_RUN_ID"
MAX_PARAM_LENGTH = 6000  # characters; MLflow's limit
WAKE_EVERY = 200  # points; a write to SQLite costs 70 ms, however many points it has

# How many seconds the end of a run waits for MLflow, by its status. A stage has 10 seconds between
# SIGTERM and SIGKILL, which loses nothing of the journal.
STAGE_PATIENCE, PIPELINE_PATIENCE, KILLED_PATIENCE = 10.0, 60.0, 5.0
FAILING_PATIENCE = 1.0  # of a stage, if MLflow did not answer lately; the flow delivers the rest
START_PATIENCE = 60.0  # a new database takes up to half a minute on a busy machine
SERVER_START_PATIENCE = 5.0  # a server is there or not

logger = logging.getLogger(__name__)

_shared_params: dict[str, Any] = {}


def record_with_every_run(params: Mapping[str, Any]) -> None:
    """Record these params with each stage's run of this process, besides its own section."""
    _shared_params.update(params)


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
    def reference(self) -> str | None:
        """What `LUMIERE_PARENT_RUN_ID` of a child is set to."""
        return None if self._journal is None else self._journal.run_id or self._journal.key

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to deliver something failed."""
        if self._journal is None or self._root is None:
            return False
        return courier(self._root).error is not None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append one point per metric."""
        now = int(time.time() * 1000)
        points = [[_metric_name(name), float(value), now, step] for name, value in metrics.items()]
        self._points += len(points)
        self._add("metrics", urgent=self._points >= WAKE_EVERY, items=points)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write a nested mapping as flat params: `optim.steps`."""
        items = [[key, str(value)[:MAX_PARAM_LENGTH]] for key, value in flatten(params).items()]
        for start in range(0, len(items), 100):  # MLflow takes at most 100 in a batch
            self._add("params", items=items[start : start + 100])

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file or a whole folder as it is now.

        An mp4 plays in the UI if it is H.264, yuv420p and faststart.
        """
        if self._journal is None or self._is_forked:
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

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags. Values are converted to text."""
        items = [[key, str(value)[:MAX_PARAM_LENGTH]] for key, value in tags.items()]
        self._add("tags", items=items)

    def tag_family(self, tags: Mapping[str, str]) -> None:
        """Tag this run and those of its children that have finished."""
        self._add("family", tags=dict(tags))

    def flush(self, seconds: float = STAGE_PATIENCE) -> bool:
        """Wait until MLflow has everything; return whether it has.

        Give up after `seconds`, or as soon as MLflow does not answer.
        """
        if self._journal is None or self._root is None or self._is_forked:
            return True
        return courier(self._root).wait([self._journal], seconds)

    def end(self, status: str = "FINISHED", seconds: float = STAGE_PATIENCE) -> None:
        """Close the run, and wait until MLflow has it, for at most `seconds`.

        Args:
            status: FINISHED, FAILED or KILLED.
            seconds: see `flush`.
        """
        self._add("end", status=status, time=int(time.time() * 1000))
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
        """Whether this is a copy in a forked child, such as a worker that reads clips. The run is
        its parent's.
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


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """Record one stage, as a child of the run in `LUMIERE_PARENT_RUN_ID` if that is set.

    The run ends as FINISHED, as FAILED on an exception, or as KILLED on Ctrl-C or SIGTERM. Only the
    first rank of a distributed training writes. Failures of MLflow never reach the caller, and
    nothing waits for MLflow but the end of the run, for at most `STAGE_PATIENCE` seconds.

    Args:
        stage: the name of the stage and of its run.
        params: the stage's resolved section of params.yaml, nested.
    """
    run = Run()
    if is_on() and os.environ.get("RANK", "0") == "0":
        try:
            parent = os.environ.get(PARENT_VARIABLE)
            tags = {"stage": stage} | git_tags(_workspace())
            run = _begin_run(project_root(), stage, tags, parent)
        except (OSError, ParamsError) as error:
            logger.warning("this run is not recorded in MLflow: %s", error)
    run.log_params({**params, **_shared_params})
    with _ended(run, STAGE_PATIENCE, FAILING_PATIENCE):
        yield run


@contextlib.contextmanager
def pipeline_run(root: Path, params: Mapping[str, Any]) -> Iterator[Run]:
    """Record one pipeline run, the parent of its stages' runs, with all params and `dvc.lock`.

    Raises:
        DataError: if the store cannot be used until a person changes something; before any work is
            done. A server that does not answer is a warning.
    """
    if not is_on():
        yield Run()
        return
    run = _begin_pipeline_run(root, params)
    with _ended(run, PIPELINE_PATIENCE, PIPELINE_PATIENCE):
        try:
            yield run
        finally:
            lock = root / "dvc.lock"
            if lock.exists():
                run.log_artifact(lock)
                digest = hashlib.md5(lock.read_bytes()).hexdigest()
                run.tag_family({"dvc_lock_md5": digest})


def _begin_pipeline_run(root: Path, params: Mapping[str, Any]) -> Run:
    name = f"pipeline-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        run = _begin_run(root, name, {"stage": "pipeline"} | git_tags(root), None)
    except OSError as error:
        raise DataError(f"{root / QUEUE}: cannot be written ({first_line(error)})") from error
    run.log_params(params)
    run.log_dict(params, "params.json")
    patch = git_patch(root)
    if patch:
        run.log_text(patch, "uncommitted.patch")
    run._add("close abandoned")
    is_server = tracking_uri(root).startswith(("http:", "https:"))
    if not run.flush(SERVER_START_PATIENCE if is_server else START_PATIENCE):
        failure = courier(root).error
        problem = None if failure is None else store.lasting_problem(failure, root)
        if problem is not None:
            run.discard()
            raise problem
        logger.warning(
            "MLflow at %s does not answer yet; this run is recorded in %s and delivered later",
            redacted(tracking_uri(root)),
            QUEUE,
        )
    return run


def log_cached_stage(
    root: Path,
    parent: str | None,
    stage: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Record a stage that DVC did not need to run, with the metrics of its earlier run.

    Returns at once; the end of the parent waits for MLflow.
    """
    if not is_on():
        return
    try:
        tags = {"stage": stage, "cached": "true"} | git_tags(root)
        run = _begin_run(root, stage, tags, parent)
    except OSError as error:
        logger.warning("the cached stage %s is not recorded in MLflow: %s", stage, error)
        return
    run.log_params(params)
    run.log_metrics(metrics)
    run._add("end", status="FINISHED", time=int(time.time() * 1000))


def is_on() -> bool:
    """Return whether runs are recorded."""
    return os.environ.get("LUMIERE_TRACKING", "on").lower() not in {"off", "0", "false"}


def project_root() -> Path:
    """Return the project's folder, which has the store.

    DVC runs queued experiments in a temporary copy of the project and deletes it afterwards; the
    project itself is returned then.
    """
    workspace = _workspace()
    original = os.environ.get("DVC_ROOT")  # DVC sets it for the commands of stages
    if original:
        copies = Path(original).resolve() / ".dvc" / "tmp" / "exps"
        if workspace.is_relative_to(copies):
            within = workspace.relative_to(copies).parts[1:]  # the first part names the copy
            return Path(original).resolve().joinpath(*within)
    return workspace


def _workspace() -> Path:
    """Return the nearest folder with a `dvc.yaml` at or above the current one, else the current
    one.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    return here


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping: {"optim": {"steps": 3}} becomes {"optim.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _begin_run(root: Path, name: str, tags: dict[str, str], parent: str | None) -> Run:
    """Begin a run's journal and its delivery.

    Raises:
        OSError: if the journal cannot be written.
        ParamsError: if the project's path cannot be part of a database's address.
    """
    store.import_mlflow(tracking_uri(root))
    journal = begin_journal(root, store.store_name(root))
    origin = {"mlflow.source.name": tags["stage"]} | process_tags() | experiment_tags()
    journal.figures.add(
        {
            "do": "create",
            "name": name,
            "tags": tags | origin,
            "parent": parent,
            "time": int(time.time() * 1000),
        }
    )
    courier(root).add(journal)
    return Run(root, journal)


@contextlib.contextmanager
def _ended(run: Run, patience: float, failing_patience: float) -> Iterator[None]:
    """End the run as the block ends.

    Inside the block, SIGTERM raises SystemExit; by default it would end Python at once.

    Args:
        run: the run.
        patience: how many seconds the end waits for MLflow.
        failing_patience: the same, if MLflow did not answer lately.
    """
    status = "FINISHED"
    can_listen = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM) if can_listen else None
    if previous is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise_exit)
    try:
        yield
    except Exception:
        status = "FAILED"
        raise
    except BaseException:  # Ctrl-C, SIGTERM, Prefect's cancellation
        status = "KILLED"
        raise
    finally:
        if previous is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        patience = failing_patience if run.is_failing else patience
        run.end(status, min(patience, KILLED_PATIENCE) if status == "KILLED" else patience)


def _raise_exit(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _metric_name(name: str) -> str:
    """Replace what MLflow rejects in the name of a metric, such as `@` and brackets."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a nested mapping, and return its finite numbers."""
    return {
        key: float(value)
        for key, value in flatten(values).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
