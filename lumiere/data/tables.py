"""CSV files that people write, read strictly: a cell in the wrong place would be used without a word."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, UTF-8 with or without a byte order mark.

    Args:
        path: its first line names the columns, in any order and case.
        required, optional: the columns that it has to have, and may have.

    Returns:
        For each row that is not blank the line where it ends, counted from 1, and its cells by column, without the
        white space around them; an optional column that the file lacks has empty cells.

    Raises:
        ValueError: naming the file, the line, what is wrong and what mends it.
    """
    allowed = (*required, *optional)
    columns = f"the columns {', '.join(allowed)}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected a CSV file with {columns}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a CSV file with {columns}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not in UTF-8; save the file in that encoding"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(path, header, required, allowed)
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        cure = "a quoted text ends with a quote, and a quote within it is written twice"
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}; {cure}") from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    for line, cells in rows:
        if len(cells) != len(header):
            many = len(cells) > len(header)
            cure = (
                'put text that holds a comma in quotes, "like, this"'
                if many
                else "a cell may be empty, but not absent"
            )
            raise ValueError(
                f"{path}, line {line}: {len(cells)} cells for {len(header)} columns; {cure}"
            )
    if not rows:
        raise ValueError(
            f"{path}: no rows below the names of the columns; expected at least one row"
        )
    return [
        (line, {**dict.fromkeys(optional, ""), **dict(zip(header, cells, strict=True))})
        for line, cells in rows
    ]


def _check_header(
    path: Path, header: list[str], required: Sequence[str], allowed: Sequence[str]
) -> None:
    if any(
        ";" in name for name in header
    ):  # as spreadsheets write it where a comma is the decimal mark
        raise ValueError(f"{path}: columns are separated by ';'; save it with commas between them")
    missing = [f"no column {name!r}" for name in required if name not in header]
    unknown = [f"unknown column {name!r}" for name in header if name not in allowed]
    twice = [f"column {name!r} stands twice" for name in header if header.count(name) > 1]
    for problem in (*missing, *unknown, *twice):
        expected = f"{', '.join(allowed)}, separated by commas"
        raise ValueError(
            f"{path}: {problem}; expected the columns {expected}; found: {', '.join(header) or 'none'}"
        )
