"""Writes and reads the manifest: one row per clip or rejected input, as parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lumiere.curation.manifest_check import CHECKED, check_accepted, read_columns
from lumiere.files import write_atomically

ALSO = " Also: "  # in a detail, before a reason that no threshold changes
# Begins the detail of a duplicate; the `clip_name` that is kept follows.
DUPLICATE_OF = "duplicate_of:"
A_DUPLICATE = ", a duplicate"  # follows the name of a clip, in notes of the clip that is kept
MIRRORED = "; mirrored, so its captions are not taken over"  # may end the detail of a duplicate

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # the video's path, mostly without suffix; "#<number>" for a part
        ("video", pa.string()),  # path relative to the raw folder
        ("start", pa.float64()),  # seconds from the first frame
        ("end", pa.float64()),
        ("exact_start", pa.string()),  # the same as fractions, such as "6/5"
        ("exact_end", pa.string()),
        ("verdict", pa.string()),  # "accepted" or "rejected"
        ("reason", pa.string()),  # a code of `reasons.Reason`, or empty
        ("detail", pa.string()),  # the reason; for a duplicate, DUPLICATE_OF + clip_name
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),  # "train", "validation", or empty for rejected clips
        ("group", pa.string()),  # the best of the videos that look alike; a group is never split
        ("decoder", pa.string()),  # "decord" or "pyav"
        ("decoder_reason", pa.string()),  # why it is not decord
        ("codec", pa.string()),
        ("container", pa.string()),
        ("width", pa.int64()),  # pixels, as shown, without black bars
        ("height", pa.int64()),
        ("crop", pa.list_(pa.int64())),  # left, top, width, height within black bars; empty without
        ("duration", pa.float64()),  # seconds, of the whole video
        ("frame_rate", pa.float64()),
        ("num_frames", pa.int64()),  # decoded source frames of the whole video
        ("num_shots", pa.int64()),
        ("bitrate", pa.float64()),  # bits per second of the whole file
        ("motion", pa.float64()),  # mean length of the optical flow, pixels per frame at 64 pixels
        ("motion_curve", pa.list_(pa.float64())),  # of the fastest 5 %, for each 1/16 s
        ("sharpness", pa.float64()),  # median variance of the Laplacian
        ("dark_share", pa.float64()),  # of the pixels that are nearly black, within black bars
        ("bright_share", pa.float64()),  # of the pixels that are nearly white
        ("hash", pa.string()),  # perceptual hashes of four frames, hexadecimal
        ("notes", pa.list_(pa.string())),  # what is corrected: rotation, HDR, bars, ...
        ("sha256", pa.string()),  # of the file
    ]
)

# Columns that are there only if the params name a model that fills them.
MODEL_SCHEMA = pa.schema(
    [
        ("captioner", pa.string()),  # the model that wrote the captions; empty if a person did
        ("aesthetic", pa.float64()),  # of LAION's head, about 1 to 10
        ("caption_match", pa.float64()),  # cosine of pictures and the caption that fits worst
        ("match_curve", pa.list_(pa.float64())),  # the same of evenly spread pictures, in order
        ("text_area", pa.float64()),  # share of the pictures under text
    ]
)

BLOCK = 1024  # rows that are turned into Python values at a time
_OWN = {*SCHEMA.names, *MODEL_SCHEMA.names}
OTHER_TYPE = pa.list_(pa.string())  # of columns that the table of captions adds

_DEFAULTS = {
    pa.string(): "",
    pa.float64(): 0.0,
    pa.int64(): 0,
    pa.list_(pa.string()): [],
    pa.list_(pa.float64()): [],
    pa.list_(pa.int64()): [],
}


def empty_row() -> dict[str, Any]:
    """Return a row in which every column has its default."""
    return {field.name: _DEFAULTS[field.type] for field in SCHEMA}


def clip_name(row: Mapping[str, Any]) -> str:
    """Return how people and other rows name a clip: its video, with "#<number>" for a part."""
    whole, mark, number = row["clip_id"].rpartition("#")
    is_part = mark and whole in (row["video"], str(PurePosixPath(row["video"]).with_suffix("")))
    return f"{row['video']}#{number}" if is_part else row["video"]


def kept_clip(detail: str) -> str:
    """Return the `clip_name` of the clip that is kept, from the detail of a duplicate."""
    return detail.removeprefix(DUPLICATE_OF).removesuffix(MIRRORED)


def describe_duplicate(detail: str) -> str:
    """Return the detail of a duplicate in a sentence."""
    end = MIRRORED if detail.endswith(MIRRORED) else ""
    return f"It shows the same as {kept_clip(detail)}, which is kept{end}."


def notes_about(copy: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """Return the notes of a kept clip that concern one of its duplicates."""
    columns = ["captions", *(name for name in kept if name not in _OWN)]
    beginnings = tuple(f"{column} of {clip_name(copy)}{A_DUPLICATE}" for column in columns)
    return [note for note in kept["notes"] if note.startswith(beginnings)]


def default_of(column: str) -> Any:
    """Return what a cell of a model's column holds where the model saw no clip."""
    return _DEFAULTS[MODEL_SCHEMA.field(column).type]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the given order; the same rows give the same bytes.

    Columns of the rows that `SCHEMA` lacks come from models, see `MODEL_SCHEMA`, or from the table
    of captions. The latter are lists of text with one value for each caption.
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in SCHEMA.names)
    models = [column for column in MODEL_SCHEMA if column.name in names]
    others = [(name, OTHER_TYPE) for name in names if name not in MODEL_SCHEMA.names]
    schema = pa.schema([*SCHEMA, *models, *others])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_manifest(
    path: str | Path,
    columns: Sequence[str] | None = None,
    verdict: str = "",
    with_others: bool = False,
) -> list[dict[str, Any]]:
    """Read all that `open_manifest` opens into memory."""
    return list(open_manifest(path, columns, verdict, with_others))


