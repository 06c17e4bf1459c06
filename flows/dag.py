"""Reads the pipeline's graph from DVC.

This is the only module that uses DVC's internal API (hence dvc>=3.61,<4).

Only `dvc.yaml` defines the order of the stages.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.stage import PipelineStage

from lumiere.errors import DataError, ParamsError

FILES = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore")  # what DVC's index comes from


@dataclass(frozen=True)
class StageNode:
    """One stage of `dvc.yaml`."""

    name: str
    dependencies: tuple[str, ...]  # the stages whose outputs it reads
    outputs: tuple[Path, ...]  # files and folders, including metrics
    metrics: tuple[Path, ...]  # the metrics files it writes
    is_changed: bool  # DVC would run it again, even if no upstream stage ran


def read_dag(root: Path, checker: StageChecker | None = None) -> list[StageNode]:
    """Read the stages in topological order, each with its state.

    Reading all states takes one second. A `dvc` process per stage would take a second each.

    Args:
        root: the project's folder.
        checker: of the same project; it reads the graph, and keeps it for later checks.

    Raises:
        dvc.exceptions.DvcException: if `dvc.yaml` is broken.
        DataError: if another file of DVC is broken in a way that it does not explain.
    """
    _check_lock_files(root)
    if checker is not None:
        return checker.read_nodes()
    with contextlib.closing(StageChecker(root)) as own:
        return own.read_nodes()


def _parents(repo: Repo, stages: dict[str, PipelineStage]) -> dict[str, list[str]]:
    """Return the names of the stages that each stage depends on."""
    graph = repo.index.graph  # stage -> dependency
    return {
        name: sorted(_name(other) for other in graph.successors(stage) if other.cmd)
        for name, stage in stages.items()
    }


def _check_lock_files(root: Path) -> None:
    """Raise DataError, with the cure, if a merge or a kill left a file of DVC that it cannot read."""
    lock = root / "dvc.lock"
    lines = lock.read_text(encoding="utf-8", errors="replace").splitlines() if lock.exists() else []
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in lines):
        raise DataError(
            f"{lock}: has the conflict markers of a merge; take one side with "
            "`git checkout --ours dvc.lock`, and run this again, which brings it up to date"
        )
    busy = root / ".dvc" / "tmp" / "rwlock"
    if busy.exists():
        try:
            json.loads(busy.read_text(encoding="utf-8"))
        except ValueError:
            raise DataError(
                f"{busy}: is damaged, as after a full disk or a power cut; delete it when no dvc is "
                "running, and run this again"
            ) from None


def check_inputs(root: Path) -> None:
    """Check that DVC can read its own files and the inputs of all stages, without reading inputs.

    Raises:
        dvc.exceptions.DvcException: if `dvc.yaml` is broken.
        DataError: with the file, what is wrong and the cure.
    """
    _check_lock_files(root)
    with Repo(str(root)) as repo:
        _check_inputs(root, repo)


def _check_inputs(root: Path, repo: Repo) -> None:
    for stage in repo.index.stages:
        for dependency in stage.deps:
            _check_input(root, repo, Path(dependency.fs_path))


def _check_input(root: Path, repo: Repo, path: Path) -> None:
    """Raise DataError if DVC could not read a dependency: it waits forever at a pipe, and fails at
    a link to nothing. Files that `.dvcignore` names are skipped.
    """
    folders = os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]
    for folder, _, files in folders:
        for name in files:
            entry = Path(folder, name)
            problem = ""
            if entry.is_symlink() and not entry.exists():
                problem = "a link to nothing"
            elif entry.exists() and not entry.is_file():
                problem = "a pipe, a socket or a device"
            if problem and not repo.dvcignore.is_ignored_file(str(entry)):
                raise DataError(
                    f"{entry.relative_to(root)}: {problem}, which DVC cannot read; delete it, or "
                    "name it in .dvcignore"
                )


def check_names(root: Path, names: Iterable[str]) -> None:
    """Raise ParamsError if a name is not a stage. This reads no states, so it takes a moment."""
    requested = list(names)
    if not requested:
        return
    with Repo(str(root)) as repo:
        stages = {_name(stage): stage for stage in repo.index.stages if stage.cmd}
        stage_names = list(TopologicalSorter(_parents(repo, stages)).static_order())
    for name in requested:
        if name not in stage_names:
            raise ParamsError(f"{name!r} is not a stage; allowed: {', '.join(stage_names)}")


class StageChecker:
    """Asks DVC whether it would run single stages now, for one thread at a time.

    DVC's index is kept while the files that it comes from stay the same: reading them takes half a
    second, and checking a stage takes a few hundredths.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._repo: Repo | None = None
        self._stages: dict[str, PipelineStage] = {}
        self._files = sorted(root / name for name in FILES)
        self._seen: list[tuple[int, int]] = []
        self._lock = threading.RLock()  # DVC's API is not meant for threads

    def read_nodes(self) -> list[StageNode]:
        """Read all stages now; see `read_dag`."""
        with self._lock:
            self._read()
            assert self._repo is not None
            with self._repo.lock:
                parents = _parents(self._repo, self._stages)
                _check_inputs(self._root, self._repo)
                order = TopologicalSorter(parents).static_order()
                return [_node(name, self._stages[name], tuple(parents[name])) for name in order]

    def is_changed(self, name: str) -> bool:
        """Return whether DVC would run the stage now."""
        with self._lock:
            if self._repo is None or self._state() != self._seen:
                self._read()
            assert self._repo is not None
            with self._repo.lock:
                return name in self._stages and bool(self._stages[name].status())

    def _read(self) -> None:
        self.close()
        before = self._state()
        self._repo = Repo(str(self._root), _wait_for_lock=True)
        with self._repo.lock:
            stages = [stage for stage in self._repo.index.stages if stage.cmd]
        self._stages = {_name(stage): stage for stage in stages}
        folders = {Path(stage.path).parent for stage in stages} | {self._root}
        files = sorted(folder / name for folder in folders for name in FILES)
        self._seen = before if files == self._files else []  # empty: read again next time
        self._files = files

    def close(self) -> None:
        """Close what DVC has open."""
        with self._lock:
            if self._repo is not None:
                self._repo.close()
                self._repo = None

    def _state(self) -> list[tuple[int, int]]:
        state = []
        for path in self._files:
            try:
                status = path.stat()
            except OSError:  # it does not exist
                state.append((0, 0))
                continue
            state.append((status.st_mtime_ns, status.st_size))
        return state


