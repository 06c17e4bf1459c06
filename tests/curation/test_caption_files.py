"""Captions from JSON lines and Parquet give what the same CSV gives."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, add_sidecars, read_captions
from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.sidecars import read_sidecars
from lumiere.curation.verdicts import decide
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
        size=[1, 2, 3],
    )
    for name in ("c.csv", "c.jsonl", "c.parquet"):
        assert read_captions(tmp_path / name) == EXPECTED


def test_other_columns_are_carried_into_the_manifest(tmp_path):
    (tmp_path / "c.csv").write_text(
        "video,caption,Source,views\na.mp4,one,web,7\na.mp4,two,,8\nb.mp4,x,y,1\n"
    )
    (tmp_path / "c.jsonl").write_text(
        '{"video": "a.mp4", "caption": "one", "source": "web", "views": 7}\n'
        '{"video": "a.mp4", "caption": "two", "views": 8}\n'
        '{"video": "b.mp4", "caption": "x", "source": "y", "views": 1}\n'
    )
    write_parquet(
        tmp_path / "c.parquet",
        video=["a.mp4", "a.mp4", "b.mp4"],
        caption=["one", "two", "x"],
        source=["web", None, "y"],
        views=[7, 8, 1],
    )
    manifests = []
    for name in ("c.csv", "c.jsonl", "c.parquet"):
        captions = add_sidecars(read_captions(tmp_path / name), {"c.mp4": [Caption("beside it")]})
        outcomes = {f"{video}.mp4": Rejection(Reason.TIMEOUT) for video in "ac"}
        rows, _ = decide(outcomes, captions, CurateConfig())
        write_manifest(tmp_path / f"{name}.manifest", rows)
        assert read_manifest(tmp_path / f"{name}.manifest") == rows
        manifests.append((tmp_path / f"{name}.manifest").read_bytes())
        columns = [(row["captions"], row["source"], row["views"]) for row in rows]
        assert columns == [
            (["one", "two"], ["web", ""], ["7", "8"]),
            (["x"], ["y"], ["1"]),  # a caption without a video
            (["beside it"], [""], [""]),
        ]
    assert manifests[0] == manifests[1] == manifests[2]


def test_other_values_of_a_caption_that_repeats_are_noted(tmp_path):
    (tmp_path / "c.csv").write_text(
        "video,caption,source,views\na.mp4,one,web,7\na.mp4,one,web,7\na.mp4,one,film,\n"
    )
    (tmp_path / "a.json").write_text(
        '[{"caption": "one", "source": "web"}, {"captions": ["one", "two"], "source": "film"}]'
    )
    note = "a caption again, whose other values are not used (source: film)"
    captions = read_captions(tmp_path / "c.csv")
    rows, _ = decide({"a.mp4": Rejection(Reason.TIMEOUT)}, captions, CurateConfig())
    assert rows[0]["captions"] == ["one"] and rows[0]["source"] == ["web"]
    assert rows[0]["notes"] == [f"c.csv, line 4: {note}"]
    sidecars, _, _ = read_sidecars(tmp_path, ["a.mp4", "a.json"], ["a.mp4"])
    one, two = sidecars["a.mp4"]
    assert (one.notes, two.notes) == ((f"a.json: {note}",), ())


def test_a_caption_for_a_video_in_a_folder_that_is_not_opened_says_so(tmp_path):
    captions = {name: [Caption("x")] for name in ("s/.h/t/a.mp4", "link/b.mp4", ".no/c.mp4")}
    outcomes = {"s/.h": Rejection(Reason.HIDDEN), "link": Rejection(Reason.OUTSIDE_FOLDER)}
    rows, _ = decide(outcomes, captions, CurateConfig())
    found = {row["video"]: (row["reason"], row["detail"]) for row in rows}
    reason, detail = found["s/.h/t/a.mp4"]
    assert reason == "hidden" and "hidden folder s/.h," in detail and "rename" in detail
    reason, detail = found["link/b.mp4"]
    assert reason == "outside_folder" and detail.startswith("It lies in link, which was not opened")
    assert found[".no/c.mp4"][0] == "caption_without_video"  # there is no such folder


def test_cells_of_other_columns_are_text_as_written(tmp_path):
    row = '{"video": "a.mp4", "caption": "x", "p": 1.10, "q": true, "r": ["é", 0.5], "s": null}'
    (tmp_path / "c.jsonl").write_text(row)
    ((caption,),) = read_captions(tmp_path / "c.jsonl").values()
    assert caption.others == {"p": "1.10", "q": "true", "r": '["é", 0.5]', "s": ""}


@pytest.mark.parametrize("name", ["motion", "Captions", "clip_id"])
def test_a_column_of_the_manifest_is_no_column_of_captions(tmp_path, name):
    (tmp_path / "c.csv").write_text(f"video,caption,{name}\na.mp4,x,1\n")
    (tmp_path / "c.jsonl").write_text(f'{{"video": "a.mp4", "caption": "x", "{name}": 1}}')
    write_parquet(tmp_path / "c.parquet", video=["a.mp4"], caption=["x"], **{name: [1]})
    for suffix in ("csv", "jsonl", "parquet"):
        message = f"line 1: the manifest has a column '{name.lower()}' of its own; rename yours"
        with pytest.raises(DataError, match=message):
            read_captions(tmp_path / f"c.{suffix}")


def test_a_slip_in_the_name_of_a_column_is_no_other_column(tmp_path):
    slips = {"strat": "start", "stard": "start", "startTime": "start", "start_s": "start"}
    slips |= {"edn": "end", "end_time": "end", "endSec": "end", "ends": "end"}
    for name, own in slips.items():
        (tmp_path / "c.csv").write_text(f"video,caption,{name}\na.mp4,x,1\n")
        with pytest.raises(DataError, match=f"'{name.lower()}' is probably '{own}'; rename"):
            read_captions(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("video,caption,state,endpoint,eng\na.mp4,x,1,2,3\n")
    (captions,) = read_captions(tmp_path / "c.csv").values()
    assert captions[0].others == {"state": "1", "endpoint": "2", "eng": "3"}
    (tmp_path / "c.csv").write_text("video,caption,\na.mp4,x,\n")
    with pytest.raises(DataError, match="unknown column ''"):
        read_captions(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video": "a.mp4", "caption": "x"}\n{"video": ', "line 2: not JSON"),
        ('["a.mp4", "x"]', "line 1: no object"),
        ('{"video": "a.mp4", "text": "x"}', "line 1: no 'caption'; .*found: video, text"),
        ('{"video": "a.mp4", "caption": "x", "strat": 1}', "'strat' is probably 'start'; rename"),
        ('{"video": "a.mp4", "caption": "x", "endTime": 1}', "'endTime' is probably 'end'; rename"),
        (
            '{"video": "a.mp4", "caption": "x", "start": null, "start_s": 1}',
            "'start_s' is probably",
        ),
        (
            '{"video": "a.mp4", "video": "b.mp4", "caption": "x"}',
            "not JSON.*'video' is there twice",
        ),
        ('{"video": "a.mp4", "caption": ["x"]}', "caption is .*expected text or a number"),
        ('{"video": "a.mp4", "caption": "a\\u0000"}', "NUL"),
        ('{"video": "a.mp4", "caption": "a\\ud800"}', "caption holds half a character"),
        ('{"video": "a.mp4", "caption": ' + "[" * 100_000, "nested too deeply"),
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
    write_parquet(path, video=["a.mp4"], caption=["x"], end=[None], end_time=[2.0])
    with pytest.raises(DataError, match="'end_time' is probably 'end'; rename it"):
        read_captions(path)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + b"\xff" * (len(whole) - half - 8) + whole[-8:])
    with pytest.raises(DataError, match="not a Parquet file"):
        read_captions(path)
    with pytest.raises(DataError, match="no 'caption'"):
        read_captions(write_parquet(path, video=["a.mp4"], captoin=["x"]))
