"""Text and JSON files beside videos are captions where the table of captions has no row."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, add_sidecars
from lumiere.curation.curate import curate
from lumiere.curation.sidecars import MOST_BYTES, read_sidecars
from lumiere.errors import DataError
from tests.video_factory import encode, numbered


def read_beside(folder: Path, **files: str) -> list[Caption]:
    """Return the captions of `a.mp4` with files of the given suffixes and contents beside it."""
    for suffix, content in files.items():
        (folder / f"a.{suffix}").write_text(content)
    names = ["a.mp4", *(f"a.{suffix}" for suffix in files)]
    captions, others, late = read_sidecars(folder, names, names)
    assert (others, late) == (["a.mp4"], set())
    return captions["a.mp4"]


def test_texts_beside_videos_are_captions_where_no_row_is(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a boat\n\n a  boat \nits sail\n", "utf-8-sig")
    (tmp_path / "notes.txt").write_text("not beside a video")
    (tmp_path / "notes.json").write_text("not beside a video")
    (tmp_path / "link.txt").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "link.json").symlink_to(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.json")
    names = ["in/a.MP4", "in/a.txt", "link.json", "link.mp4", "link.txt", "notes.json"]
    names += ["notes.txt", "pipe.json", "pipe.mp4", "pipe.txt"]
    sidecars, others, _ = read_sidecars(tmp_path, names, names)
    assert sidecars == {"in/a.MP4": [Caption("a boat"), Caption("its sail")]}
    assert others == [name for name in names if name != "in/a.txt"]
    assert add_sidecars({}, sidecars) == sidecars
    row = {"in/a.MP4": [Caption("from the file")]}
    assert add_sidecars(row, sidecars) == row
    (tmp_path / "in" / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not in UTF-8"):
        read_sidecars(tmp_path, names, names)
    # What lies beside a video with rows does not count, and so is not read.
    assert read_sidecars(tmp_path, names, names, {"in/a.MP4"}) == ({}, others, set())


def test_json_holds_sentences_times_and_other_columns(tmp_path):
    one = {"caption": " a  boat", "captions": ["its sail", "a boat", ""], "start": 0, "end": "1.2"}
    texts = read_beside(tmp_path, json=json.dumps(one | {"source": "web", "tags": ["x"]}))
    span = (Fraction(0), Fraction(6, 5))
    assert texts == [Caption("a boat", span), Caption("its sail", span)]
    assert [text.others for text in texts] == [{"source": "web", "tags": '["x"]'}] * 2
    parts = [{"caption": "a", "end": 1.1}, {"caption": "b", "start": 2, "end": 1}, {"x": "none"}]
    first, second = read_beside(tmp_path, json=json.dumps(parts))
    assert first == Caption("a", (Fraction(0), Fraction("1.1")))
    assert second.problem == "a.json: start 2 is not below end 1, or is negative"
    assert read_beside(tmp_path, json="{}") == []


def test_json_and_text_together(tmp_path):
    # As tools write them that download videos: the sentence twice, or the facts beside it.
    assert read_beside(tmp_path, txt="one\n", json='{"caption": "two"}') == [Caption("two")]
    (text,) = read_beside(tmp_path, txt="one\n", json='{"caption": null, "url": "u", "end": 3}')
    assert (text, text.others) == (Caption("one", (Fraction(0), Fraction(3))), {"url": "u"})
    assert read_beside(tmp_path, txt="one\n", json="[{}]") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json: not JSON in UTF-8"),
        ("", "not JSON in UTF-8"),
        ("[" * 50_000, "nested too deeply"),
        ('"a boat"', r"a\.json: no object; expected an object such as"),
        ('[{}, "a boat"]', r"a\.json, entry 2: no object"),
        ('{"caption": "a", "caption": "b"}', "'caption' is there twice"),
        ('{"Caption": "a"}', "'Caption' is probably 'caption'"),
        ('{"caption": 3}', "a caption is 3; expected text"),
        ('{"captions": "a"}', "captions is 'a'; expected a list of sentences"),
        ('{"captions": ["a", {"text": "b"}]}', "a caption is {'text': 'b'}"),
        ('{"caption": "a", "start_time": 1}', "'start_time' is probably 'start'"),
        ('{"caption": "a", "end": [1]}', r"end is \[1\]; expected text or a number"),
        ('{"caption": "a", "width": 1}', "a column 'width' of its own; rename yours"),
        ('{"caption": "a\\u0000"}', "NUL"),
        ('{"caption": "a", "by": "\\udc00"}', "by holds half a character"),
        (f'{{"caption": "{"a" * MOST_BYTES}"}}', "more than 100,000 bytes"),
    ],
)
def test_damaged_json_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_beside(tmp_path, json=content)


def test_json_beside_a_video_reaches_the_manifest(tmp_path):
    raw = tmp_path / "raw"
    encode(raw / "a.mp4", numbered(20, 1))
    encode(raw / "b.mp4", numbered(20, 2))
    (raw / "a.json").write_text('{"caption": "a boat", "licence": "CC0"}')
    (raw / "b.json").write_text("damaged, but the table describes this video")
    (tmp_path / "c.csv").write_text("video,caption,source\nb.mp4,a tree,web\n")
    config = CurateConfig(workers=1, min_side=48)
    rows, _ = curate(raw, tmp_path / "c.csv", config, tmp_path / "scratch")
    columns = ("clip_id", "verdict", "captions", "source", "licence")
    assert [[row[name] for name in columns] for row in rows] == [
        ["a", "accepted", ["a boat"], [""], ["CC0"]],
        ["b", "accepted", ["a tree"], ["web"], [""]],
    ]
