"""Captions from JSON lines, Parquet and text files give what the same CSV gives."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumiere.curation.caption_files import read_sidecars
from lumiere.curation.captions import Caption, add_sidecars, read_captions
from lumiere.errors import DataError

EXPECTED = {
    "a.mp4": [Caption("one, two"), Caption("later", (Fraction(6, 5), Fraction(5, 2)))],
    "b.mp4": [],
}
CSV = 'video,caption,start,end\na.mp4,"one, two",,\na.mp4,later,1.2,2.5\nb.mp4,,,\n'
JSON = """{"video": "a.mp4", "caption": " one,  two", "views": 7}

{"video": "a.mp4", "caption": "later", "start": 1.2, "end": "2.5", "tags": ["x"]}
{"video": "b.mp4", "caption": null}
"""


def write_parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_all_formats_say_the_same(tmp_path):
    (tmp_path / "c.csv").write_text(CSV)
    (tmp_path / "c.jsonl").write_text(JSON)
    write_parquet(
        tmp_path / "c.parquet",
        caption=["one, two", "later", ""],
        video=["a.mp4", "a.mp4", "b.mp4"],
        start=[None, 1.2, None],
        end=[None, 2.5, None],
        width=[1, 2, 3],
    )
    for name in ("c.csv", "c.jsonl", "c.parquet"):
        assert read_captions(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video": "a.mp4", "caption": "x"}\n{"video": ', "line 2: not JSON"),
        ('["a.mp4", "x"]', "line 1: no object"),
        ('{"video": "a.mp4", "text": "x"}', "line 1: no 'caption'; .*found: video, text"),
        ('{"video": "a.mp4", "caption": "x", "strat": 1}', "'strat' is probably 'start'; rename"),
        ('{"video": "a.mp4", "caption": ["x"]}', "caption is .*expected text or a number"),
        ('{"video": "a.mp4", "caption": "a\\u0000"}', "NUL"),
        ('{"video": null, "caption": "x"}', "line 1: no video; name it"),
        ("\n", "no rows"),
    ],
)
def test_mistakes_in_json_lines_are_named(tmp_path, text, message):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "c.jsonl")


def test_mistakes_in_parquet_are_named(tmp_path):
    path = tmp_path / "c.parquet"
    with pytest.raises(DataError, match="no such file"):
        read_captions(path)
    path.write_text(CSV)
    with pytest.raises(DataError, match="not a Parquet file"):
        read_captions(path)
    with pytest.raises(DataError, match="no 'caption'"):
        read_captions(write_parquet(path, video=["a.mp4"], captoin=["x"]))


def test_texts_beside_videos_are_captions_where_no_row_is(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a boat\n\n a  boat \nits sail\n", "utf-8-sig")
    (tmp_path / "notes.txt").write_text("not beside a video")
    (tmp_path / "link.txt").symlink_to(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    names = ["in/a.MP4", "in/a.txt", "link.mp4", "link.txt", "notes.txt", "pipe.mp4", "pipe.txt"]
    sidecars, others = read_sidecars(tmp_path, names)
    assert sidecars == {"in/a.MP4": ["a boat", "its sail"]}
    assert others == [name for name in names if name != "in/a.txt"]
    assert add_sidecars({}, sidecars) == {"in/a.MP4": [Caption("a boat"), Caption("its sail")]}
    row = {"in/a.MP4": [Caption("from the file")]}
    assert add_sidecars(row, sidecars) == row
    (tmp_path / "in" / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not in UTF-8"):
        read_sidecars(tmp_path, names)
