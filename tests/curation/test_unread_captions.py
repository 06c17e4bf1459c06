"""Curation counts and names the captions that the text encoder does not read in full."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lumiere.curation.curate
from lumiere.curation.manifest import empty_row
from lumiere.curation.manifest_report import write_report
from lumiere.curation.unread_captions import find_unread, html_section
from lumiere.text import minilm_encoder
from stages import curate as stage

PLAIN, LONG = "a red fox runs", "a red fox runs over a hill & a brook"
ODD, BOTH = "a 🦄 and 鯨 swim", "a 🦄 runs over a hill and a brook"


def row_of(name: str, *captions: str, **facts: Any) -> dict[str, Any]:
    known = {"verdict": "accepted", "split": "train", "captions": list(captions), "group": name}
    return empty_row() | {"clip_id": name, "video": f"{name}.mp4", "end": 1.0} | known | facts


ROWS = [
    row_of("a", PLAIN, LONG),
    row_of("b", LONG, ODD),
    row_of("c", BOTH),
    row_of("d", PLAIN),
    row_of("e", "a 🐙 swims", verdict="rejected", reason="no_motion", split=""),
]


@pytest.fixture(autouse=True)
def tokenizer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("the network is loaded")

    monkeypatch.setattr(minilm_encoder, "_load", refuse)


def test_captions_are_counted_once_and_show_what_is_lost() -> None:
    unread = find_unread(ROWS, "minilm", 8)
    assert unread.number == 3
    assert unread.summary == (
        "The text encoder minilm does not read 3 of 4 captions in full: 2 with more "
        "than 8 tokens (decode.max_text_tokens), 2 with unknown words."
    )
    long, both = unread.cut
    assert (long.read, long.rest) == ("a red fox runs over a", " hill & a brook")
    assert (long.clip_ids, long.unknown) == (("a", "b"), ())
    assert (both.read, both.rest, both.unknown) == (
        "a 🦄 runs over a hill",
        " and a brook",
        ("🦄",),
    )
    assert [caption.unknown for caption in unread.odd] == [("🦄", "鯨"), ("🦄",)]
    assert unread.note.startswith("captions: 2 sentences are longer than 8 tokens")
    assert "2 sentences hold words" in unread.note and "\n" not in unread.note


def test_captions_that_are_read_in_full_give_no_note() -> None:
    unread = find_unread(ROWS[3:], "minilm", 8)
    assert (unread.number, unread.note) == (0, "")
    assert unread.summary == "The text encoder minilm reads the only caption in full."
    two = find_unread([row_of("a", PLAIN, "a fox")], "minilm", 8)
    assert two.summary == "The text encoder minilm reads all 2 captions in full."
    assert find_unread(ROWS[4:], "minilm", 8).summary == "No accepted clip has a caption."


def test_reports_say_how_many_of_many_captions_they_show(tmp_path: Path) -> None:
    rows = [row_of(f"v{i}", f"{LONG} {i}", f"a 🦄 of {i}") for i in range(50)]
    unread = find_unread(rows, "minilm", 8)
    section = "".join(html_section(unread))
    assert (
        section.count("<li>") == 40
        and section.count("<p>The list shows 20 of 50 captions.</p>") == 2
    )
    write_report(
        tmp_path,
        rows,
        {row["clip_id"]: np.zeros((4, 64, 64, 3), np.uint8) for row in rows},
        0.1,
        unread,
    )
    text = (tmp_path / "report.md").read_text()
    assert "The table shows 20 of the 50 captions that are too long." in text
    assert "The table shows 20 of the 50 captions that have unknown words." in text


def test_captions_that_cannot_be_checked_are_no_success() -> None:
    unread = find_unread(ROWS, "maxilm", 8)
    assert unread.number is None
    assert unread.note.startswith("captions were not checked, because decode.text_encoder")
    assert "'maxilm': unknown" in unread.note and "maxilm" in unread.summary


def run_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "captions.csv").touch()
    (folder / "params.yaml").write_text("decode: {max_text_tokens: 8}\n")
    outputs = {"out": "m.parquet", "report": "report", "metrics": "m.json", "scratch": "scratch"}
    paths = {"params": "params.yaml", "raw": "raw", "captions": "captions.csv"} | outputs
    command = [part for key, name in paths.items() for part in (f"--{key}", str(folder / name))]
    monkeypatch.setattr(sys, "argv", ["stages.curate", *command])
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    stage.main()
    return json.loads((folder / "m.json").read_text())


def test_the_stage_says_it_once_and_both_reports_show_it(tmp_path, monkeypatch, capsys) -> None:
    pictures = {row["clip_id"]: np.zeros((4, 64, 64, 3), np.uint8) for row in ROWS}
    monkeypatch.setattr(lumiere.curation.curate, "curate", lambda *_: (ROWS, pictures))
    assert run_stage(tmp_path, monkeypatch)["captions_not_all_read"] == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "captions" in line]
    assert len(said) == 1 and said[0].startswith("note: captions: 2 sentences are longer")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a red fox runs over a<del> hill &amp; a brook</del> <small>a and 1 more clip" in page
    assert "a 🦄 and 鯨 swim <mark>🦄</mark> <mark>鯨</mark> <small>b</small>" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "does not read 3 of 4 captions in full" in text
    assert f"| {LONG} | a and 1 more clip | hill & a brook |" in text
    assert f"| {BOTH} | c | and a brook; unknown: 🦄 |" in text
