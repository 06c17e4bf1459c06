"""Reads captions from CSV, JSON lines or Parquet, and from text files beside the videos."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lumiere.curation.probe import VIDEO_SUFFIXES
from lumiere.data.tables import read_table
from lumiere.errors import DataError

REQUIRED, OPTIONAL = ("video", "caption"), ("start", "end")
SIMILAR = 0.7  # names of columns that are as alike are a slip, not another column
MOST_SIDECAR_BYTES = 100_000

Cells = dict[str, str]


def read_rows(path: Path) -> list[tuple[int, Cells]]:
    """Read the rows of a file of captions; its suffix tells the format.

    CSV may have no other columns, because a misplaced comma makes some. JSON lines and Parquet may,
    and they are left out.

    Args:
        path: `.jsonl` or `.parquet`; every other name is CSV.

    Returns:
        For each row its line (in Parquet its row), counted from 1, and its cells by column as text.

    Raises:
        DataError: with the file, the line, what is wrong and how to fix it.
    """
    readers = {".jsonl": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return read_table(path, REQUIRED, OPTIONAL)
    try:
        rows = list(reader(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    if not rows:
        raise DataError(f"{path}: no rows; expected at least one")
    return [(line, _cells(path, line, row)) for line, row in rows]


def read_sidecars(raw: Path, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Read the captions that lie beside the videos, such as `a.txt` beside `a.mp4`: one sentence a
    line.

    Args:
        raw: the folder of raw videos.
        names: all files in it, relative.

    Returns:
        The sentences by video, and the names of all other files.

    Raises:
        DataError: if a file is too large for captions, or not in UTF-8.
    """
    videos: dict[PurePosixPath, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            videos.setdefault(path.with_suffix(""), []).append(name)
    sentences: dict[str, list[str]] = {}
    others = []
    for name in names:
        path = PurePosixPath(name)
        own = videos.get(path.with_suffix(""), []) if path.suffix.lower() == ".txt" else []
        file = raw / name
        if not own or path.name.startswith(".") or file.is_symlink() or not file.is_file():
            others.append(name)
            continue
        lines = _read_lines(file)
        sentences |= dict.fromkeys(own, lines)
    return sentences, others


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that hold something, each once."""
    if path.stat().st_size > MOST_SIDECAR_BYTES:
        raise DataError(f"{path}: more than {MOST_SIDECAR_BYTES:,} bytes; are these captions?")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not in UTF-8; save the file in that encoding") from None
    if "\0" in text:
        raise DataError(f"{path}: holds a NUL character; delete it")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON lines file."""
    for line, text in enumerate(path.read_bytes().split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            # Times stay as they are written, because floats are not exact.
            row = json.loads(text.decode("utf-8-sig"), parse_float=str)
        except ValueError as error:  # also what is not UTF-8
            raise DataError(f"{path}, line {line}: not JSON in UTF-8: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {line}: no object; expected {{"video": ..., ...}}')
        yield line, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file."""
    try:
        file = pq.ParquetFile(path)
        known = [name for name in file.schema_arrow.names if name in (*REQUIRED, *OPTIONAL)]
        _check_names(path, 1, file.schema_arrow.names)
        rows = file.read(columns=known).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    yield from enumerate(rows, 1)


def _cells(path: Path, line: int, row: dict[str, Any]) -> Cells:
    """Return the cells that count, as text.

    Raises:
        DataError: if one is missing, or neither text nor a number.
    """
    _check_names(path, line, list(row))
    cells = {}
    for name in (*REQUIRED, *OPTIONAL):
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise DataError(f"{path}, line {line}: {name} is {value!r}; expected text or a number")
        cells[name] = "" if value is None else str(value).strip()
        if "\0" in cells[name]:
            raise DataError(f"{path}, line {line}: holds a NUL character; delete it")
    return cells


def _check_names(path: Path, line: int, names: list[str]) -> None:
    """Raise DataError if a column is missing, or is called almost like another."""
    expected = ", ".join((*REQUIRED, *OPTIONAL))
    for name in REQUIRED:
        if name not in names:
            found = ", ".join(names) or "none"
            raise DataError(
                f"{path}, line {line}: no {name!r}; expected {expected}; found: {found}"
            )
    for name in names:
        if name in (*REQUIRED, *OPTIONAL):
            continue
        near = difflib.get_close_matches(name.lower(), (*REQUIRED, *OPTIONAL), 1, SIMILAR)
        if near and near[0] not in names:
            raise DataError(f"{path}, line {line}: {name!r} is probably {near[0]!r}; rename it")
