"""captions.csv: which sentences describe which video, or which part of it."""

from __future__ import annotations

import math
import posixpath
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lumiere.data.tables import read_table
from lumiere.errors import DataError


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
        DataError: if the file is missing, or no CSV file in UTF-8 with these columns.
    """
    try:
        rows = read_table(path, ("video", "caption"), ("start", "end"))
    except ValueError as error:
        raise DataError(str(error)) from None
    captions: dict[str, list[Caption]] = {}
    for line, row in rows:
        name, text = row["video"], " ".join(row["caption"].split())
        if name and text:
            captions.setdefault(normal_name(name), []).append(_caption(line, row, text))
    return captions


def normal_name(name: str) -> str:
    """One spelling per file: macOS stores other Unicode forms than most editors write."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _caption(line: int, row: dict[str, str], text: str) -> Caption:
    start, end = row["start"], row["end"]
    if not start and not end:
        return Caption(text)
    try:
        span = (float(start or 0), float(end))
    except ValueError:
        return Caption(
            text, problem=f"line {line}: start {start!r}, end {end!r} are no two numbers"
        )
    if not (math.isfinite(span[0]) and math.isfinite(span[1]) and 0 <= span[0] < span[1]):
        return Caption(text, problem=f"line {line}: start {start}, end {end} are no span")
    return Caption(text, span)