def open_manifest(
    path: str | Path,
    columns: Sequence[str] | None = None,
    verdict: str = "",
    with_others: bool = False,
) -> Rows:
    """Read columns of a manifest, and check what is read.

    Memory grows with the columns and rows that are asked for, not with the others. It holds columns
    of numbers and text, which take about a fifth of the memory of Python's values.

    Args:
        path: the manifest.
        columns: names of `SCHEMA`, or of `MODEL_SCHEMA`, which are read if they are there; by
            default all, and those that the table of captions added.
        verdict: only rows with this verdict; by default all.
        with_others: reads `other_columns` too.

    Raises:
        DataError: if it is no manifest, or a column is missing, or a cell has the wrong type or
            value; it names the column, the row and the cure.
    """
    path = Path(path)
    table = _read_table(path, columns, with_others)
    numbers: Sequence[int] = range(len(table))
    if verdict:
        has_verdict = pc.equal(table["verdict"], verdict)
        # pc.indices_nonzero crashes if there is no row.
        numbers = [i for i, matches in enumerate(has_verdict.to_pylist()) if matches]
        if len(numbers) < len(table):
            table = table.filter(has_verdict)
    others = [name for name in table.column_names if name not in _OWN]
    checked = [*(name for name in CHECKED if name in table.column_names), *others]
    rows = zip(numbers, Rows(table.select(checked)), strict=True)
    accepted = (row for row in rows if row[1]["verdict"] == "accepted")
    check_accepted(path, accepted, others)
    opened = Rows(table)
    del table
    pa.default_memory_pool().release_unused()  # what reading took besides the columns
    return opened


def _read_table(path: Path, columns: Sequence[str] | None, with_others: bool) -> pa.Table:
    """Read columns, see `open_manifest`, and check each cell by itself."""
    asked = [*SCHEMA.names, *MODEL_SCHEMA.names] if columns is None else [*columns, "verdict"]
    names = [name for name in dict.fromkeys(asked) if name not in MODEL_SCHEMA.names]
    present = _column_types(path)
    models = [column for column in MODEL_SCHEMA if column.name in asked and column.name in present]
    table = read_columns(path, [*(SCHEMA.field(name) for name in names), *models])
    for name in other_columns(path) if columns is None or with_others else []:
        table = table.append_column(name, pq.read_table(path, columns=[name])[name])
    return table


class Rows(Sequence[dict[str, Any]]):
    """Holds rows by column. A row becomes Python values each time it is asked for.

    Args:
        table: the columns.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()  # rows of many chunks are found slowly

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # a negative one counts from the end
        return self._table.slice(place, 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), BLOCK):
            yield from self._table.slice(start, BLOCK).to_pylist()


def other_columns(path: str | Path) -> list[str]:
    """Return the names of the columns that the table of captions added."""
    types = _column_types(Path(path))
    # A program that edits a manifest may add columns of its own, such as pandas' index.
    return [name for name, kind in types.items() if name not in _OWN and kind == OTHER_TYPE]


def _column_types(path: Path) -> dict[str, pa.DataType]:
    """Return the types of the columns, by name; none if the file cannot be read, which `read_columns`
    reports.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return {}
    return dict(zip(schema.names, schema.types, strict=True))
