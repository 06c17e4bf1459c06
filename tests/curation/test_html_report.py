"""The curation page holds every input, escapes what people write, and is the same bytes again."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation import html_report
from lumiere.curation.html_report import Shown, write_page
from lumiere.curation.manifest import DUPLICATE_OF, empty_row
from lumiere.curation.score_charts import Score, chart
from lumiere.data.frame_sizes import as_sizes

CONFIG = CurateConfig(min_motion=0.1, min_seconds=1.0, min_side=64)
Row = dict[str, Any]


def row_of(name: str, **facts: Any) -> Row:
    known = {"width": 320, "height": 160, "end": 3.0, "motion": 1.0, "sharpness": 50.0, "hash": "0"}
    known |= {"verdict": "accepted", "split": "train", "captions": ["a thing"], "group": name}
    return empty_row() | {"clip_id": name, "video": f"{name}.mp4"} | known | facts


def rejected(name: str, reason: str, **facts: Any) -> Row:
    return row_of(name, verdict="rejected", split="", reason=reason, **facts)


def page_of(folder: Path, rows: list[Row]) -> str:
    generator = np.random.default_rng(0)
    pictures = {
        row["clip_id"]: generator.integers(0, 255, (4, 64, 64, 3), np.uint8)
        for row in rows
        if row["hash"]
    }
    write_page(folder / "report.html", rows, pictures, CONFIG)
    first = (folder / "report.html").read_bytes()
    write_page(folder / "report.html", rows, pictures, CONFIG)
    assert (folder / "report.html").read_bytes() == first
    return first.decode()


class Tags(HTMLParser):
    """Counts the open tags, and fails on one that is closed out of order."""

    void = frozenset({"meta", "img", "input", "br", "rect", "line"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_the_page_shows_every_input_and_its_reason(tmp_path):
    rows = [
        row_of("fine"),
        row_of("odd", notes=["without colour"]),
        row_of("slow", motion=0.11),
        row_of("alike", group="fine"),
        rejected("copy", "duplicate", detail=f"{DUPLICATE_OF}fine.mp4"),
        rejected("still", "no_motion", motion=0.01, detail="Its optical flow is 0.0100."),
        rejected("lost", "caption_without_video", hash="", captions=["not there"]),
    ]
    page = page_of(tmp_path, rows)
    assert Tags(page).open == []
    cards = re.findall(r'<article class="clip" data-id="(\w+)"', page)
    assert sorted(cards) == sorted([row["clip_id"] for row in rows] + ["odd", "slow"])
    doubtful = page[page.index('id="look"') : page.index('id="alike"')]
    assert re.findall(r'data-id="(\w+)"', doubtful) == ["odd", "slow"]
    assert "without colour" in doubtful and "hardly moves (0.11, limit 0.1)" in doubtful
    groups = page[page.index('id="alike"') : page.index('id="rejected"')]
    assert re.findall(r"<figcaption>(\w+)\.mp4", groups) == ["fine", "copy", "fine", "alike"]
    assert "It shows the same as fine.mp4, which is kept." in page
    scores = json.loads(re.findall(r'id="scores">(.*?)</script>', page)[0])
    assert {entry["id"] for entry in scores} == {row["clip_id"] for row in rows} - {"lost"}


def test_what_people_write_is_text_and_no_markup(tmp_path):
    text = "</script><script>alert('x')</script>"
    page = page_of(tmp_path, [row_of(text, captions=[text], notes=[text]), row_of("b")])
    assert page.count("<script") == 2 and "<script>alert" not in page
    assert Tags(page).open == []


def test_the_page_stays_small_and_needs_no_other_file(tmp_path, monkeypatch):
    monkeypatch.setattr(html_report, "MOST_CLIPS", 12)
    page = page_of(tmp_path, [row_of(f"clip{i}") for i in range(30)])
    assert page.count('<article class="clip"') == 12
    assert "12 of 30 are shown" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page_of(tmp_path, [rejected("a", "unreadable", hash="")])  # nothing was measured


@pytest.mark.parametrize(
    ("size", "row_size", "share"),
    [
        (128, (320, 160), (1.0, 0.5)),
        ([96, 128], (320, 160), (1.0, 2 / 3)),
        ([96, 192], (160, 160), (0.5, 1.0)),
        ([[128, 128], [96, 192]], (320, 160), (1.0, 1.0)),
        ([[128, 128], [96, 192]], (160, 160), (1.0, 1.0)),
    ],
)
def test_what_training_sees_is_bright(size, row_size, share):
    row = row_of("a", width=row_size[0], height=row_size[1])
    white = {"a": np.full((4, 64, 64, 3), 200, np.uint8)}
    strip = Shown(white, as_sizes(size)).strip(row, slice(0, 1))
    assert strip.shape[1] / strip.shape[0] == pytest.approx(row_size[0] / row_size[1], rel=0.02)
    rows, columns = np.nonzero(strip[..., 0] == 200)
    for places, side, part in zip((rows, columns), strip.shape, share, strict=False):
        assert (np.ptp(places) + 1) / side == pytest.approx(part, abs=0.02)
        assert places.min() == pytest.approx(side - 1 - places.max(), abs=1), "in the middle"


@pytest.mark.parametrize("is_log", [True, False])
def test_a_chart_counts_each_clip_once_and_draws_the_threshold(is_log):
    values, kept = [0.0, 1.0, 5.0, 10.0], [False, True, True, True]
    score = Score("motion", "t", values, kept, "curate.x", 1.0, "no_motion", is_log=is_log)
    drawn = chart(score)
    assert sum(map(int, re.findall(r"<title>(\d+) accepted", drawn))) == 3
    assert sum(map(int, re.findall(r"<title>(\d+) rejected", drawn))) == 1
    place = float(re.findall(r'<line x1="([\d.]+)" y1="0"', drawn)[0])
    low, high = (float(re.findall(rf'{end}="([-\d.]+)"', drawn)[0]) for end in ("min", "max"))
    assert place == pytest.approx(400 * ((0 if is_log else 1) - low) / (high - low), abs=0.5)
    assert "<line x1" in chart(Score("motion", "t", [], [], "curate.x", 1.0))