def select(
    nodes: list[StageNode], stages: list[str], only: bool = False, first: str = ""
) -> list[StageNode]:
    """Return the stages that a run is asked for, in topological order.

    Args:
        nodes: all stages, in topological order.
        stages: these stages and all that they depend on; if empty, every stage.
        only: leave out what the named stages depend on.
        first: this stage and all that depend on it, instead of `stages`.

    Raises:
        ParamsError: if a name is not a stage, or the arguments exclude each other.
    """
    check_choice(stages, only, first)
    names = [node.name for node in nodes]
    for name in [*stages, *([first] if first else [])]:
        if name not in names:
            raise ParamsError(f"{name!r} is not a stage; allowed: {', '.join(names)}")
    if first:
        selected = _downstream(nodes, first)
    elif only:
        selected = set(stages)
    else:
        selected = _upstream(nodes, stages or names)
    return [node for node in nodes if node.name in selected]


def check_choice(stages: list[str], only: bool, first: str) -> None:
    """Raise ParamsError if arguments of `select` exclude each other."""
    if (only and not stages) or (first and stages):
        raise ParamsError("--only needs --stages, and --from excludes both")


def _upstream(nodes: list[StageNode], names: list[str]) -> set[str]:
    selected = set(names)
    for node in reversed(nodes):
        if node.name in selected:
            selected.update(node.dependencies)
    return selected


def _downstream(nodes: list[StageNode], first: str) -> set[str]:
    selected = {first}
    for node in nodes:
        if not selected.isdisjoint(node.dependencies):
            selected.add(node.name)
    return selected


def read_metrics(node: StageNode) -> dict[str, Any]:
    """Read the stage's JSON metrics file. Several files become a dict by their names."""
    files = [path for path in node.metrics if path.exists()]
    contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    if len(contents) == 1:
        return contents.popitem()[1]
    return contents


def _name(stage: PipelineStage) -> str:
    """Return the target for `dvc repro` in the project's folder.

    DVC's own `addressing` depends on the current folder.
    """
    if stage.path_in_repo == "dvc.yaml":
        return stage.name
    return f"{stage.path_in_repo}:{stage.name}"


def _node(name: str, stage: PipelineStage, dependencies: tuple[str, ...]) -> StageNode:
    metrics = [out.fs_path for out in stage.outs if out.metric and out.fs_path.endswith(".json")]
    return StageNode(
        name=name,
        dependencies=dependencies,
        outputs=tuple(Path(out.fs_path) for out in stage.outs),
        metrics=tuple(Path(path) for path in metrics),
        is_changed=bool(stage.status()),
    )
