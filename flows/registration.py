"""Offers the pipeline that a run has measured to MLflow's model registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.lock_file import measurement_digest, output_digests, read_stages
from lumiere import tracking


def register_model(
    root: Path,
    registry: Mapping[str, Any] | None,
    outputs: Iterable[Path],
    run_id: str | None,
    card: str,
    git: Mapping[str, str],
) -> None:
    """Put the assembled pipeline into MLflow's registry if a run measured it, or found that its
    scores are up to date.

    Args:
        root: the project's folder.
        registry: the section `registry` of params.yaml; None registers nothing.
        outputs: what the stages of the run wrote, or have written before.
        run_id: MLflow's id of the run; None if MLflow has not created it.
        card: what people should know about the model, in Markdown.
        git: the tags of the run's commit.
    """
    scores = [path / "scores.json" for path in outputs if (path / "scores.json").is_file()]
    if run_id is None or registry is None or not scores:
        return
    stages = read_stages(root / "dvc.lock")
    digests = output_digests(stages)
    evaluation = scores[0].parent.relative_to(root).as_posix()
    for path, digest in digests.items():
        if evaluation not in digests or not (root / path / "model_index.json").is_file():
            continue
        measured = measurement_digest(stages, evaluation, path)
        candidate = tracking.Candidate(run_id, root / path, digest, scores[0], measured, card, git)
        said = tracking.register(root, candidate, registry["name"], registry["metric"])
        if said:
            print(said, flush=True)
