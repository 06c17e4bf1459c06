"""captions.csv: which sentences describe which video, or which part of it."""

from __future__ import annotations

import csv
import math
import posixpath
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lumiere.curation.reasons import CurationError

REQUIRED = ("video", "caption")


@dataclass(frozen=True)
class Caption:
    """One row.

    Attributes:
        text: the sentence.
        span: (start, end) in seconds from the first frame, or None: it describes the whole video.
        problem: what is wrong with the row's span; empty if nothing is.
    """

    text: str
    span: tuple[float, float] | None = None
    problem: str = ""


def read_captions(path: Path) -> dict[str, list[Caption]]:
    """All rows with a sentence, by video (a path relative to the raw folder), in the file's order.

    Raises:
        CurationError: if the file is missing, is no UTF-8 CSV, or lacks a column.
    """
    try:
        # utf-8-sig: spreadsheets put a mark in front that would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
            missing = [name for name in REQUIRED if name not in columns]
            if missing:
                found = ", ".join(columns) or "none"
                raise CurationError(f"{path}: no column {missing[0]!r}; it needs {', '.join(REQUIRED)}; found: {found}")
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise CurationError(f"{path}: no such file; it must hold the columns {', '.join(REQUIRED)}") from None
    except IsADirectoryError:
        raise CurationError(f"{path}: a folder; a CSV file with the columns {', '.join(REQUIRED)} is needed") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CurationError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    captions: dict[str, list[Caption]] = {}
    for line, row in rows:
        name, text = (row["video"] or "").strip(), " ".join((row["caption"] or "").split())
        if name and text:
            captions.setdefault(normal_name(name), []).append(_caption(line, row, text))
    return captions


def normal_name(name: str) -> str:
    """One spelling per file: macOS stores other Unicode forms than most editors write."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _caption(line: int, row: dict[str, str | None], text: str) -> Caption:
    start, end = ((row.get(key) or "").strip() for key in ("start", "end"))
    if not start and not end:
        return Caption(text)
    try:
        span = (float(start or 0), float(end))
    except ValueError:
        return Caption(text, problem=f"line {line}: start {start!r}, end {end!r} are no two numbers")
    if not (math.isfinite(span[0]) and math.isfinite(span[1]) and 0 <= span[0] < span[1]):
        return Caption(text, problem=f"line {line}: start {start}, end {end} are no span")
    return Caption(text, span)
