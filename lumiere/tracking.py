"""What a run was and what came out of it, in MLflow. The only module that imports MLflow.

A pipeline run is one parent run; every stage is a child of it. A stage learns its parent's id from
`LUMIERE_PARENT_RUN_ID`; never from `MLFLOW_RUN_ID`, which makes the first child overwrite its parent.

The tag `dvc_lock_md5` names the `dvc.lock` in which the stage is recorded. DVC writes it after the stage, so the
parent sets it, on the runs that finished; a stage that plain `dvc repro` starts has no parent, and so no such tag.

Environment:
    MLFLOW_TRACKING_URI: the store; by default SQLite in `.lumiere/` of the project.
    LUMIERE_TRACKING: `off` switches every call into a no-op.
    LUMIERE_PARENT_RUN_ID: the run of which a stage's run becomes a child.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lumiere.locks import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_VARIABLE = "LUMIERE_PARENT_RUN_ID"
EXPERIMENT = "lumiere"
FLUSH_EVERY = 200  # metrics: single writes to SQLite cost 70 ms each, a batch costs one
CLOCK_SECONDS = (
    2.0  # start times are counted from the machine's start, which clock corrections move
)
FLUSH_SECONDS = 5.0  # so that a curve can be watched while it grows
CODE = ("lumiere", "stages", "flows")
MAX_PARAM_LENGTH = 6000  # MLflow's limit, characters

logger = logging.getLogger(__name__)


class Run:
    """One MLflow run that is being written; without a `run_id` it swallows everything."""

    def __init__(
        self, client: MlflowClient | None = None, run_id: str | None = None, strict: bool = False
    ) -> None:
        """`strict` raises MLflow's errors instead of warning once: for the flow's start only."""
        self.run_id = run_id
        self._client = client
        self._strict = strict
        self._metrics: list[tuple[str, float, int, int]] = []
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()
        self._warned = False

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append one point per metric; written in batches, at the latest when the run ends."""
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
        """Store a file (an mp4 plays in the UI when it is H.264, yuv420p, faststart), or a whole folder."""
        path = Path(path)
        log = "log_artifacts" if path.is_dir() else "log_artifact"
        self._attempt(
            lambda client, run_id: getattr(client, log)(run_id, str(path), folder or None)
        )

    def log_dict(self, values: Any, name: str) -> None:
        """Store `values` as a JSON artifact called `name`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            path.write_text(
                json.dumps(values, indent=2, sort_keys=True, default=str), encoding="utf-8"
            )
            self.log_artifact(path, str(Path(name).parent) if Path(name).parent != Path() else "")

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags; values become text."""
        if self.run_id is None:
            return
        from mlflow.entities import RunTag

        items = [RunTag(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in tags.items()]
        self._attempt(partial(_log_batch, tags=items))

    def flush(self) -> None:
        """Write the buffered metrics."""
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
        """Close the run with MLflow's word for how it ended: FINISHED, FAILED or KILLED."""
        self.flush()
        self._attempt(lambda client, run_id: client.set_terminated(run_id, status=status))

    def _attempt(self, action: Callable[[MlflowClient, str], Any]) -> None:
        """A broken store costs a warning, never a night of training."""
        if self._client is None or self.run_id is None:
            return
        try:
            action(self._client, self.run_id)
        except Exception as error:
            if self._strict:
                raise
            if not self._warned:
                logger.warning("MLflow cannot be written; going on without: %s", error)
                self._warned = True


def _log_batch(client: MlflowClient, run_id: str, **batch: Any) -> None:
    client.log_batch(run_id, **batch)


def _tag_family(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Tag a run and those of its children that have finished."""
    experiment = client.get_run(run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    finished = [child.info.run_id for child in children if child.info.status == "FINISHED"]
    for one, (key, value) in itertools.product([run_id, *finished], tags.items()):
        client.set_tag(one, key, value)


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """The MLflow run of one stage: a child of `LUMIERE_PARENT_RUN_ID` if set, else a run by itself.

    Ends as FINISHED, as FAILED on an exception, as KILLED on Ctrl-C or SIGTERM. Only the first rank of a
    distributed run writes. MLflow's own failures never reach the caller.

    Args:
        stage: the stage's name, also the run's name.
        params: its resolved section of params.yaml, nested.
    """
    run = Run()
    if is_on() and os.environ.get("RANK", "0") == "0":
        try:
            run = _create_run(
                project_root(), stage, {"stage": stage}, os.environ.get(PARENT_VARIABLE)
            )
        except Exception as error:
            logger.warning("MLflow cannot be reached; going on without: %s", error)
    run.log_params(params)
    with _ended(run):
        yield run


@contextlib.contextmanager
def pipeline_run(root: Path, params: Mapping[str, Any]) -> Iterator[Run]:
    """The parent run of one pipeline run, with `params.yaml` and `dvc.lock` beside the stages' runs.

    Raises:
        Exception: MLflow's own, when the store cannot be opened: better before the work than after it.
    """
    if not is_on():
        yield Run()
        return
    _close_abandoned_runs(root)
    run = _create_run(
        root, f"pipeline-{time.strftime('%Y%m%d-%H%M%S')}", {"stage": "pipeline"}, None, strict=True
    )
    run.log_dict(params, "params.json")
    run._strict = False
    with _ended(run):
        try:
            yield run
        finally:
            lock = root / "dvc.lock"
            if lock.exists():
                run.log_artifact(lock)
                digest = hashlib.md5(lock.read_bytes()).hexdigest()
                run._attempt(partial(_tag_family, tags={"dvc_lock_md5": digest}))


def log_cached_stage(
    root: Path,
    parent_id: str | None,
    stage: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Record a stage that DVC had no reason to run, with the figures of its earlier run."""
    if not is_on():
        return
    try:
        run = _create_run(root, stage, {"stage": stage, "cached": "true"}, parent_id)
    except Exception as error:
        logger.warning("MLflow cannot be reached; going on without: %s", error)
        return
    run.log_params(params)
    run.log_metrics(metrics)
    run.end()


def is_on() -> bool:
    """Whether runs are recorded at all."""
    return os.environ.get("LUMIERE_TRACKING", "on").lower() not in {"off", "0", "false"}


def project_root() -> Path:
    """The nearest folder with a `dvc.yaml` at or above the current one, else the current one."""
    here = Path.cwd()
    return next(
        (folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), here
    )


def tracking_uri(root: Path) -> str:
    """Where runs are stored. Absolute, because SQLite's own default depends on the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/.lumiere/mlflow.db"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"steps": 3}} -> {"optim.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _client(root: Path) -> MlflowClient:
    """A client whose store is initialised: once, under a lock, as concurrent migrations of SQLite crash."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # late: it reads the two variables above, and takes a second

    logging.getLogger("alembic").setLevel(
        logging.WARNING
    )  # says one line for each of 60 migrations
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        client = MlflowClient(tracking_uri(root))
        client.get_experiment_by_name(EXPERIMENT)
    return client


def _experiment_id(client: MlflowClient, root: Path) -> str:
    """The experiment's id. The embedded store keeps artifacts beside it.

    MLflow stores absolute artifact paths, so a folder that was copied or moved with its store would write
    into the old place: the old experiment is then set aside under another name.
    """
    location = (
        None
        if os.environ.get("MLFLOW_TRACKING_URI")
        else (root.resolve() / ".lumiere" / "mlartifacts").as_uri()
    )
    with exclusive(root / ".lumiere" / "mlflow.lock"):
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and location is not None and found.artifact_location != location:
            client.rename_experiment(
                found.experiment_id, f"{EXPERIMENT} until {time.strftime('%Y-%m-%d %H:%M:%S')}"
            )
            found = None
        return (
            found.experiment_id
            if found
            else client.create_experiment(EXPERIMENT, artifact_location=location)
        )


def _create_run(
    root: Path, name: str, tags: dict[str, str], parent_id: str | None, strict: bool = False
) -> Run:
    client = _client(root)
    parent = {"mlflow.parentRunId": parent_id} if parent_id else {}
    origin = {"mlflow.source.name": tags["stage"], "host": socket.gethostname()} | _process_tags()
    run = client.create_run(
        _experiment_id(client, root),
        run_name=name,
        tags=tags | parent | origin | _git_tags(root),
    )
    return Run(client, run.info.run_id, strict=strict)


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End the run as the block ended; SIGTERM, which Python would die of silently, becomes SystemExit."""
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
    """Mark runs whose process on this machine is gone as KILLED; a `kill -9` leaves them RUNNING for ever."""
    client = _client(root)
    running = client.search_runs([_experiment_id(client, root)], "attributes.status = 'RUNNING'")
    for run in running:
        if run.data.tags.get("host") == socket.gethostname() and not _is_alive(run.data.tags):
            client.set_terminated(run.info.run_id, status="KILLED")


def _process_tags() -> dict[str, str]:
    """This process; the time of its start tells it from a later one with the same number."""
    return {"pid": str(os.getpid()), "pid_started": str(psutil.Process().create_time())}


def _is_alive(tags: Mapping[str, str]) -> bool:
    try:
        started = psutil.Process(int(tags["pid"])).create_time()
        return abs(started - float(tags["pid_started"])) < CLOCK_SECONDS
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False


def _git_tags(root: Path) -> dict[str, str]:
    """The commit that the code came from, and whether code, params or data differed from it."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    # Not dvc.lock, which every run writes. Of new files those that a run may read; outputs are in .gitignore.
    changed = _git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"
    )
    added = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE, "*.yaml")
    is_dirty = bool(changed or added)
    return {
        "mlflow.source.git.commit": commit,
        "git_commit": commit,
        "git_dirty": str(is_dirty).lower(),
    }


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _metric_name(name: str) -> str:
    """MLflow rejects `@`, brackets and the like in metric names."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a nested mapping, flat: what a metrics file holds for a table or a run."""
    flat = {key: float(v) for key, v in flatten(values).items() if isinstance(v, int | float)}
    return {key: value for key, value in flat.items() if math.isfinite(value)}
