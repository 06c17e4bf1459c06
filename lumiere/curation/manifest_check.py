"""Checks a manifest that is read: people edit it by hand, and a wrong cell must not train silently."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lumiere.curation.reasons import Reason
from lumiere.errors import DataError

CURE = "run the curate stage again, or correct the cell"
SHA256 = re.compile(r"[0-9a-f]{64}")
SAME_TIME = 1e-6  # seconds

Row = Mapping[str, Any]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _is_list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


# By the type of a column: what a cell has to be, in words and as a test.
CELLS: dict[pa.DataType, tuple[str, Callable[[Any], bool]]] = {
    pa.string(): ("text", _is_text),
    pa.float64(): ("a number", _is_number),
    pa.int64(): ("a whole number", _is_whole),
    pa.list_(pa.string()): ("a list of texts", _is_list_of(_is_text)),
    pa.list_(pa.float64()): ("a list of numbers", _is_list_of(_is_number)),
    pa.list_(pa.int64()): ("a list of whole numbers", _is_list_of(_is_whole)),
}
# The values that a column may have.
VALUES: dict[str, tuple[str, ...]] = {
    "verdict": ("accepted", "rejected"),
    "split": ("train", "validation", ""),
    "decoder": ("pyav", "decord", ""),
    "reason": (*Reason, ""),
}
ANY_SIZE = (0, math.inf)
SHARE = (0, 1)
SLACK = 1e-4  # beyond a range, for what models round
# From where to where the numbers of a column may lie, also those in lists.
RANGES: dict[str, tuple[float, float]] = {
    "start": ANY_SIZE, "end": ANY_SIZE, "width": ANY_SIZE, "height": ANY_SIZE, "crop": ANY_SIZE,
    "duration": ANY_SIZE, "frame_rate": ANY_SIZE, "num_frames": ANY_SIZE, "num_shots": ANY_SIZE,
    "bitrate": ANY_SIZE, "motion": ANY_SIZE, "motion_curve": ANY_SIZE, "sharpness": ANY_SIZE,
    "dark_share": SHARE, "bright_share": SHARE, "text_area": SHARE, "caption_match": (-1, 1),
    "match_curve": (-1, 1),
}  # fmt: skip
# Columns that are the same for all accepted clips of a video, and for those without black bars.
OF_VIDEO = ("sha256", "decoder", "duration", "split")
OF_PICTURE = ("width", "height")


def read_columns(path: Path, fields: Sequence[pa.Field]) -> pa.Table:
    """Read some columns of a manifest, and check the type and the value of each cell.

    Args:
        path: the manifest.
        fields: the name and the type of each column.

    Raises:
        DataError: with the column, the row, what is expected and the cure.
    """
    try:
        file = pq.ParquetFile(path)
        present = set(file.schema_arrow.names)
        for field in fields:
            if field.name not in present:
                raise DataError(f"{path}: no column {field.name!r}", cure=CURE)
        names = [field.name for field in fields]
        table = file.read(columns=names).select(names)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", cure="run the curate stage first") from None
    except pa.ArrowException as error:
        problem = f"{path}: not a Parquet file: {str(error).splitlines()[0]}"
        raise DataError(problem, cure="run the curate stage again") from None
    columns = [_column(path, table, field) for field in fields]
    checked = pa.table(columns, schema=pa.schema(fields))
    for name in names:
        _check_values(path, checked, name)
        _check_range(path, checked, name)
    _check_ids(path, checked)
    return checked


def check_accepted(path: Path, rows: Iterable[tuple[int, Row]], others: Sequence[str] = ()) -> None:
    """Check what decoding needs of accepted clips, as far as the rows have its columns, and that the
    clips of a video agree, because it is read once for all of them.

    Args:
        path: the manifest, for messages.
        rows: the accepted rows, each with its place in the file, counted from 0.
        others: columns that the table of captions added.

    Raises:
        DataError: with the column, the row, what is expected and the cure.
    """
    first: dict[tuple[str, str], tuple[int, Any]] = {}
    crops: dict[str, list[tuple[int, Any, list[int]]]] = {}
    for number, row in rows:
        for column, expected, is_right in ACCEPTED:
            if column in row and not is_right(row):
                raise _error(path, number, row.get("clip_id"), column, row[column], expected)
        for column in others:
            values = row[column]
            if values and "captions" in row and len(values) != len(row["captions"]):
                expected = "a text for each caption"
                raise _error(path, number, row.get("clip_id"), column, values, expected)
        if "video" not in row:
            continue
        columns = OF_VIDEO if row.get("crop") else (*OF_VIDEO, *OF_PICTURE)
        for column in columns:
            other, known = first.setdefault((row["video"], column), (number, row.get(column)))
            if row.get(column) != known:
                expected = f"{known!r}, as in row {other + 1} of the same video"
                raise _error(path, number, row.get("clip_id"), column, row.get(column), expected)
        if row.get("crop"):
            crops.setdefault(row["video"], []).append((number, row.get("clip_id"), row["crop"]))
    _check_crops(path, crops, first)


def _check_crops(
    path: Path,
    crops: Mapping[str, Sequence[tuple[int, Any, Sequence[int]]]],
    first: Mapping[tuple[str, str], tuple[int, Any]],
) -> None:
    """Raise DataError for the first crop that reaches beyond the frames of its video. Their size is
    that of the video's clips without a crop; if all clips have one, the decode stage checks instead.

    Args:
        path: the manifest, for messages.
        crops: the place, the clip_id and the crop of each row with one, by video.
        first: the place and the value of the first cell in a video's column.
    """
    for video, own in crops.items():
        if any((video, column) not in first for column in OF_PICTURE):
            continue
        (other, width), (_, height) = (first[video, column] for column in OF_PICTURE)
        if width is None or height is None:
            continue  # a column that was not read
        for number, clip_id, box in own:
            if box[0] + box[2] > width or box[1] + box[3] > height:
                expected = (
                    f"a box within {width}x{height} pixels, as in row {other + 1} of the same video"
                )
                raise _error(path, number, clip_id, "crop", box, expected)


@functools.lru_cache(maxsize=64)
def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _is_time(name: str) -> Callable[[Row], bool]:
    """Return a test of an exact time, which the rounded column beside it repeats."""

    def test(row: Row) -> bool:
        exact = _fraction(row[f"exact_{name}"])
        if exact is None or exact < 0:
            return False
        return name not in row or abs(float(exact) - row[name]) <= SAME_TIME

    return test


def _is_after_start(row: Row) -> bool:
    start, end = _fraction(row.get("exact_start", "0")), _fraction(row["exact_end"])
    return start is None or end is None or "exact_start" not in row or start < end


def _is_in_video(row: Row) -> bool:
    end = _fraction(row["exact_end"])
    return end is None or "duration" not in row or float(end) <= row["duration"] + SAME_TIME


def _is_in_folder(row: Row) -> bool:
    name = row["video"]
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def _fits_size(row: Row) -> bool:
    """Return whether a crop is empty, or as large as the picture that it leaves."""
    if not row["crop"]:
        return True
    size = [
        row.get(name, size) for name, size in zip(("width", "height"), row["crop"][2:], strict=True)
    ]
    return row["crop"][2:] == size


def _are_sentences(captions: Sequence[str]) -> bool:
    return bool(captions) and all(caption.strip() for caption in captions)


# Columns of accepted rows, what each has to be, and a test.
ACCEPTED: tuple[tuple[str, str, Callable[[Row], bool]], ...] = (
    ("exact_start", "a fraction of seconds, as in start", _is_time("start")),
    ("exact_end", "a fraction of seconds, as in end", _is_time("end")),
    ("exact_end", "more than exact_start", _is_after_start),
    ("exact_end", "at most duration", _is_in_video),
    ("video", "a path in the raw folder", _is_in_folder),
    ("captions", "at least one sentence, and none empty", lambda row: _are_sentences(row["captions"])),
    ("width", "at least 1", lambda row: row["width"] >= 1),
    ("height", "at least 1", lambda row: row["height"] >= 1),
    ("split", "train or validation", lambda row: bool(row["split"])),
    ("decoder", "pyav or decord", lambda row: bool(row["decoder"])),
    ("crop", "nothing, or left, top, width and height", lambda row: len(row["crop"]) in (0, 4)),
    ("crop", "width and height as in their columns", _fits_size),
    ("sha256", "64 hexadecimal digits", lambda row: bool(SHA256.fullmatch(row["sha256"]))),
)  # fmt: skip

# The columns that these tests read.
CHECKED = (
    "clip_id", "video", "verdict", "start", "end", "exact_start", "exact_end", "duration", "captions",
    "split", "decoder", "width", "height", "crop", "sha256",
)  # fmt: skip


def _column(path: Path, table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """Return a column in its type; another type that holds the same values will do."""
    column = table[field.name]
    if _is_fine(column, field.type):
        return column
    expected, is_right = CELLS[field.type]
    values = column.to_pylist()
    for number, value in enumerate(values):
        if not is_right(value):
            raise _error(path, number, _clip_id(table, number), field.name, value, expected)
    return pa.chunked_array([pa.array(values, field.type)])


def _is_fine(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Return whether a column has a type and no missing cells, without a look at each cell."""
    if column.type != kind or column.null_count:
        return False
    if pa.types.is_list(kind):
        column, kind = pc.list_flatten(column), kind.value_type
    return not column.null_count and not (
        pa.types.is_floating(kind) and pc.any(pc.invert(pc.is_finite(column))).as_py()
    )


