"""Puts the assembled pipeline into MLflow's model registry: versions, a card, and a champion.

Each new pipeline that was evaluated becomes a version. Its alias `champion` moves only by the rule
of `lumiere.tracking.champion`. Nothing here may fail a run: the next run of the flow tries again.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from lumiere.addresses import redacted
from lumiere.errors import first_line
from lumiere.tracking import champion, store
from lumiere.tracking.project import is_on

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PACKAGE = Path(__file__).resolve().parents[1]
DISTRIBUTION = "lumiere-stunet"
CHAMPION = "champion"
ARTIFACT = "model"  # the folder of the run that has the model
OTHER_MEASUREMENT = "was measured with other settings of the evaluation or other reference clips"
# What a row of a request may say, and MLflow's type for it. Only the prompt is required.
COLUMNS = {
    "prompt": "string",
    "negative_prompt": "string",
    "seed": "long",
    "frames": "long",
    "steps": "long",
    "guidance": "double",
    "motion": "double",
    "smoothing": "double",
    "style": "string",
    "alpha": "double",
    "upscale": "boolean",
}

logger = logging.getLogger("lumiere.tracking")


@dataclass(frozen=True)
class Candidate:
    """A pipeline that was evaluated.

    Attributes:
        run_id: MLflow's id of the run that made or checked it.
        pipeline: the folder of the pipeline.
        digest: DVC's digest of that folder.
        scores: the file with the scores.
        measured: a digest of how they were measured; only scores of equal digests are compared.
        card: what people should know about it, in Markdown.
        tags: further tags of the version, such as the commit.
    """

    run_id: str
    pipeline: Path
    digest: str
    scores: Path
    measured: str
    card: str
    tags: Mapping[str, str]


def register(root: Path, candidate: Candidate, name: str, metric: str) -> str:
    """Register a pipeline, unless the registry has it, and let the rule choose the champion.

    Args:
        root: the project's folder.
        candidate: the pipeline.
        name: the name of the registered model.
        metric: the score that decides.

    Returns:
        What was done, in a sentence; empty if there was nothing to do or tracking is off.
    """
    if not is_on():
        return ""
    try:
        return _register(store.open_store(root), candidate, name, metric)
    except Exception as error:  # MLflow, SQLAlchemy and the network raise many kinds
        reason = redacted(first_line(error))
        logger.warning(
            "the model is not registered in MLflow: %s; the next run tries again", reason
        )
        return ""


def _register(client: MlflowClient, candidate: Candidate, name: str, metric: str) -> str:
    scores_md5 = hashlib.md5(candidate.scores.read_bytes()).hexdigest()
    model_version = _find(client, name, candidate.digest)
    current = {"scores_md5": scores_md5, champion.MEASURED: candidate.measured}
    if model_version is not None and current.items() <= model_version.tags.items():
        return ""
    standings = champion.read_standings(candidate.scores)
    new = champion.choose(standings, metric)
    tags = champion.as_tags(standings)
    if model_version is None:
        tags |= {"pipeline_md5": candidate.digest} | dict(candidate.tags)
        model_version = _create(client, candidate, name, tags)
        done = f"the model is version {model_version.version} of {name} in MLflow's registry"
    else:
        for key, value in tags.items():
            client.set_model_version_tag(name, model_version.version, key, value)
        client.update_model_version(name, model_version.version, candidate.card)
        done = f"version {model_version.version} of {name} was measured again"
    outcome = _choose_champion(client, name, model_version.version, candidate, new, metric)
    # Last, so that a run that fails before is tried again.
    for key in (champion.MEASURED, "scores_md5"):
        client.set_model_version_tag(name, model_version.version, key, current[key])
    return f"{done}; {outcome}"


def _find(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """Return the version of a pipeline, if the registry has it."""
    query = f"name = '{name}' and tags.pipeline_md5 = '{digest}'"
    versions = client.search_model_versions(query, max_results=1)
    return versions[0] if versions else None


def _create(
    client: MlflowClient, candidate: Candidate, name: str, tags: dict[str, str]
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_about(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, ARTIFACT)
        save_model(saved, candidate.pipeline)
        (saved / "README.md").write_text(candidate.card, encoding="utf-8")
        client.log_artifacts(candidate.run_id, str(saved), ARTIFACT)
    location = f"{client.get_run(candidate.run_id).info.artifact_uri}/{ARTIFACT}"
    return client.create_model_version(
        name, location, candidate.run_id, tags, description=candidate.card
    )


def _about(name: str) -> str:
    return (
        "Text-to-video pipelines of this project. Each version is a pipeline that was evaluated; "
        f"`models:/{name}@{CHAMPION}` is the best one. `mlflow models serve -m models:/{name}@{CHAMPION} "
        "--env-manager local` answers a prompt with an mp4."
    )


def save_model(folder: Path, pipeline: Path) -> None:
    """Write a pipeline as a model of MLflow with a signature. It contains the code of this package and
    no pickle.
    """
    store.import_mlflow("")
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [ColSpec(kind, name, name == "prompt") for name, kind in COLUMNS.items()]
    outputs = [ColSpec("string", "video_mp4"), ColSpec("long", "seed")]
    with warnings.catch_warnings():
        # MLflow asks for an example, with which it would load the model and make a video now.
        warnings.filterwarnings("ignore", ".*input example was not provided")
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"pipeline": str(pipeline.resolve())},
            signature=ModelSignature(Schema(inputs), Schema(outputs)),
            pip_requirements=_requirements(),
            code_paths=[str(PACKAGE)],
        )


def _requirements() -> list[str]:
    """Return the packages of this environment that the package needs, with their versions."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # a checkout on the path that is not installed
        return [f"torch=={version('torch')}", f"diffusers=={version('diffusers')}"]
    pins = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            pins.append(f"{requirement.name}=={version(requirement.name)}")
    return pins


def _choose_champion(
    client: MlflowClient,
    name: str,
    number: Any,
    candidate: Candidate,
    new: champion.Standing,
    metric: str,
) -> str:
    """Move the alias if the rule says so; return what happened.

    The description of a version that cannot be compared with the champion says why.
    """
    holder = client.get_registered_model(name).aliases.get(CHAMPION)
    if holder is not None and str(holder) == str(number):
        return "it is the champion"
    if holder is None:
        client.set_registered_model_alias(name, CHAMPION, number)
        return "it is the first champion"
    tags = client.get_model_version(name, holder).tags
    old = champion.from_tags(tags, metric)
    if old is None or tags.get(champion.MEASURED) != candidate.measured:
        why = f"was measured without {metric}" if old is None else OTHER_MEASUREMENT
        note = f"Not compared with version {holder}, the champion at that time, which {why}."
        client.update_model_version(name, number, f"{candidate.card}\n\n{note}")
        return f"version {holder} stays the champion, because it {why}; move the alias by hand"
    compared = f"{metric} {new.shown} against {old.shown}"
    if not champion.is_improvement(new, old):
        return f"version {holder} stays the champion: {compared} is no improvement beyond chance"
    client.set_registered_model_alias(name, CHAMPION, number)
    return f"it replaces version {holder} as the champion: {compared}"
