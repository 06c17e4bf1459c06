"""The model card of a pipeline: README.md with what is known about it, for a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from diffusers import DiffusionPipeline
from torch import nn

from lumiere.files import is_file, read_json
from lumiere.plurals import counted

UNKNOWN = "Not recorded."
SECTIONS = ("train_base", "train_conditioned", "train_ssr", "train_style", "distil")


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model's training that its pipeline does not know.

    Attributes:
        data: the training data, with sources and licences, as text.
        steps: steps of each training, by the name of its stage.
        metrics: results by name.
        license: an identifier of the hub, such as "apache-2.0".
        use: intended use and limits.
    """

    data: str = ""
    steps: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    license: str = ""
    use: str = ""

    @classmethod
    def of_project(cls, root: str | Path = ".", license: str = "", use: str = "") -> Self:
        """Read what a project knows after `dvc repro`: data/NOTICE, params.yaml and the metrics.

        Args:
            root: the project's folder; files that are missing stay unknown.
            license, use: as above; they are decisions, which no file holds.
        """
        root = Path(root)
        notice, params = root / "data" / "NOTICE", root / "params.yaml"
        metrics = root / "outputs" / "metrics" / "evaluate.json"
        return cls(
            data=notice.read_text(encoding="utf-8") if is_file(notice) else "",
            steps=_steps(params) if is_file(params) else {},
            metrics=read_json(metrics) if is_file(metrics) else {},
            license=license,
            use=use,
        )


def write_model_card(
    folder: Path, pipeline: DiffusionPipeline, facts: ModelFacts | None = None
) -> None:
    """Write README.md into a pipeline's folder."""
    text = model_card(pipeline, facts or ModelFacts())
    (folder / "README.md").write_text(text, encoding="utf-8")


def model_card(pipeline: DiffusionPipeline, facts: ModelFacts) -> str:
    """Return the card: a header that hubs read, then one section per subject."""
    header: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-video"}
    if facts.license:
        header["license"] = facts.license
    steps = [f"- {name}: {counted(count, 'step')}" for name, count in facts.steps.items()]
    metrics = [f"| {name} | {value} |" for name, value in facts.metrics.items()]
    if metrics:
        metrics = ["| metric | value |", "|---|---|", *metrics]
    data = f"```text\n{facts.data.strip()}\n```" if facts.data else ""
    sections = {
        "Networks": "\n".join(_networks(pipeline)),
        "How to load it": _loading(type(pipeline).__name__),
        "Use and limits": facts.use,
        "Training data": data,
        "Training": "\n".join(steps),
        "Results": "\n".join(metrics),
        "Licence": facts.license,
    }
    parts = [f"---\n{yaml.safe_dump(header).strip()}\n---", f"# {type(pipeline).__name__}"]
    parts += [f"## {title}\n\n{text or UNKNOWN}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _networks(pipeline: DiffusionPipeline) -> list[str]:
    lines = []
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            count = sum(parameter.numel() for parameter in component.parameters())
            lines.append(f"- {name}: {type(component).__name__}, {count:,} parameters")
        elif component is not None:
            lines.append(f"- {name}: {type(component).__name__}")
    for name in ("num_frames", "fps"):
        if name in pipeline.config:
            lines.append(f"- {name}: {pipeline.config[name]}")
    styles = ", ".join(getattr(pipeline, "styles", ()))
    return [*lines, f"- styles: {styles}"] if styles else lines


def _loading(kind: str) -> str:
    return (
        "```python\n"
        f"from lumiere.pipelines import {kind}\n\n"
        f'pipe = {kind}.from_pretrained("this repository or folder")\n'
        "```\n\n"
        "With the package lumiere-stunet installed, diffusers' own loader works too: "
        "`DiffusionPipeline.from_pretrained(..., trust_remote_code=True)`."
    )


def _steps(path: Path) -> dict[str, int]:
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = {}
    for section in SECTIONS:
        count = params.get(section, {}).get("optim", {}).get("steps")
        if count:
            steps[section] = count
    return steps
