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
    "lumiere/precision.py": "decides which warning is printed",
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

    Of a package's `__init__.py` that only imports names, those count that somebody imports from
    it: `import lumiere.evaluation.scores` does not depend on what else `lumiere/evaluation` offers.

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
        for name in _imports(path):
            pending += _files_of(name)
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


def _imports(path: Path) -> set[str]:
    """Return what a file imports, without the packages from which it imports names."""
    names = imported_names(path)
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


@cache
def has_code(path: Path) -> bool:
    """Return whether a Python file contains more than a docstring, imports of `lumiere.compat`, and
    names that a package offers.
    """
    if path.name == "__init__.py" and offered_names(path):
        return False
    return not all(_is_no_code(node) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def _is_no_code(node: ast.stmt) -> bool:
    """Return whether a statement is a docstring or an import of `lumiere.compat`."""
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_compat = isinstance(node, ast.Import) and node.names[0].name == "lumiere.compat"
    return is_docstring or is_compat


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
        if is_for_types:
            assert isinstance(child, ast.If)
            for node in child.orelse:
                yield node
                yield from _nodes_that_run(node)
        else:
            yield child
            yield from _nodes_that_run(child)


def _files_of(name: str) -> list[Path]:
    """Return the files that decide what `import name` or `from package import name` gives.

    Args:
        name: of a module such as `lumiere.data.clips`, or of something that a module defines.
    """
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    place = ROOT.joinpath(*parts)
    if place.with_suffix(".py").is_file():
        return [*_code_of_packages(parts[:-1]), place.with_suffix(".py")]
    if place.is_dir():  # a package itself: whoever imports it may take all that it offers
        origins = [*offered_names(place / "__init__.py").values()]
        return _code_of_packages(parts) + [path for origin in origins for path in _files_of(origin)]
    origin = offered_names(place.parent / "__init__.py").get(parts[-1])
    return _files_of(origin or ".".join(parts[:-1])) if len(parts) > 1 else []


def _code_of_packages(parts: list[str]) -> list[Path]:
    """Return the `__init__.py` of a package and of those above it, if they do more than offer names."""
    inits = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in inits if path.is_file() and not offered_names(path)]


@cache
def offered_names(path: Path) -> dict[str, str]:
    """Return the names that a package's `__init__.py` imports for others, and where they come from;
    empty if it does more than that, or is not there.
    """
    if not path.is_file() or _is_without_effect(path):
        return {}
    names: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_list = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        # A name that is imported under another one is more than an offer: the package decides it.
        is_offer = isinstance(node, ast.ImportFrom) and all(not each.asname for each in node.names)
        if isinstance(node, ast.ImportFrom) and is_offer and not node.level:
            names |= {each.name: f"{node.module}.{each.name}" for each in node.names}
        elif not (is_list or _is_no_code(node)):
            return {}
    return names
