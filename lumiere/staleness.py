"""Finds the files that decide what a stage writes: those it imports, except a few that do not
change any output.

`dvc.yaml` lists these files as the stage's dependencies, and the fingerprint of a training includes
their contents. So editing any other file does not rerun a stage or discard a training's state.
`tests/test_architecture.py` compares the two.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lumiere", "stages")

# Editing one of these files does not change any output, for the reason given. Their imports are not
# followed.
WITHOUT_EFFECT = {
    "lumiere/compat.py": "makes imports work",
    "lumiere/config.py": "the values of params.yaml, which has every key, are compared themselves",
    "lumiere/errors.py": "says what went wrong",
    "lumiere/locks.py": "keeps two runs apart",
    "lumiere/params_file.py": "as config.py",
    "lumiere/staleness.py": "this file",
    "lumiere/tracking/__init__.py": "records what was made",
    "lumiere/training/preview.py": "pictures for the tracker; tests compare the weights without them",
    "lumiere/training/throughput.py": "speed and memory, for the tracker",
    "stages/__init__.py": "the command line, messages and exit codes",
}

# `stages.run` applies these to every stage. Their imports are not followed.
FOR_EVERY_STAGE = ("lumiere/threads.py",)


def deciding_files(start: Path) -> list[Path]:
    """Return the files that decide what a stage writes: its own file, the project's files that it
    imports, directly or not, and those that every stage runs with.

    Args:
        start: the stage's Python file. All its imports count, except those under
            `if TYPE_CHECKING:`.

    Returns:
        Absolute paths, sorted. Files that contain only a docstring are left out.
    """
    seen = {ROOT / name for name in FOR_EVERY_STAGE if (ROOT / name).is_file()}
    pending = [start.resolve()]
    while pending:
        path = pending.pop()
        if path in seen or _is_without_effect(path):
            continue
        seen.add(path)
        for name in imported_names(path):
            pending += _files_of_module(name)
    return sorted(path for path in seen if has_code(path))


@cache
def imported_names(path: Path, with_types: bool = False) -> frozenset[str]:
    """Return the dotted names of the modules that a file imports, and of the names it imports from
    them, also inside functions.

    Args:
        path: a Python file.
        with_types: also include imports that only serve annotations, under `if TYPE_CHECKING:`.
    """
    names: set[str] = set()
    module = path.relative_to(ROOT).with_suffix("").parts if path.is_relative_to(ROOT) else ()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if with_types else _nodes_that_run(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module[: len(module) - node.level] if node.level else ()
            name = ".".join([*package, *filter(None, [node.module])])
            names |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def has_code(path: Path) -> bool:
    """Return whether a Python file contains more than a docstring and imports of
    `lumiere.compat`.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_compat = isinstance(node, ast.Import) and node.names[0].name == "lumiere.compat"
        if not (is_docstring or is_compat):
            return True
    return False


def _is_without_effect(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in WITHOUT_EFFECT


def _nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below, less the bodies of `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        is_for_types = (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        if not is_for_types:
            yield child
            yield from _nodes_that_run(child)


def _files_of_module(name: str) -> list[Path]:
    """Return the file of a module such as `lumiere.data.clips`, and each package's
    `__init__.py`.
    """
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    inits = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    candidates = [*inits, ROOT.joinpath(*parts).with_suffix(".py")]
    return [path for path in candidates if path.is_file()]
