"""Reads captions.csv (or .jsonl, .parquet), which says which sentences describe a video or a part of it."""

from __future__ import annotations

import dataclasses
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
        notes: the values of repeated rows that are not used, in words.
    """

    text: str
    span: tuple[Fraction, Fraction] | None = None
    problem: str = ""
    others: Mapping[str, str] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


def read_captions(path: Path) -> dict[str, list[Caption]]:
    """Read all rows.

    Returns:
        The captions of each video, in the file's order, each once; none if its rows have no
        sentence. A video is a path relative to the raw folder, spelled as by `normal_name`. Of
        rows that differ only in other columns, the first one counts and gets a note.

    Raises:
        DataError: if the file is missing, is not of the format that its name says, lacks a column,
            or has a row without a video.
    """
    captions: dict[str, list[Caption]] = {}
    for line, row in read_rows(path):
        name, text = row["video"], " ".join(row["caption"].split())
        if not name:
            raise DataError(f"{path}, line {line}: no video; name it, or delete the row")
        captions_so_far = captions.setdefault(normal_name(name), [])
        if text:
            where = f"{path.name}, line {line}"
            add_caption(captions_so_far, make_caption(text, row, where), where)
    return captions


def add_caption(known: list[Caption], caption: Caption, where: str) -> None:
    """Add a caption, unless it is there; then note the values of its other columns that are not.

    Args:
        known: the captions of a video so far, which are changed.
        caption: the next one.
        where: begins the note.
    """
    if caption not in known:
        known.append(caption)
        return
    place = known.index(caption)
    first = known[place]
    lost = [
        f"{name}: {cell}"
        for name, cell in caption.others.items()
        if cell and cell != first.others.get(name)
    ]
    if lost:
        note = f"{where}: a caption again, whose other values are not used ({', '.join(lost)})"
        known[place] = dataclasses.replace(first, notes=(*first.notes, note))


def add_sidecars(
    captions: dict[str, list[Caption]], sidecars: dict[str, list[Caption]]
) -> dict[str, list[Caption]]:
    """Add what lies beside each video that has no row of its own."""
    return {normal_name(video): own for video, own in sidecars.items()} | captions


def normal_name(name: str) -> str:
    """Spell a path in one way: macOS stores names in another Unicode form than most editors
    write.
    """
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def make_caption(text: str, cells: Mapping[str, str], where: str) -> Caption:
    """Make a caption.

    Args:
        text: the sentence.
        cells: `start`, `end` and the other columns, as text; each may be absent or empty.
        where: begins the caption's `problem`.
    """
    start, end = cells.get("start", ""), cells.get("end", "")
    others = {name: cell for name, cell in cells.items() if name not in OWN}
    if not start and not end:
        return Caption(text, others=others)
    try:
        span = (Fraction(start or 0), Fraction(end))
    except (ValueError, ZeroDivisionError):
        problem = f"{where}: start {start!r} and end {end!r} are not two numbers"
        return Caption(text, problem=problem, others=others)
    if not 0 <= span[0] < span[1]:
        problem = f"{where}: start {start} is not below end {end}, or is negative"
        return Caption(text, problem=problem, others=others)
    return Caption(text, span, others=others)
