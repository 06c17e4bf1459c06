"""The pipeline's graph, read from DVC. The only module that uses DVC's internal API (pinned: dvc>=3.61,<4).

The order of the stages stands in `dvc.yaml`, and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.repo import Repo


@dataclass(frozen=True)
class StageNode:
    """One stage of `dvc.yaml`."""

    name: str
    dependencies: tuple[str, ...]  # names of the stages whose outputs it reads
    outputs: tuple[Path, ...]  # files and folders, metrics among them
    metrics: tuple[Path, ...]  # the metrics files it writes
    is_changed: bool  # DVC would run it again for its own sake; its upstream is not looked at


def read_dag(root: Path) -> list[StageNode]:
    """The stages in topological order, ties in the order of `dvc.yaml`, each with its state.

    Asking for all states in one process takes a second; a `dvc` process per stage would take that each.

    Raises:
        dvc.exceptions.DvcException: on a broken `dvc.yaml`.
    """
    with Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
        stages = {_name(stage): stage for stage in repo.index.stages if stage.cmd}
        graph = repo.index.graph  # stage -> dependency
        parents = {
            name: sorted(_name(other) for other in graph.successors(stage) if other.cmd)
            for name, stage in stages.items()
        }
        order = TopologicalSorter(parents).static_order()
        return [_node(name, stages[name], tuple(parents[name])) for name in order]


def is_changed(root: Path, name: str) -> bool:
    """Whether DVC would run the stage now; a tenth of a second."""
    with Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
        return any(bool(stage.status()) for stage in repo.index.stages if _name(stage) == name)


def with_upstream(nodes: list[StageNode], names: list[str]) -> list[StageNode]:
    """The named stages and everything that they need, in topological order.

    Raises:
        ValueError: on a name that is not a stage.
    """
    by_name = {node.name: node for node in nodes}
    for name in names:
        if name not in by_name:
            raise ValueError(f"--stages: {name!r} is not a stage; allowed: {', '.join(by_name)}")
    wanted: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += by_name[name].dependencies
    return [node for node in nodes if node.name in wanted]


def read_metrics(node: StageNode) -> dict[str, Any]:
    """What is in the stage's JSON metrics files; several files are told apart by their names."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in node.metrics
        if path.exists()
    }
    return next(iter(found.values())) if len(found) == 1 else found


def _name(stage: Any) -> str:
    """The target for `dvc repro` in the project's folder; DVC's own `addressing` depends on the current folder."""
    return stage.name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{stage.name}"


def _node(name: str, stage: Any, dependencies: tuple[str, ...]) -> StageNode:
    return StageNode(
        name=name,
        dependencies=dependencies,
        outputs=tuple(Path(out.fs_path) for out in stage.outs),
        metrics=tuple(
            Path(out.fs_path) for out in stage.outs if out.metric and out.fs_path.endswith(".json")
        ),
        is_changed=bool(stage.status()),
    )
