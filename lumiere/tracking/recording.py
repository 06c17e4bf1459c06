"""Records the runs of stages and of the pipeline: how each begins, ends and belongs together."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumiere.addresses import redacted
from lumiere.errors import DataError, ParamsError, first_line
from lumiere.run_origin import (
    experiment_tags,
    git_patch,
    git_tags,
    package_tags,
    process_tags,
)
from lumiere.tracking import store
from lumiere.tracking.clock import now_in_ms
from lumiere.tracking.courier import courier
from lumiere.tracking.journal import QUEUE, begin_journal
from lumiere.tracking.new_database import expect_database, is_due
from lumiere.tracking.origins import LOCK, PIPELINE
from lumiere.tracking.project import is_on, project_root, workspace
from lumiere.tracking.run_record import Run
from lumiere.tracking.store import tracking_uri
from lumiere.tracking.system_metrics import system_metrics_recorded

PARENT_VARIABLE = "LUMIERE_PARENT_RUN_ID"

# How many seconds the end of a run waits for MLflow, by its status. A stage has 10 seconds between
# SIGTERM and SIGKILL, mostly to save its state. What it leaves in the journal, the flow delivers.
STAGE_PATIENCE, PIPELINE_PATIENCE = 10.0, 60.0
KILLED_STAGE_PATIENCE, KILLED_PIPELINE_PATIENCE = 2.0, 5.0
FAILING_PATIENCE = 1.0  # of a stage, if MLflow did not answer lately; the flow delivers the rest
START_PATIENCE = 60.0  # a new database takes up to half a minute on a busy machine
SERVER_START_PATIENCE = 5.0  # a server is there or not

logger = logging.getLogger("lumiere.tracking")

_shared_params: dict[str, Any] = {}


def record_with_every_run(params: Mapping[str, Any]) -> None:
    """Record these params with each stage's run of this process, besides its own section."""
    _shared_params.update(params)


def prepare(root: Path) -> None:
    """Import what the first run of this process needs, which takes seconds.

    Raises:
        ParamsError: if the project's path cannot be part of a database's address.
    """
    store.import_mlflow(tracking_uri(root))


@contextlib.contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """Record one stage, as a child of the run in `LUMIERE_PARENT_RUN_ID` if that is set.

    The run ends as FINISHED, as FAILED on an exception, or as KILLED on Ctrl-C or SIGTERM. Only the
    first rank of a distributed training writes. Failures of MLflow never reach the caller, and
    nothing waits for MLflow but the end of the run, for at most `STAGE_PATIENCE` seconds.

    The load of the machine is recorded too.

    Args:
        stage: the name of the stage and of its run.
        params: the stage's resolved section of params.yaml, nested.
    """
    run = Run()
    if is_on() and os.environ.get("RANK", "0") == "0":
        try:
            parent = os.environ.get(PARENT_VARIABLE)
            tags = {"stage": stage, "cached": "false"} | git_tags(workspace())
            run = _begin_run(project_root(), stage, tags, parent)
            if not parent:  # as plain `dvc repro` starts it; otherwise the parent has the patch
                run.log_patch(git_patch(workspace()))
        except (OSError, ParamsError) as error:
            logger.warning("this run is not recorded in MLflow: %s", error)
    run.log_params({**params, **_shared_params})
    patience = Patience(STAGE_PATIENCE, FAILING_PATIENCE, KILLED_STAGE_PATIENCE)
    with _ended(run, patience), system_metrics_recorded(run):
        yield run


@contextlib.contextmanager
def pipeline_run(root: Path, params: Mapping[str, Any], name: str = "") -> Iterator[Run]:
    """Record one pipeline run, the parent of its stages' runs, with all params and `dvc.lock`.

    Args:
        root: the project's folder.
        params: all params in effect, nested.
        name: the name of the run; by default "pipeline" and the time.

    Raises:
        DataError: if the store cannot be used until a person changes something; before any work is
            done. A server that does not answer is a warning.
    """
    if not is_on():
        yield Run()
        return
    run = _begin_pipeline_run(root, params, name or f"pipeline {time.strftime('%Y-%m-%d %H:%M')}")
    patience = Patience(PIPELINE_PATIENCE, PIPELINE_PATIENCE, KILLED_PIPELINE_PATIENCE)
    with _ended(run, patience):
        try:
            yield run
        finally:
            lock = root / LOCK
            if lock.exists():
                run.log_artifact(lock)
                digest = hashlib.md5(lock.read_bytes()).hexdigest()
                run.tag_family({"dvc_lock_md5": digest})


def _begin_pipeline_run(root: Path, params: Mapping[str, Any], name: str) -> Run:
    try:
        run = _begin_run(root, name, {"stage": PIPELINE} | git_tags(root), None)
    except OSError as error:
        raise DataError(f"{root / QUEUE}: cannot be written ({first_line(error)})") from error
    run.log_params(params)
    run.log_dict(params, "params.json")
    run.log_patch(git_patch(root))
    run.close_abandoned()
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
    git: Mapping[str, str] | None = None,
) -> None:
    """Record a stage that DVC did not need to run, with the metrics of its earlier run.

    Returns at once; the end of the parent waits for MLflow. `git` has the tags of the commit; by
    default git is asked for them, which starts three processes.
    """
    if not is_on():
        return
    try:
        tags = {"stage": stage, "cached": "true"} | dict(git_tags(root) if git is None else git)
        run = _begin_run(root, stage, tags, parent)
    except OSError as error:
        logger.warning("the cached stage %s is not recorded in MLflow: %s", stage, error)
        return
    run.log_params(params)
    run.log_metrics(metrics)
    run.mark_ended("FINISHED")


def _begin_run(root: Path, name: str, tags: dict[str, str], parent: str | None) -> Run:
    """Begin a run's journal and its delivery.

    Raises:
        OSError: if the journal cannot be written.
        ParamsError: if the project's path cannot be part of a database's address.
    """
    store.import_mlflow(tracking_uri(root))
    journal = begin_journal(root, store.store_name(root))
    origin = {"mlflow.source.name": tags["stage"]} | process_tags() | package_tags()
    origin |= experiment_tags()
    journal.figures.add(
        {
            "do": "create",
            "name": name,
            "tags": tags | origin,
            "parent": parent,
            "time": now_in_ms(),
        }
    )
    expect_database(store.sqlite_path(root))
    courier(root).add(journal)
    return Run(root, journal)


class Patience(NamedTuple):
    """How many seconds the end of a run waits for MLflow."""

    usual: float
    failing: float  # if MLflow did not answer lately
    killed: float  # at most, after Ctrl-C or SIGTERM


@contextlib.contextmanager
def _ended(run: Run, patience: Patience) -> Iterator[None]:
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
        if not hasattr(sys, "ps1"):  # an interactive session goes on
            # As the process ends, the collector would look at all objects of all packages again.
            gc.freeze()
        raise
    finally:
        if previous is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        seconds = patience.failing if run.is_failing else patience.usual
        if is_due():  # or every short stage of a busy machine would begin the database in vain
            seconds = START_PATIENCE
        run.end(status, min(seconds, patience.killed) if status == "KILLED" else seconds)


def _raise_exit(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
