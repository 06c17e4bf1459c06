"""Reads from MLflow what a run was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.errors import DataError, first_line
from lumiere.run_origin import PACKAGES
from lumiere.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK, PATCH = "dvc.lock", "uncommitted.patch"
PIPELINE = "pipeline"  # the tag `stage` of a run of the pipeline
OF_STAGE = "stage."  # how the tags begin that say how each stage of such a run ended
COMPLETE = ("ran", "cached")


@dataclass(frozen=True)
class Origin:
    """The commit, code and data that a run was made from.

    Attributes:
        stages: the stages that the run was about: its own, or those of the pipeline that it completed.
            Empty if a pipeline run does not say.
        commit: the commit of the checkout.
        patch: how tracked files differed from the commit, as `git_patch` returns it; may be empty.
        lock: the content of `dvc.lock` after the run.
        versions: versions of packages that decide the last bits of the outputs.
    """

    stages: tuple[str, ...]
    commit: str
    patch: str
    lock: str
    versions: dict[str, str]


def read_origin(root: Path, run_id: str) -> Origin:
    """Read the origin of a run of the pipeline, or of one of its stages.

    Raises:
        DataError: if there is no such run, or it does not say enough.
    """
    from mlflow.exceptions import MlflowException

    client = store.open_store(root)
    try:
        run = client.get_run(run_id)
        parent = client.get_run(run.data.tags.get("mlflow.parentRunId", run_id))
    except MlflowException as error:
        raise DataError(
            f"MLflow has no run {run_id} ({first_line(error)}); copy the id from the run's page"
        ) from None
    tags = parent.data.tags
    lock = _read(client, parent.info.run_id, LOCK)
    if "git_commit" not in tags:
        raise DataError(
            f"run {run_id} was made outside of a git repository, so nobody knows its code"
        )
    if not lock:
        raise DataError(
            f"run {run_id} has no dvc.lock, because plain `dvc repro` started it; check out the commit "
            f"{tags['git_commit']}, apply its artifact {PATCH} with `git apply` if it has one, and run "
            f"`dvc repro {run.data.tags.get('stage', '')}`"
        )
    versions = {name: tags[name] for name in (*PACKAGES, "python") if name in tags}
    patch = _read(client, parent.info.run_id, PATCH)
    return Origin(_stages(run.data.tags), tags["git_commit"], patch, lock, versions)


def _stages(tags: Mapping[str, str]) -> tuple[str, ...]:
    if tags.get("stage", PIPELINE) != PIPELINE:
        return (tags["stage"],)
    complete = (name for name in tags if name.startswith(OF_STAGE) and tags[name] in COMPLETE)
    return tuple(name.removeprefix(OF_STAGE) for name in complete)


def _read(client: MlflowClient, run_id: str, name: str) -> str:
    """Return the content of a run's artifact; empty if it has none of this name."""
    if name not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, name, folder)
        return Path(path).read_bytes().decode("utf-8")  # a patch keeps the line ends of its files
