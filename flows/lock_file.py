"""Reads `dvc.lock`: what the stages read and wrote, by DVC's digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lumiere.run_origin import CODE

# The loader in C is twenty times as fast; some builds of PyYAML lack it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Stages = Mapping[str, Mapping[str, Any]]


def read_stages(lock: Path) -> Stages:
    """Return the stages of a `dvc.lock` by name; none if there is no such file."""
    if not lock.exists():
        return {}
    content = yaml.load(lock.read_text(encoding="utf-8"), Loader=LOADER) or {}
    return content.get("stages", {})


def data_inputs(stages: Stages) -> dict[str, str]:
    """Return the data that stages read and no stage writes: digests by path."""
    written = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
    read = [item for stage in stages.values() for item in _data_of(stage).items()]
    return {path: digest for path, digest in read if path not in written}


def output_digests(stages: Stages) -> dict[str, str]:
    """Return the digests of what the stages have written, by path."""
    outputs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outputs if out.get("md5")}


def measurement_digest(stages: Stages, scores: str, candidate: str) -> str:
    """Return a digest of how something was measured: the settings of the stage that wrote the
    scores, and the data that it compared with. Scores of different digests are not comparable.

    Neither what was measured nor the code counts: an edit of a docstring would end all comparisons.

    Args:
        stages: the stages of a `dvc.lock`.
        scores: the output with the scores.
        candidate: the output that was measured. What the same stage wrote beside it is left out,
            and all that was made from either.

    Raises:
        KeyError: if no stage wrote one of the two.
    """
    writers = {out["path"]: stage for stage in stages.values() for out in stage.get("outs", [])}
    stage = writers[scores]
    made = _made_from(stages, {out["path"] for out in writers[candidate]["outs"]})
    data = {path: digest for path, digest in _data_of(stage).items() if path not in made}
    text = json.dumps([stage.get("params", {}), data], sort_keys=True)
    return hashlib.md5(text.encode()).hexdigest()


def _data_of(stage: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of what a stage reads, without code."""
    digests = {}
    for dependency in stage.get("deps", []):
        path, digest = dependency["path"], dependency.get("md5")
        is_code = path.endswith(".py") or path.partition("/")[0] in CODE
        if digest and not is_code:
            digests[path] = digest
    return digests


def _made_from(stages: Stages, paths: set[str]) -> set[str]:
    """Return the paths and all outputs that depend on them, directly or not."""
    derived, size = set(paths), 0
    while len(derived) > size:
        size = len(derived)
        for stage in stages.values():
            if not derived.isdisjoint(dependency["path"] for dependency in stage.get("deps", [])):
                derived.update(out["path"] for out in stage.get("outs", []))
    return derived
