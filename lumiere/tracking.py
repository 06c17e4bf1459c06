"""Records runs in MLflow: their params, metrics, artifacts and origin.

This is the only module that imports MLflow.

A run of the pipeline is a parent run, and each of its stages is a child run. A stage gets its
parent's id from `LUMIERE_PARENT_RUN_ID` and never from `MLFLOW_RUN_ID`, which would make the first
child overwrite its parent.

The tag `dvc_lock_md5` names the `dvc.lock` that records the stage. DVC writes that file after the
stage, so the parent sets the tag, on the runs that finished. A stage started by plain `dvc repro`
has no parent and therefore no such tag.

This module buffers metrics itself instead of using MLflow's asynchronous logging (tried with
3.17.2). There, runs that end at the same time in one process shut down each other's queue and lose
points (8 of 240 in a trial), only a queue with one thread keeps the order, and a broken store is
reported once per batch instead of once per run.

Environment:
    MLFLOW_TRACKING_URI: the store; by default SQLite in the project's folder `.lumiere/`.
    LUMIERE_TRACKING: `off` turns every call into a no-op.
    LUMIERE_PARENT_RUN_ID: the parent of a stage's run.
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
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lumiere.errors import DataError, first_line
from lumiere.locks import exclusive
from lumiere.run_origin import git_tags, has_lost_its_process, process_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_VARIABLE = "LUMIERE_PARENT_RUN_ID"
EXPERIMENT = "lumiere"
FLUSH_EVERY = 200  # points; a write to SQLite costs 70 ms, however many points it has
FLUSH_SECONDS = 5.0  # so that users can watch a curve while it grows
MAX_PARAM_LENGTH = 6000  # characters; MLflow's limit
UNREACHABLE = "MLflow cannot be reached; this run is not recorded: %s"

logger = logging.getLogger(__name__)


class Run:
    """One MLflow run that is being written. Without a `run_id`, every call is a no-op."""

    def __init__(self, client: MlflowClient | None = None, run_id: str | None = None) -> None:
        self.run_id = run_id
        self.strict = False  # whether to raise MLflow's errors instead of warning about the first
        self._client = client
        self._metrics: list[tuple[str, float, int, int]] = []
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()
        self._warned = False

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append one point per metric.

        Points are written in batches; the last batch is written when the run ends.
        """
        if self.run_id is None:
            return
        now = int(time.time() * 1000)
        with self._lock:
            self._metrics += [
                (_metric_name(name), float(value), now, step) for name, value in metrics.items()
            ]
            is_due = (
                len(self._metrics) >= FLUSH_EVERY
                or time.monotonic() - self._last_flush > FLUSH_SECONDS
            )
        if is_due:
            self.flush()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write a nested mapping as flat params: `optim.steps`."""
        if self.run_id is None:
            return
        from mlflow.entities import Param

        items = [
            Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in flatten(params).items()
        ]
        for start in range(0, len(items), 100):  # MLflow takes at most 100 in a batch
            self._attempt(partial(_log_batch, params=items[start : start + 100]))

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file or a whole folder.

        An mp4 plays in the UI if it is H.264, yuv420p and faststart.
        """

        def store(client: MlflowClient, run_id: str) -> None:
            if Path(path).is_dir():
                client.log_artifacts(run_id, str(path), folder or None)
            else:
                client.log_artifact(run_id, str(path), folder or None)

        self._attempt(store)

    def log_dict(self, values: Any, name: str) -> None:
        """Store `values` as a JSON artifact called `name`."""
        text = json.dumps(values, indent=2, sort_keys=True, default=str)
        artifact = PurePosixPath(name)
        folder = "" if artifact.parent == PurePosixPath() else str(artifact.parent)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, artifact.name)
            path.write_text(text, encoding="utf-8")
            self.log_artifact(path, folder)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags. Values are converted to text."""
        if self.run_id is None:
            return
        from mlflow.entities import RunTag

        items = [RunTag(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in tags.items()]
        self._attempt(partial(_log_batch, tags=items))

    def tag_family(self, tags: Mapping[str, str]) -> None:
        """Tag this run and those of its children that have finished."""

        def tag(client: MlflowClient, run_id: str) -> None:
            experiment = client.get_run(run_id).info.experiment_id
            children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
            finished = [child.info.run_id for child in children if child.info.status == "FINISHED"]
            for member in (run_id, *finished):
                for key, value in tags.items():
                    client.set_tag(member, key, value)

        self._attempt(tag)

    def flush(self) -> None:
        """Write the buffered points."""
        if self.run_id is None:
            return
        from mlflow.entities import Metric

        with self._lock:
            pending, self._metrics = self._metrics, []
            self._last_flush = time.monotonic()
        for start in range(0, len(pending), 1000):  # MLflow takes at most 1,000 in a batch
            batch = [Metric(*point) for point in pending[start : start + 1000]]
            self._attempt(partial(_log_batch, metrics=batch))

    def end(self, status: str = "FINISHED") -> None:
        """Close the run. `status` is FINISHED, FAILED or KILLED."""
        self.flush()
        self._attempt(lambda client, run_id: client.set_terminated(run_id, status=status))

    def _attempt(self, action: Callable[[MlflowClient, str], Any]) -> None:
        """Write to the store.

        If the store is broken, warn once, because a training must not fail for that reason.
        """
        if self._client is None or self.run_id is None:
            return
        try:
            action(self._client, self.run_id)
        except Exception as error:
            if self.strict:
                raise
            if not self._warned:
                logger.warning("MLflow cannot be written to; this run is not recorded: %s", error)
                self._warned = True


def _log_batch(client: MlflowClient, run_id: str, **batch: Any) -> None:
    client.log_batch(run_id, **batch)


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """Record one stage, as a child of the run in `LUMIERE_PARENT_RUN_ID` if that is set.

    The run ends as FINISHED, as FAILED on an exception, or as KILLED on Ctrl-C or SIGTERM. Only the
    first rank of a distributed training writes. Failures of MLflow never reach the caller.

    Args:
        stage: the name of the stage and of its run.
        params: the stage's resolved section of params.yaml, nested.
    """
    run = Run()
    if is_on() and os.environ.get("RANK", "0") == "0":
        try:
            run = _create_run(
                project_root(), stage, {"stage": stage}, os.environ.get(PARENT_VARIABLE)
            )
        except Exception as error:
            logger.warning(UNREACHABLE, error)
    run.log_params(params)
    with _ended(run):
        yield run


@contextlib.contextmanager
def pipeline_run(root: Path, params: Mapping[str, Any]) -> Iterator[Run]:
    """Record one pipeline run, the parent of its stages' runs, with all params and `dvc.lock`.

    Raises:
        DataError: if the store cannot be opened or written to, before any work is done.
    """
    if not is_on():
        yield Run()
        return
    run = _begin_pipeline_run(root, params)
    with _ended(run):
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
        _close_abandoned_runs(root)
        run = _create_run(root, name, {"stage": "pipeline"}, None)
        run.strict = True
        run.log_dict(params, "params.json")
        run.strict = False
    except Exception as error:  # MLflow, SQLAlchemy and the network raise errors of many kinds
        address = re.sub(r"//[^/@]*@", "//", tracking_uri(root))  # without a password
        raise DataError(
            f"MLflow's store {address} cannot be used ({first_line(error)}); correct "
            "MLFLOW_TRACKING_URI, or set LUMIERE_TRACKING=off to record nothing"
        ) from error
    return run


def log_cached_stage(
    root: Path,
    parent_id: str | None,
    stage: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Record a stage that DVC did not need to run, with the metrics of its earlier run."""
    if not is_on():
        return
    try:
        run = _create_run(root, stage, {"stage": stage, "cached": "true"}, parent_id)
    except Exception as error:
        logger.warning(UNREACHABLE, error)
        return
    run.log_params(params)
    run.log_metrics(metrics)
    run.end()


