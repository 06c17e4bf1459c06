"""Finds the code that dvc.yaml has to name for each stage, and what an edit makes stale.

`python -m tests.stale_stages` writes the dependencies into dvc.yaml and the table into
docs/architecture.md. tests/test_architecture.py fails if they are out of date.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lumiere.staleness import PACKAGES, ROOT, deciding_files, has_code

DVC_FILE = ROOT / "dvc.yaml"
TABLE_FILE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- what an edit makes stale: `python -m tests.stale_stages` writes this table -->"
END = "<!-- end of the table -->"
DIRECT, DOWNSTREAM, FRESH = "●", "○", ""


@cache
def stages() -> dict[str, dict[str, Any]]:
    """Read the stages of dvc.yaml, in its order."""
    return yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"]


def code_files() -> list[str]:
    """List all files with code in `lumiere/` and `stages/`, relative to the root."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if has_code(path))


def used_code(stage: str) -> set[str]:
    """Find the files that decide what a stage writes, relative to the root."""
    paths = deciding_files(ROOT / "stages" / f"{stage}.py")
    return {path.relative_to(ROOT).as_posix() for path in paths}


def code_dependencies(stage: str) -> list[str]:
    """Return what dvc.yaml lists for a stage: the files it uses, or a folder if it uses all files in it."""
    used, listed = used_code(stage), []
    folders = {str(Path(name).parent) for name in used}
    whole = {folder for folder in folders if used >= set(_files_below(folder))}
    for name in used:
        above = [str(parent) for parent in Path(name).parents if str(parent) in whole]
        listed.append(above[-1] if above else name)  # the outermost
    return sorted(set(listed))


def listed_code(stage: str) -> set[str]:
    """Find the files of code that the dependencies of a stage in dvc.yaml cover."""
    entries = [dep for dep in stages()[stage]["deps"] if dep.split("/")[0] in PACKAGES]
    return {name for name in code_files() if any(_covers(entry, name) for entry in entries)}


def downstream() -> dict[str, set[str]]:
    """Return, for each stage, the stages that read what it writes, directly or not."""
    outputs = {name: _outputs(stage) for name, stage in stages().items()}
    readers: dict[str, set[str]] = {
        name: {
            other
            for other, stage in stages().items()
            if any(_covers(out, dep) for out in outputs[name] for dep in stage["deps"])
        }
        for name in stages()
    }
    later: dict[str, set[str]] = {}
    for name in reversed(list(stages())):  # dvc.yaml lists a stage after those that it reads from
        later[name] = readers[name].union(*(later[other] for other in readers[name]))
    return later


def render_table() -> str:
    """Make the table of docs/architecture.md, with its markers."""
    later, groups = downstream(), defaultdict(list)
    direct_by_stage = {stage: listed_code(stage) for stage in stages()}
    for name in code_files():
        direct = [stage for stage in stages() if name in direct_by_stage[stage]]
        indirect = set().union(*(later[stage] for stage in direct))
        marks = tuple(_mark(stage, direct, indirect) for stage in stages())
        groups[marks].append(name)
    lines = [
        "| edited | " + " | ".join(f"`{stage}`" for stage in stages()) + " |",
        "|---|" + ":-:|" * len(stages()),
    ]
    for marks, names in sorted(groups.items(), key=lambda entry: _order(*entry)):
        lines.append(f"| {_describe(names)} | " + " | ".join(marks) + " |")
    return "\n".join([BEGIN, "", *lines, "", END])


def stored_table() -> str:
    """Read the table of docs/architecture.md, with its markers; empty if these are missing."""
    match = re.search(
        re.escape(BEGIN) + ".*?" + re.escape(END), TABLE_FILE.read_text(encoding="utf-8"), re.DOTALL
    )
    return match[0] if match else ""


def write_dependencies() -> None:
    """Rewrite the code dependencies in dvc.yaml, and leave the rest of the file as it is."""
    text = DVC_FILE.read_text(encoding="utf-8")
    for stage in stages():
        others = [dep for dep in stages()[stage]["deps"] if dep.split("/")[0] not in PACKAGES]
        deps = "".join(f"      - {dep}\n" for dep in sorted([*others, *code_dependencies(stage)]))
        head = rf"(\n  {stage}:\n(?:    .*\n|\n)*?    deps:\n)(?:      - .*\n)+"
        text = re.sub(head, lambda match, deps=deps: match[1] + deps, text, count=1)
    DVC_FILE.write_text(text, encoding="utf-8")
    stages.cache_clear()


def write_table() -> None:
    """Put the table into docs/architecture.md."""
    text = TABLE_FILE.read_text(encoding="utf-8")
    TABLE_FILE.write_text(text.replace(stored_table(), render_table()), encoding="utf-8")


def write_files(root: Path, contents: dict[str, str]) -> None:
    """Write the files of a small project, given by their paths."""
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def _files_below(folder: str) -> list[str]:
    return [name for name in code_files() if _covers(folder, name)]


def _covers(entry: str, name: str) -> bool:
    """Return whether a path is the entry or lies in it."""
    return name == entry or name.startswith(f"{entry}/")


def _outputs(stage: dict[str, Any]) -> list[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _mark(stage: str, direct: list[str], indirect: set[str]) -> str:
    if stage in direct:
        return DIRECT
    return DOWNSTREAM if stage in indirect else FRESH


def _order(marks: tuple[str, ...], names: list[str]) -> tuple[Any, ...]:
    """Sort rows by their first stage, then wide ones first; files of no stage come last."""
    first = marks.index(DIRECT) if DIRECT in marks else len(marks)
    return first, -marks.count(DIRECT), names


def _describe(names: list[str]) -> str:
    """Describe files by folder; without their names if the row has all files of the folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[str(Path(name).parent)].append(name)
    described = []
    for folder, members in folders.items():
        if set(members) == set(_files_below(folder)):
            described.append(f"`{folder}/`")
        else:
            files = ", ".join(f"`{Path(name).stem}`" for name in members)
            described.append(f"`{folder}/`: {files}")
    return "<br>".join(described)


if __name__ == "__main__":
    write_dependencies()
    write_table()
