"""Reads captions.csv (or .jsonl, .parquet), which says which sentences describe a video or a part of it."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from lumiere.curation.caption_files import OWN, read_rows
from lumiere.errors import DataError


@dataclass(frozen=True)
class Caption:
    """One row of captions.csv.

    Attributes:
        text: the sentence.
        span: (start, end) in seconds from the first frame, exactly as written; None if the sentence
            describes the whole video.
        problem: why the row's span cannot be used; empty if it can.
        others: the cells of all other columns, by column. They do not count when captions are
            compared.
    """

    text: str
    span: tuple[Fraction, Fraction] | None = None
    problem: str = ""
    others: Mapping[str, str] = field(default_factory=dict, compare=False)


def read_captions(path: Path) -> dict[str, list[Caption]]:
    """Read all rows.

    Returns:
        The captions of each video, in the file's order, each once; none if its rows have no
        sentence. A video is a path relative to the raw folder, spelled as by `normal_name`. Of
        rows that differ in other columns only, the first one counts.

    Raises:
        DataError: if the file is missing, is not of the format that its name says, lacks a column,
            or has a row without a video.
    """
    captions: dict[str, list[Caption]] = {}
    for line, row in read_rows(path):
        name, text = row["video"], " ".join(row["caption"].split())
        if not name:
            raise DataError(f"{path}, line {line}: no video; name it, or delete the row")
        known = captions.setdefault(normal_name(name), [])
        if text and (caption := _caption(line, row, text)) not in known:
            known.append(caption)
    return captions


def add_sidecars(
    captions: dict[str, list[Caption]], sidecars: dict[str, list[str]]
) -> dict[str, list[Caption]]:
    """Add the sentences beside each video that has no row of its own."""
    added = {
        normal_name(video): [Caption(text) for text in texts] for video, texts in sidecars.items()
    }
    return added | captions


def normal_name(name: str) -> str:
    """Spell a path in one way: macOS stores names in another Unicode form than most editors
    write.
    """
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _caption(line: int, row: dict[str, str], text: str) -> Caption:
    start, end = row["start"], row["end"]
    others = {name: cell for name, cell in row.items() if name not in OWN}
    if not start and not end:
        return Caption(text, others=others)
    try:
        span = (Fraction(start or 0), Fraction(end))
    except (ValueError, ZeroDivisionError):
        problem = f"line {line}: start {start!r} and end {end!r} are not two numbers"
        return Caption(text, problem=problem, others=others)
    if not 0 <= span[0] < span[1]:
        problem = f"line {line}: start {start} is not below end {end}, or is negative"
        return Caption(text, problem=problem, others=others)
    return Caption(text, span, others=others)
