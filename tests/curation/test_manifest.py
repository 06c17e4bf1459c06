"""A manifest that was edited by hand: what is wrong is named by column, row and cure, and what is right
is read, whichever program wrote it.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  it changes the environment when it is first imported
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumiere.curation.manifest import (
    SCHEMA,
    empty_row,
    open_manifest,
    read_manifest,
    write_manifest,
)
from lumiere.errors import DataError

ACCEPTED = empty_row() | {
    "clip_id": "boat", "video": "boat.mp4", "start": 1.2, "end": 3.0, "exact_start": "6/5",
    "exact_end": "3", "verdict": "accepted", "captions": ["a boat"], "split": "train",
    "decoder": "pyav", "motion_curve": [0.5, 0.25], "sha256": "ab" * 32,
    "width": 96, "height": 64, "duration": 3.5,
}  # fmt: skip
REJECTED = empty_row() | {
    "clip_id": "x",
    "video": "x.mp4",
    "verdict": "rejected",
    "reason": "hidden",
}
COLUMNS = ("clip_id", "video", "start", "end", "exact_start", "exact_end", "captions", "sha256")


def edited(path: Path, row: int, column: str, value: Any) -> Path:
    """Write a manifest of three rows in which a person has changed a cell with pandas."""
    rows = [dict(ACCEPTED), dict(REJECTED), ACCEPTED | {"clip_id": "boat2"}]
    table = pd.DataFrame(rows, dtype=object)
    cells = list(table[column])
    cells[row] = value
    table[column] = cells
    for name in SCHEMA.names:
        if all(isinstance(cell, int | float) for cell in table[name]):
            table[name] = pd.to_numeric(table[name])
    try:
        table.to_parquet(path, index=False)
    except Exception:  # cells of several kinds in one column: spreadsheets make text of them
        table[column] = [str(cell) for cell in cells]
        table.to_parquet(path, index=False)
    return path


# row, column and cell -> what the message says besides the column
WRONG = [
    (2, "start", None, r"row 3 \(boat2\): start is .*; expected a number"),
    (0, "start", "soon", r"row 1 \(boat\): start is '.*'; expected a number"),
    (2, "width", 1.5, r"row 3 \(boat2\): width is 1.5; expected a whole number"),
    (2, "video", None, r"row 3 \(boat2\): video is .*; expected text"),
    (0, "captions", "a boat", r"row 1 \(boat\): captions is .*; expected a list of texts"),
    (2, "captions", ["a", None], r"row 3 \(boat2\): captions is .*; expected a list of texts"),
    (2, "captions", [], r"row 3 \(boat2\): captions is \[\]; expected at least one sentence"),
    (2, "motion_curve", [1.0, float("nan")], r"row 3 .*; expected a list of numbers"),
    (1, "verdict", "maybe", r"row 2 \(x\): verdict is 'maybe'; expected one of accepted, rejected"),
    (0, "split", "test", r"row 1 \(boat\): split is 'test'; expected one of train, validation, nothing"),
    (2, "split", "", r"row 3 \(boat2\): split is ''; expected train or validation"),
    (1, "reason", "ugly", r"row 2 \(x\): reason is 'ugly'; expected one of hidden, "),
    (2, "exact_start", "6:5", r"row 3 \(boat2\): exact_start is '6:5'; expected a fraction"),
    (2, "start", 2.0, r"row 3 \(boat2\): exact_start is '6/5'; expected a fraction .* as in start"),
    (0, "crop", [1, 2], r"row 1 \(boat\): crop is \[1, 2\]; expected nothing, or left"),
    (0, "sha256", "ab", r"row 1 \(boat\): sha256 is 'ab'; expected 64 hexadecimal digits"),
    (2, "start", -1.0, r"row 3 \(boat2\): start is -1.0; expected at least 0"),
    (2, "motion_curve", [0.5, -0.5], r"row 3 \(boat2\): motion_curve is \[0.5, -0.5\]; expected at"),
    (0, "crop", [-4, 0, 96, 64], r"row 1 \(boat\): crop is \[-4, 0, 96, 64\]; expected at least 0"),
    (0, "crop", [0, 8, 96, 48], r"row 1 \(boat\): crop is .*; expected width and height as in"),
    (2, "crop", [8, 0, 96, 64], r"row 3 \(boat2\): crop is \[8, 0, 96, 64\]; expected a box within 96x64"),
    (0, "crop", [8, 0, 96, 64], r"row 1 \(boat\): crop is \[8, .*; expected .*, as in row 3 of the same"),
    (2, "crop", [8, 0, 90, 64], r"row 3 \(boat2\): crop is \[8, .*; expected width and height as in"),
    (1, "dark_share", 25.0, r"row 2 \(x\): dark_share is 25.0; expected from 0 to 1"),
    (0, "width", 0, r"row 1 \(boat\): width is 0; expected at least 1"),
    (2, "exact_end", "4", r"row 3 \(boat2\): exact_end is '4'; expected a fraction .* as in end"),
    (2, "duration", 2.5, r"row 3 \(boat2\): exact_end is '3'; expected at most duration"),
    (2, "clip_id", "boat", r"row 3: clip_id is 'boat'; expected a name of its own; row 1 has this"),
    (2, "captions", ["a", " "], r"row 3 \(boat2\): captions is .*; expected at least one sentence"),
    (0, "video", "../boat.mp4", r"row 1 \(boat\): video is '../boat.mp4'; expected a path in the raw"),
    (0, "video", "", r"row 1 \(boat\): video is ''; expected a path in the raw folder"),
    (2, "split", "validation", r"row 3 \(boat2\): split is 'validation'; expected 'train', as in row 1"),
    (2, "width", 100, r"row 3 \(boat2\): width is 100; expected 96, as in row 1 of the same video"),
    (2, "duration", 9.0, r"row 3 \(boat2\): duration is 9.0; expected .*, as in row 1 of the same"),
    (2, "sha256", "cd" * 32, r"row 3 \(boat2\): sha256 is 'cdcd.*; expected '.*, as in row 1 of the"),
]  # fmt: skip


@pytest.mark.parametrize("row, column, cell, message", WRONG)
def test_a_wrong_cell_is_named(tmp_path, row, column, cell, message):
    path = edited(tmp_path / "m.parquet", row, column, cell)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(path)
    assert str(error.value).endswith("; run the curate stage again, or correct the cell")
    assert str(error.value).startswith(f"{path}, row ") and "\n" not in str(error.value)


def test_what_pandas_wrote_is_read_as_before(tmp_path):
    path = edited(tmp_path / "m.parquet", 0, "captions", ["another"])
    expected = [ACCEPTED | {"captions": ["another"]}, REJECTED, ACCEPTED | {"clip_id": "boat2"}]
    assert read_manifest(path) == expected
    write_manifest(tmp_path / "again.parquet", read_manifest(path))
    write_manifest(tmp_path / "own.parquet", expected)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "own.parquet").read_bytes()


def test_columns_are_read_by_name_and_rows_by_verdict(tmp_path):
    write_manifest(tmp_path / "m.parquet", [REJECTED, ACCEPTED | {"source": ["web"]}])
    rows = read_manifest(tmp_path / "m.parquet", COLUMNS, "accepted")
    assert rows == [{name: ACCEPTED[name] for name in (*COLUMNS, "verdict")}]
    assert read_manifest(tmp_path / "m.parquet")[1]["source"] == ["web"]
    cropped = ACCEPTED | {"clip_id": "boat3", "crop": [0, 8, 96, 48], "height": 48}
    write_manifest(tmp_path / "c.parquet", [ACCEPTED, cropped])
    assert [row["crop"] for row in read_manifest(tmp_path / "c.parquet", ["video", "crop"])] == [
        [], [0, 8, 96, 48],
    ]  # fmt: skip
    # A column that is not read need not be there.
    table = pq.read_table(tmp_path / "m.parquet").drop_columns(["motion", "sha256"])
    pq.write_table(table, tmp_path / "less.parquet")
    read_manifest(tmp_path / "less.parquet", COLUMNS[:-1])
    with pytest.raises(DataError, match="no column 'sha256'; run the curate stage again"):
        read_manifest(tmp_path / "less.parquet", COLUMNS)


def test_rows_are_like_a_list_and_take_less_memory(tmp_path):
    curve = {"motion_curve": [i / 7 for i in range(80)]}
    rows = [ACCEPTED | curve | {"clip_id": f"boat#{i}"} for i in range(2500)]
    write_manifest(tmp_path / "m.parquet", [REJECTED, *rows])
    columns = ("clip_id", "motion_curve")

    def opened(read) -> tuple[Any, int]:
        gc.collect()  # what other tests left may otherwise end in between
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        found = read(tmp_path / "m.parquet", columns, "accepted")
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return found, size + pa.total_allocated_bytes() - before

    for read in (open_manifest, read_manifest):  # imports what reading needs, which would count
        opened(read)
    (own, small), (values, large) = opened(open_manifest), opened(read_manifest)
    expected = [{name: row[name] for name in (*columns, "verdict")} for row in rows]
    assert list(own) == values == expected and len(own) == 2500
    assert own[7] == expected[7] and own[-1] == expected[-1] and own[3:9:2] == expected[3:9:2]
    with pytest.raises(IndexError):
        own[2500]
    assert small < large / 3


def test_other_columns_have_a_text_for_each_caption(tmp_path):
    two = ACCEPTED | {"captions": ["a boat", "its sail"]}
    for licence in (["CC", ""], []):
        write_manifest(tmp_path / "m.parquet", [two | {"licence": licence}])
        assert read_manifest(tmp_path / "m.parquet")[0]["licence"] == licence
    write_manifest(tmp_path / "m.parquet", [two | {"licence": ["CC"]}])
    with pytest.raises(DataError, match=r"licence is \['CC'\]; expected a text for each caption"):
        read_manifest(tmp_path / "m.parquet", COLUMNS, "accepted", with_others=True)


def test_a_manifest_without_rows_is_read(tmp_path):
    write_manifest(tmp_path / "m.parquet", [])
    assert read_manifest(tmp_path / "m.parquet", COLUMNS, "accepted") == []
    assert read_manifest(tmp_path / "m.parquet") == []


def test_what_is_no_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"m\.parquet: no such file; run the curate stage first"):
        read_manifest(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_text("video,caption\n")
    with pytest.raises(DataError, match=r"m\.parquet: not a Parquet file: .*; run the curate"):
        read_manifest(tmp_path / "m.parquet")


def test_the_decode_stage_says_so_in_one_line(tmp_path, monkeypatch):
    from stages import decode

    edited(tmp_path / "manifest.parquet", 2, "exact_end", "soon")
    (tmp_path / "raw").mkdir()
    (tmp_path / "params.yaml").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    paths = ["--manifest", "manifest.parquet", "--raw", "raw", "--out", "clips"]
    monkeypatch.setattr(sys, "argv", ["decode", *paths])
    message = r"manifest\.parquet, row 3 \(boat2\): exact_end is 'soon'; .*; `dvc repro` makes"
    with pytest.raises(DataError, match=message):
        decode.main()
