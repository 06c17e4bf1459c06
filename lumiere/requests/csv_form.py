"""The CSV form of requests: a prompts file with one video per row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumiere.data.tables import read_table
from lumiere.errors import DataError
from lumiere.requests.request import (
    FILES,
    Request,
    check_name,
    field_names,
    make_request,
    parse_values,
)

MAX_SLUG = 80


@dataclass(frozen=True)
class Row:
    """A row of a prompts file.

    Attributes:
        line: the line where the row ends in the file, counted from 1.
        name: the name of the row's video.
        request: None if the row cannot be used.
        problem: why the row cannot be used; empty if it can.
    """

    line: int
    name: str
    request: Request | None = None
    problem: str = ""


def read_rows(path: Path, shared: Mapping[str, Any] | None = None) -> list[Row]:
    """Read a prompts file.

    Args:
        path: a CSV file with the column `prompt`, and any other field of `Request`. Paths in it are relative to its
            folder. A row without a name gets its number and the first words of its prompt.
        shared: values for cells that are empty or absent.

    Raises:
        DataError: if the file as a whole cannot be used; the message names the file, the line and
            how to fix it.
    """
    columns = [name for name in field_names() if name != "prompt"]
    rows: list[Row] = []
    names: set[str] = set()
    for number, (line, cells) in enumerate(read_table(path, ("prompt",), columns), 1):
        name = cells["name"] or f"{number:03d}-{_slug(cells['prompt'])}".rstrip("-")
        try:
            check_name(name)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
        if name in names:
            raise DataError(
                f"{path}, line {line}: two rows have the name {name!r}; give each video its own"
            )
        names.add(name)
        try:
            values = {**(shared or {}), **_cell_values(path.parent, cells), "name": name}
            rows.append(Row(line, name, make_request(values)))
        except ValueError as error:
            rows.append(Row(line, name, problem=str(error)))
    return rows


def _cell_values(folder: Path, cells: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the cells that are not empty."""
    values = parse_values(cells)
    for name in FILES:
        if isinstance(values.get(name), str):
            values[name] = str(folder / values[name])
    return values


def _slug(prompt: str) -> str:
    """Make a part of a file's name from the first words of a sentence."""
    return "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6])[:MAX_SLUG]
