"""The page: complete, self-contained, escaped, accessible, and equal for equal content."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lumiere.evaluation.report import (
    Curve,
    Previous,
    ReportContent,
    Slice,
    write_changes,
    write_report,
)
from lumiere.evaluation.report.charts import draw_curve, svg
from lumiere.evaluation.report.moving_pictures import MAX_SIDE, animation
from lumiere.evaluation.report.strips import strip
from lumiere.evaluation.report.wording import number
from lumiere.evaluation.scores import Better, Interval, flat
from tests.evaluation.report.factory import content, entry, score, video

VOID = {"meta", "img", "input", "br", "link", "wbr"}


class Page(HTMLParser):
    """The elements of a page; fails if one is not closed or an id is used twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []
        ids = [values["id"] for _, values in self.elements if "id" in values]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.elements if name == tag]


def render(folder: Path, made: ReportContent, **options: int) -> str:
    return write_report(folder, made, **options).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with everything in it."""
    folder = tmp_path_factory.mktemp("whole")
    previous = Previous(
        flat([score(value=900.0, interval=Interval(800.0, 950.0))], intervals=True), "abc1234"
    )
    write_report(folder, content(previous=previous))
    return folder


def bare(**changes: Any) -> ReportContent:
    """A content without charts and videos, but for the changes."""
    return ReportContent(**({"title": "t", "generated": "g", "real": "r", "scores": []} | changes))


def test_the_page_has_every_section_in_order(whole: Path) -> None:
    page = Page((whole / "report.html").read_text(encoding="utf-8"))
    ids = [values["id"] for values in page.all("h2")]
    assert ids == [
        "verdict", "videos", "scores", "curves", "slices", "styles", "sensitivity", "changes",
        "method", "left-out",
    ]  # fmt: skip
    links = {str(values["href"]) for values in page.all("a")}
    assert links == {f"#{name}" for name in ids if name != "verdict"}
    assert any("better" in text for tag, text in page.texts if tag == "span")


def test_what_is_absent_has_no_section(tmp_path: Path) -> None:
    page = Page(render(tmp_path, bare()))
    assert [values["id"] for values in page.all("h2")] == ["verdict", "method"]


def test_headings_never_skip_a_level_and_pictures_have_words(whole: Path) -> None:
    page = Page((whole / "report.html").read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(values["alt"] for values in page.all("img"))
    assert all(values["scope"] in ("col", "row") for values in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in str(values.get("content")) for values in page.all("meta"))


def test_nothing_is_loaded_and_no_script_runs(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(str(values["src"]).startswith("data:image/") for values in page.all("img"))
    assert "url(http" not in text and "@import" not in text
    policy = [v for v in page.all("meta") if v.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy[0]["content"])


def test_words_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)> $\\alpha$ {{ 7 * 7 }} id="a"'
    made = content(
        title=evil,
        generated=evil,
        real=evil,
        scores=[score(label=evil, note=evil, unit=evil, group=evil)],
        wall=[entry(evil, caption=evil, reasons={evil: 1.0})],
        curves=[Curve("spectrum", evil, evil, evil, {evil: np.ones(2)}, marks={evil: [0.5]})],
        slices=[Slice(evil, video()[:, 0])],
        facts=[(evil, evil)],
        previous=Previous({evil: 1.0}, evil),
    )
    text = render(tmp_path, made, max_embedded=0)
    page = Page(text)
    assert not page.all("script")
    assert not any(name.startswith("on") for _, values in page.elements for name in values)
    assert "{{ 7 * 7 }}" in text
    files = [str(values["src"]) for values in page.all("img")]
    assert all(re.match(r"(data:image/|videos/[a-z0-9.-]+$)", name) for name in files)


def test_the_worst_videos_come_first_with_their_reasons(tmp_path: Path) -> None:
    wall = [entry(f"v{i}", rank=10 - i, reasons={"torn": i / 10}) for i in range(10)]
    page = Page(render(tmp_path, bare(wall=[*wall, entry("last")])))
    alts = [str(values["alt"]) for values in page.all("img") if values.get("class") == "moving"]
    captions = [alt.removeprefix("Generated video: ") for alt in alts if "Generated" in alt]
    assert captions == [*(f"a v{i}" for i in reversed(range(10))), "a last"]
    assert ("p", "torn 0.9") in page.texts
    assert ("h3", "The other 3") in page.texts


def test_a_wall_of_some_videos_says_of_how_many(tmp_path: Path) -> None:
    assert "shows 2 of 200 videos" in render(
        tmp_path, bare(wall=[entry("a"), entry("b")], wall_total=200)
    )
    assert "The page shows" not in render(
        tmp_path, bare(wall=[entry("a"), entry("b")], wall_total=2)
    )


def test_a_video_without_a_real_one_says_so(tmp_path: Path) -> None:
    assert "no real video of this caption" in render(tmp_path, bare(wall=[entry(real=None)]))


def test_marks_differ_in_words_and_not_only_in_colour(tmp_path: Path) -> None:
    scores = [
        score("a"),
        score("b", 15.0),
        score("c", floor=None),
        score("d", saturated=True),
        score("e", sees=False),
    ]
    text = render(tmp_path, bare(scores=scores))
    for words in ("✕ outside", "✓ inside", "– no floor", "▲ saturated", "◌ blind"):
        assert words in text


def test_the_page_explains_blind_scores_and_each_kind_of_interval(tmp_path: Path) -> None:
    text = render(tmp_path, bare(scores=[score("a"), score("e", sees=False)]))
    for words in (
        "misses damage that it should notice",
        "the study could not judge it",
        "jackknife for distances",
        "Wilson's interval for shares",
        "bootstrap for other scores",
    ):
        assert words in text
    assert "misses damage" not in render(tmp_path, bare(scores=[score("a")]))


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name, content())
    one, two = (
        {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    assert set(one) == {
        "report.html", "scores.png", "spectrum.png", "generated.png", "real.png",
        "plots/scores.csv", "plots/spectrum.csv", "plots/per_video.csv",
    }  # fmt: skip


def test_many_videos_are_written_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    stale = tmp_path / "videos" / "099-gone.webp"
    stale.write_bytes(b"")
    made = bare(wall=[entry("taxi"), entry("moon")])
    page = Page(render(tmp_path, made, max_embedded=10))
    moving = [str(v["src"]) for v in page.all("img") if v.get("class") == "moving"]
    assert moving and all((tmp_path / name).is_file() for name in moving)
    assert not stale.exists()
    render(tmp_path, made)
    assert list((tmp_path / "videos").iterdir()) == []


# --- videos ---------------------------------------------------------------------------------------


def test_a_small_video_is_kept_without_loss_and_keeps_its_length() -> None:
    frames = video(num_frames=7, side=16)
    picture = animation(frames, 24)
    image = Image.open(io.BytesIO(picture.data))
    durations = []
    for i, frame in enumerate(frames):
        image.seek(i)
        assert np.array_equal(np.asarray(image.convert("RGB")), frame)
        durations.append(image.info["duration"])
    assert image.n_frames == 7 and image.info["loop"] == 0
    assert sum(durations) == round(7000 / 24)
    assert picture.shown_width() == 128
    assert base64.b64decode(picture.uri().split(",")[1]) == picture.data


def test_a_large_video_is_made_smaller() -> None:
    frames = np.full((2, 300, 600, 3), 90, np.uint8)
    picture = animation(frames, 8)
    assert (picture.width, picture.height) == (MAX_SIDE, MAX_SIDE // 2)
    assert abs(int(np.asarray(Image.open(io.BytesIO(picture.data)).convert("L")).mean()) - 90) < 4


def test_a_single_frame_is_a_still_picture() -> None:
    assert Image.open(io.BytesIO(animation(video(num_frames=1), 16).data)).n_frames == 1


@pytest.mark.parametrize(
    "frames", [video().astype(np.float32), video()[0], np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_frames_of_another_form_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        animation(frames, 16)


def test_bad_content_is_refused(tmp_path: Path) -> None:
    curve = Curve("a", "t", "x", "y", {"s": np.ones(2)})
    bad = {
        "two videos": {"wall": [entry(), entry()]},
        "two curves": {"curves": [curve, curve]},
        "curve's key": {"curves": [Curve("../a", "t", "x", "y", {"s": np.ones(2)})]},
        "3 positions": {"curves": [Curve("a", "t", "x", "y", {"s": np.ones(2)}, x=np.ones(3))]},
        "no series": {"curves": [Curve("a", "t", "x", "y", {})]},
        "slice": {"slices": [Slice("a", video())]},
    }
    for words, changes in bad.items():
        with pytest.raises(ValueError, match=words):
            write_report(tmp_path, content(**changes))


# --- numbers and charts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (285.7, "286"), (1430.5, "1,430"), (-0.0003, "−0.0003"), (0.000012, "0.000012"),
        (0.0, "0"), (0.97877, "0.979"), (999.9, "1,000"), (float("nan"), "not a number"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_without_exponents(value: float, text: str) -> None:
    assert number(value) == text


def test_a_strip_puts_the_value_on_its_side_of_the_floor() -> None:
    def places(value: float) -> tuple[float, float]:
        tree = ElementTree.fromstring(str(strip(score(value=value))))
        dot, band = tree.find("circle"), tree.find("rect")
        assert dot is not None and band is not None
        return float(dot.attrib["cx"]), float(band.attrib["x"])

    assert places(286.0)[0] > places(286.0)[1]
    assert places(1.0)[0] < places(1.0)[1]
    assert strip(score(floor=None)) == ""
    assert "circle" in strip(score(value=1.0, floor=(1.0, 1.0, 1.0)))


def test_a_chart_is_svg_with_the_colours_of_the_page() -> None:
    (curve,) = content().curves
    text = svg(draw_curve(curve), "spectrum")
    tree = ElementTree.fromstring(text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'))
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert "var(--line-1)" in text and "generated" in text
    ids = {element.get("id") for element in tree.iter() if element.get("id")}
    assert ids and all(str(name).startswith("spectrum-") for name in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= ids


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_for_dvc_hold_the_numbers(whole: Path) -> None:
    scores = read_table(whole / "plots" / "scores.csv")
    assert [row["score"] for row in scores] == ["independent_frechet", "flicker", "seam_ratio"]
    assert (scores[0]["value"], scores[0]["floor"], scores[0]["ratio"]) == (
        "286.0",
        "16.0",
        "17.875",
    )
    spectrum = read_table(whole / "plots" / "spectrum.csv")
    assert spectrum == [
        {"x": "4.0", "generated": "3.0", "real": "2.0"},
        {"x": "8.0", "generated": "2.0", "real": "1.0"},
    ]
    videos = read_table(whole / "plots" / "per_video.csv")
    assert [row["video"] for row in videos] == ["moon", "taxi"]
    assert (videos[0]["similarity"], videos[1]["similarity"]) == ("0.4", "")


def test_the_page_of_changes_stands_alone(tmp_path: Path) -> None:
    scores = [score(interval=Interval(260.0, 310.0)), score("b", 1.0, better=Better.HIGHER)]
    old = flat(
        [score(value=100.0, interval=Interval(90.0, 110.0)), score("b", 2.0)], intervals=True
    )
    write_changes(tmp_path / "changes.html", scores, Previous(old, "abc1234"))
    text = (tmp_path / "changes.html").read_text(encoding="utf-8")
    page = Page(text)
    assert ("span", "▼ worse") in page.texts and ("code", "abc1234") in page.texts
    assert ("caption", "Changed, but neither run has an interval") in page.texts