def is_on() -> bool:
    """Return whether runs are recorded."""
    return os.environ.get("LUMIERE_TRACKING", "on").lower() not in {"off", "0", "false"}


def project_root() -> Path:
    """Return the nearest folder with a `dvc.yaml` at or above the current one, else the current
    one.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    return here


def tracking_uri(root: Path) -> str:
    """Return the address of the store. It is absolute: MLflow's default depends on the current
    folder.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/.lumiere/mlflow.db"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping: {"optim": {"steps": 3}} becomes {"optim.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _client(root: Path) -> MlflowClient:
    """Make a client of the store, and initialise the store if necessary.

    A lock lets one process initialise it: concurrent migrations crash.
    """
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # late: it reads the two variables above and takes a second

    for talkative in ("alembic", "mlflow.store.db.utils"):  # a line for each of 60 migrations
        logging.getLogger(talkative).setLevel(logging.WARNING)
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        client = MlflowClient(tracking_uri(root))
        client.get_experiment_by_name(EXPERIMENT)
    return client


def _experiment_id(client: MlflowClient, root: Path) -> str:
    """Return the experiment's id. The embedded store keeps its artifacts beside it.

    MLflow stores absolute artifact paths, so the store of a copied or moved folder would write into
    the old place. In that case the old experiment is renamed and a new one begins.
    """
    location = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        location = (root.resolve() / ".lumiere" / "mlartifacts").as_uri()
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return client.create_experiment(EXPERIMENT, artifact_location=location)
        if location is None or experiment.artifact_location == location:
            return experiment.experiment_id
        old_name = f"{EXPERIMENT} until {time.strftime('%Y-%m-%d %H:%M:%S')}"
        client.rename_experiment(experiment.experiment_id, old_name)
        return client.create_experiment(EXPERIMENT, artifact_location=location)


def _create_run(root: Path, name: str, tags: dict[str, str], parent_id: str | None) -> Run:
    client = _client(root)
    parent = {"mlflow.parentRunId": parent_id} if parent_id else {}
    origin = {"mlflow.source.name": tags["stage"]} | process_tags()
    run = client.create_run(
        _experiment_id(client, root),
        run_name=name,
        tags=tags | parent | origin | git_tags(root),
    )
    return Run(client, run.info.run_id)


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End the run as the block ends.

    Inside the block, SIGTERM raises SystemExit; by default it would end Python at once.
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
        run.end(status)


def _raise_exit(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _close_abandoned_runs(root: Path) -> None:
    """Mark runs as KILLED if their process on this machine is gone, as it is after `kill -9`."""
    client = _client(root)
    running = client.search_runs([_experiment_id(client, root)], "attributes.status = 'RUNNING'")
    for run in running:
        if has_lost_its_process(run.data.tags):
            client.set_terminated(run.info.run_id, status="KILLED")


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
