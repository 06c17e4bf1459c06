"""Records runs in MLflow: their params, metrics, artifacts and origin.

This package is the only importer of MLflow.

A run of the pipeline is a parent run, and each of its stages is a child run. A stage gets its
parent from `LUMIERE_PARENT_RUN_ID` and never from `MLFLOW_RUN_ID`, which would make the first child
overwrite its parent.

What a run records goes to a journal on disk first (`lumiere.tracking.journal`), and a thread
carries it to MLflow (`lumiere.tracking.courier`). So no step waits for a server or a database. If
MLflow does not answer, the journal keeps everything, and a later process delivers it.

The tag `dvc_lock_md5` names the `dvc.lock` that records the stage. DVC writes that file after the
stage, so the parent sets the tag, on the runs that finished. A stage started by plain `dvc repro`
has no parent and therefore no such tag.

Environment:
    MLFLOW_TRACKING_URI: the store; by default SQLite in the project's folder `.lumiere/`.
    MLFLOW_DEFAULT_ARTIFACT_ROOT: where the files of runs go, such as `s3://bucket/runs`; by default
        `.lumiere/`.
    LUMIERE_TRACKING: `off` turns every call into a no-op.
    LUMIERE_PARENT_RUN_ID: the parent of a stage's run: MLflow's id of it, or the key of its journal
        if MLflow has not created it yet.
"""

from lumiere.tracking.model_registry import Candidate, register
from lumiere.tracking.project import is_on, project_root
from lumiere.tracking.recording import (
    PARENT_VARIABLE,
    log_cached_stage,
    pipeline_run,
    prepare,
    record_with_every_run,
    stage_run,
)
from lumiere.tracking.run_record import Run
from lumiere.tracking.store import EXPERIMENT, tracking_uri
from lumiere.tracking.values import flatten, numbers

__all__ = [
    "EXPERIMENT",
    "PARENT_VARIABLE",
    "Candidate",
    "Run",
    "flatten",
    "is_on",
    "log_cached_stage",
    "numbers",
    "pipeline_run",
    "prepare",
    "project_root",
    "record_with_every_run",
    "register",
    "stage_run",
    "tracking_uri",
]