def _check_values(path: Path, table: pa.Table, name: str) -> None:
    """Raise DataError at the first value that a column may not have."""
    if name not in VALUES:
        return
    column = table[name]
    is_known = pc.is_in(column, pa.array([str(value) for value in VALUES[name]]))
    number = pc.index(is_known, False).as_py()
    if number >= 0:
        expected = ", ".join(value or "nothing" for value in VALUES[name])
        clip_id = _clip_id(table, number)
        raise _error(path, number, clip_id, name, column[number].as_py(), f"one of {expected}")


def _check_range(path: Path, table: pa.Table, name: str) -> None:
    """Raise DataError at the first number of a column that is too small or too large."""
    if name not in RANGES:
        return
    column, (low, high) = table[name], RANGES[name]
    is_list = pa.types.is_list(column.type)
    numbers = pc.list_flatten(column) if is_list else column
    numbers = numbers.cast(pa.float64(), safe=False)
    lowest, highest = pc.min_max(numbers).as_py().values()
    if lowest is None or (lowest >= low - SLACK and highest <= high + SLACK):
        return
    is_out = pc.or_(pc.less(numbers, low - SLACK), pc.greater(numbers, high + SLACK))
    place = pc.index(is_out, True).as_py()
    row = pc.list_parent_indices(column)[place].as_py() if is_list else place
    expected = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
    raise _error(path, row, _clip_id(table, row), name, column[row].as_py(), expected)


def _check_ids(path: Path, table: pa.Table) -> None:
    """Raise DataError if two rows have one clip_id, because a clip would train twice."""
    if "clip_id" not in table.column_names:
        return
    column = table["clip_id"]
    if pc.count_distinct(column).as_py() == len(column):
        return
    first: dict[str, int] = {}
    for number, clip_id in enumerate(column.to_pylist()):
        if clip_id in first:
            expected = f"a name of its own; row {first[clip_id] + 1} has this one"
            raise _error(path, number, None, "clip_id", clip_id, expected)
        first[clip_id] = number


def _clip_id(table: pa.Table, number: int) -> Any:
    return table["clip_id"][number].as_py() if "clip_id" in table.column_names else None


def _error(
    path: Path, number: int, clip_id: Any, column: str, value: Any, expected: str
) -> DataError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    clip = f" ({clip_id})" if isinstance(clip_id, str) and clip_id else ""
    problem = f"{path}, row {number + 1}{clip}: {column} is {shown}; expected {expected}"
    return DataError(problem, cure=CURE)
