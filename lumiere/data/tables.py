"""Reads CSV files that people write, strictly: a misplaced cell must not be used silently."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lumiere.errors import DataError
from lumiere.plurals import counted


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), allows_others: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file in UTF-8, with or without a byte order mark.

    Args:
        path: a file whose first line names the columns, in any order and case.
        required: the columns that it must have.
        optional: the columns that it may have.
        allows_others: whether it may have columns with any other name.

    Returns:
        For each row that is not blank: the line where it ends, counted from 1, and its cells by
        column, stripped of surrounding white space. An optional column that the file lacks has
        empty cells.

    Raises:
        DataError: with the file, the line, what is wrong and how to fix it.
    """
    allowed = (*required, *optional)
    text = _read_text(path, f"a CSV file with the columns {', '.join(allowed)}")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(path, header, required, allowed, allows_others)
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        cure = "a quoted text ends with a quote, and a quote within it is written twice"
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}; {cure}") from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    _check_rows(path, header, rows)
    absent = dict.fromkeys(optional, "")
    return [(line, {**absent, **dict(zip(header, cells, strict=True))}) for line, cells in rows]


def _read_text(path: Path, expected: str) -> str:
    """Read a file in UTF-8.

    Raises:
        DataError: if it cannot be read, is in another encoding, or holds a NUL character.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected {expected}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not in UTF-8; save the file in that encoding"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: holds a NUL character; delete it")
    return text


def _check_rows(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Raise DataError if a row has more or fewer cells than the header, or there is no row."""
    for line, cells in rows:
        if len(cells) == len(header):
            continue
        cure = "a cell may be empty, but not absent"
        if len(cells) > len(header):
            cure = 'put text that holds a comma in quotes, "like, this"'
        raise DataError(
            f"{path}, line {line}: {counted(len(cells), 'cell')} for {counted(len(header), 'column')}; "
            f"{cure}"
        )
    if not rows:
        raise DataError(
            f"{path}: no rows below the names of the columns; expected at least one row"
        )


def _check_header(
    path: Path,
    header: list[str],
    required: Sequence[str],
    allowed: Sequence[str],
    allows_others: bool,
) -> None:
    # Spreadsheets write semicolons where a comma is the decimal mark.
    if any(";" in name for name in header):
        raise DataError(f"{path}: columns are separated by ';'; save it with commas between them")
    missing = [f"no column {name!r}" for name in required if name not in header]
    unknown = [
        f"unknown column {name!r}"
        for name in header
        if name not in allowed and not (allows_others and name)
    ]
    twice = [f"column {name!r} is given twice" for name in header if header.count(name) > 1]
    for problem in (*missing, *unknown, *twice):
        expected = f"{', '.join(allowed)}, separated by commas"
        raise DataError(
            f"{path}: {problem}; expected the columns {expected}; found: {', '.join(header) or 'none'}"
        )
