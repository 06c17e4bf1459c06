"""Compares the listing of the tree in docs/architecture.md with the files in it.

`python -m tests.tree_listing` adds new modules, removes those that are gone, and keeps all remarks.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from lumiere.staleness import ROOT
from tests.stale_stages import stages

PAGE = ROOT / "docs" / "architecture.md"
COLUMN, WIDTH = 21, 120
SEPARATOR = " · "
# `name` or `name (remark)`, a remark without brackets of its own.
MODULE = re.compile(r"(\w+)(?: \(([^()]*)\))?")

Entries = dict[str, str]
"""The text of each file or folder, by its path from the root; folders end in a slash."""


def read_listing() -> Entries:
    """Read the entries of the first code block of the page, in its order."""
    entries: Entries = {}
    folder = last = ""
    for line in _block().splitlines():
        if line.startswith(" " * COLUMN):
            entries[last] = f"{entries[last]} {line.strip()}"
            continue
        name, _, text = line.strip().partition(" ")
        if line.startswith("  "):
            name = folder + name
        elif name.endswith("/") and not text:
            folder = name
        if name in entries:
            raise ValueError(f"{PAGE.name}: {name} is listed twice")
        entries[name] = text.strip()
        last = name
    return entries


def read_modules(text: str) -> dict[str, str]:
    """Read modules and remarks: `loop (remark) · ema` gives {"loop": "remark", "ema": ""}.

    Raises:
        ValueError: if the text has another form, or names a module twice.
    """
    modules: dict[str, str] = {}
    for part in text.split(SEPARATOR):
        match = MODULE.fullmatch(part.strip())
        if match is None or match[1] in modules:
            raise ValueError(
                f"{part!r} in {text!r}; expected each module once, as `name` or `name (remark)`, "
                f"separated by {SEPARATOR!r}"
            )
        modules[match[1]] = match[2] or ""
    return modules


def packages() -> dict[str, list[str]]:
    """Return the folders whose modules are listed one by one, with their sorted modules."""
    folders = [path.parent for path in (ROOT / "lumiere").glob("*/**/__init__.py")]
    found = {f"{folder.relative_to(ROOT)}/": _modules(folder) for folder in sorted(folders)}
    return found | {"flows/": _modules(ROOT / "flows")}


def single_modules() -> list[str]:
    """List the files directly in `lumiere/`."""
    names = sorted(path.name for path in (ROOT / "lumiere").glob("*.py"))
    return [f"lumiere/{name}" for name in names if name != "__init__.py"]


def helpers_of_stages() -> list[str]:
    """List the modules in `stages/` that are not stages."""
    return [name for name in _modules(ROOT / "stages") if name not in stages()]


def write_listing() -> None:
    """Bring the listing up to date."""
    old, new = read_listing(), {}
    for name, text in old.items():
        if name in packages():
            new[name] = _update(text, packages()[name])
        elif (ROOT / name).exists():
            new[name] = text
        if name == "lumiere/":
            later = [path for path in [*packages(), *single_modules()] if path not in old]
            for path in later:
                if path.startswith("lumiere/") and not _is_nested(path):
                    new[path] = _describe(path)
        for path in packages():  # a package inside a package comes right after it
            if _is_nested(path) and path not in old and Path(path).parent == Path(name):
                new[path] = _describe(path)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(_block(), _render(new)), encoding="utf-8")


def _is_nested(path: str) -> bool:
    return path.endswith("/") and path.count("/") > 2


def _block() -> str:
    match = re.search(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def _modules(folder: Path) -> list[str]:
    names = sorted(path.stem for path in folder.glob("*.py"))
    return [name for name in names if not name.startswith("__")]


def _update(text: str, modules: list[str]) -> str:
    try:
        remarks = read_modules(text)
    except ValueError:
        remarks = {}
    order = [name for name in remarks if name in modules]
    order += [name for name in modules if name not in remarks]
    parts = [f"{name} ({remarks[name]})" if remarks.get(name) else name for name in order]
    return SEPARATOR.join(parts)


def _describe(path: str) -> str:
    if path.endswith("/"):
        return _update("", packages()[path])
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").rstrip(".")


def _render(entries: Entries) -> str:
    lines: list[str] = []
    for path, text in entries.items():
        indent = "  " if path.startswith("lumiere/") and path != "lumiere/" else ""
        name = path.removeprefix("lumiere/") if indent else path
        head = f"{indent}{name}".ljust(COLUMN - 1) + " "
        lines += textwrap.wrap(
            text.replace(SEPARATOR, f"\N{NO-BREAK SPACE}{SEPARATOR.lstrip()}"),
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * COLUMN,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [head.rstrip()]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ") + "\n"


if __name__ == "__main__":
    write_listing()
