"""Reads tables of captions: CSV, JSON lines or Parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lumiere.curation.manifest import MODEL_SCHEMA, SCHEMA
from lumiere.data.tables import read_table
from lumiere.errors import DataError, first_line

REQUIRED, OPTIONAL = ("video", "caption"), ("start", "end")
OWN = (*REQUIRED, *OPTIONAL)
EMPTY = (None, "")
# The words that may follow "start" or "end" in the name of a column that means the same.
TIME_WORDS = r"([\W_]*(at|ts|s|ms|secs?|seconds?|time|timestamp|pos|position|\d+))*[\W_]*"

Cells = dict[str, str]


def read_rows(path: Path) -> list[tuple[int, Cells]]:
    """Read the rows of a file of captions; its suffix tells the format.

    Args:
        path: `.jsonl` or `.parquet`; every other name is CSV.

    Returns:
        For each row its line (in Parquet its row), counted from 1, and its cells by column as text:
        first the columns of `OWN`, then all others, which every row has. Lists, objects and truth
        values become JSON.

    Raises:
        DataError: with the file, the line, what is wrong and how to fix it.
    """
    readers = {".jsonl": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return _csv_rows(path)
    try:
        rows = list(reader(path))
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise DataError(f"{path}: {what}") from None
    if not rows:
        raise DataError(f"{path}: no rows; expected at least one")
    cells = [(line, _cells(path, line, row)) for line, row in rows]
    absent = dict.fromkeys((name for _, row in cells for name in row), "")
    return [(line, absent | row) for line, row in cells]


def _csv_rows(path: Path) -> list[tuple[int, Cells]]:
    rows = read_table(path, REQUIRED, OPTIONAL, allows_others=True)
    used = {name for _, row in rows for name in OPTIONAL if row[name]}
    names = [name for name in rows[0][1] if name in used or name not in OPTIONAL]
    _check_names(path, 1, names)
    return rows


class _Written(float):
    """A number with the text that it was written as, because floats are not exact."""

    def __new__(cls, text: str) -> _Written:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        ValueError: if a name is there twice; json would take the last value without a word.
    """
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)!r} is there twice"
        )
    return row


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON in UTF-8; numbers keep the text that they were written as.

    Args:
        content: with or without a byte order mark.
        where: begins the message of an error.

    Raises:
        DataError: if it is no JSON, or an object has a name twice.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"), parse_float=_Written, object_pairs_hook=_once_each
        )
    except ValueError as error:  # also what is not UTF-8
        raise DataError(f"{where}: not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: not JSON that can be read: nested too deeply") from None


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON lines file."""
    for line, text in enumerate(path.read_bytes().split(b"\n"), 1):
        if not text.strip():
            continue
        row = parse_json(text, f"{path}, line {line}")
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {line}: no object; expected {{"video": ..., ...}}')
        yield line, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file."""
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        rows = file.read().to_pylist()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {first_line(error)}") from None
    filled = {name for name in OPTIONAL if any(row.get(name) not in EMPTY for row in rows)}
    _check_names(path, 1, [name for name in names if name in filled or name not in OPTIONAL])
    yield from enumerate(rows, 1)


def _cells(path: Path, line: int, row: dict[str, Any]) -> Cells:
    """Return the cells as text, first those of `OWN`.

    Raises:
        DataError: if one is missing, or one of `OWN` is neither text nor a number.
    """
    _check_names(
        path, line, [name for name in row if name not in OPTIONAL or row[name] not in EMPTY]
    )
    return {
        name: cell_text(row.get(name), name, f"{path}, line {line}")
        for name in dict.fromkeys((*OWN, *row))
    }


def cell_text(value: Any, name: str, where: str) -> str:
    """Return a cell as text.

    Args:
        value: as JSON or Parquet holds it.
        name: of the column.
        where: begins the message of an error.

    Raises:
        DataError: if a cell of `OWN` is neither text nor a number, or the manifest cannot hold it.
    """
    is_plain = isinstance(value, str | int | float | None) and not isinstance(value, bool)
    if name in OWN and not is_plain:
        raise DataError(f"{where}: {name} is {value!r}; expected text or a number")
    if value is None:
        return ""
    text = str(value).strip()
    if not is_plain:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if "\0" in text:
        raise DataError(f"{where}: holds a NUL character; delete it")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can write half of a pair of surrogates
        problem = f"{where}: {name} holds half a character ({text!a}); write the whole one"
        raise DataError(problem) from None
    return text


def _check_names(path: Path, line: int, names: list[str]) -> None:
    """Raise DataError if a column is missing, or has a name that is not free."""
    expected = ", ".join(OWN)
    for name in REQUIRED:
        if name not in names:
            present = ", ".join(names) or "none"
            raise DataError(
                f"{path}, line {line}: no {name!r}; expected {expected}; found: {present}"
            )
    check_others(names, OWN, f"{path}, line {line}")


def check_others(names: Iterable[str], own: Container[str], where: str) -> None:
    """Check the names of the columns that are carried through.

    Args:
        names: all columns.
        own: those that mean something.
        where: begins the message of an error.

    Raises:
        DataError: if another column is called almost like "start" or "end", or has the name of a
            column of the manifest.
    """
    names = list(names)
    for name in names:
        if name in own:
            continue
        for time in OPTIONAL:
            if time not in names and _is_slip(name.lower(), time):
                raise DataError(f"{where}: {name!r} is probably {time!r}; rename it")
        if not name.strip() or "\0" in name:
            raise DataError(f"{where}: the column {name!r} needs a name")
        if name.lower() in (*SCHEMA.names, *MODEL_SCHEMA.names):
            raise DataError(
                f"{where}: the manifest has a column {name.lower()!r} of its own; rename yours"
            )


def _is_slip(name: str, own: str) -> bool:
    """Return whether a name is probably meant to be another one.

    It may have a word for time added, such as `start_time` or `endSec`, or two letters swapped. If
    it is long enough to tell from words such as "en", one letter may be extra, missing or wrong.
    """
    if name.startswith(own) and re.fullmatch(TIME_WORDS, name[len(own) :]):
        return True
    longer, shorter = (name, own) if len(name) > len(own) else (own, name)
    if len(longer) == len(shorter):
        places = [i for i, (a, b) in enumerate(zip(name, own, strict=True)) if a != b]
        if len(places) == 2 and places[1] == places[0] + 1 and sorted(name) == sorted(own):
            return True
        return len(own) > 3 and len(places) == 1
    return len(own) > 3 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
