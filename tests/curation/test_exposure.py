"""Dark, bright and blurred clips are measured as a person sees them, and thresholds reject them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from lumiere.config import CurateConfig, load_params
from lumiere.curation.captions import Caption
from lumiere.curation.exposure import dark_and_bright
from lumiere.curation.filters import sharpness, sharpness_cells, sharpness_within
from lumiere.curation.html_report import write_page
from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.curation.manifest_report import funnel
from lumiere.curation.measurement import measure_video
from lumiere.curation.verdicts import decide
from tests.conftest import REPOSITORY
from tests.video_factory import encode, numbered

CONFIG = CurateConfig(min_side=48)


def letterboxed(frames: np.ndarray, rows: int) -> np.ndarray:
    """Put black bars of some rows above and below frames (t, h, w, 3)."""
    return np.pad(frames, ((0, 0), (rows, rows), (0, 0), (0, 0)), constant_values=0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory):
    """Measure one scene as it is, dimmed, blown out, blurred, and blurred within bars."""
    raw = tmp_path_factory.mktemp("exposure")
    scene = numbered(24, 3, height=112, width=96)[:, :96]  # without the dark digits
    night, glare = scene.copy(), scene.copy()
    night[:, 48:] = 4
    glare[:, :24] = 255
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in scene])
    clips = {
        "scene": scene, "night": night, "glare": glare, "blurred": blurred,
        "boxed": letterboxed(blurred, 16), "sharp boxed": letterboxed(scene, 16),
    }  # fmt: skip
    outcomes = {}
    for name, frames in clips.items():
        encode(raw / f"{name}.mp4", frames)
        outcomes[f"{name}.mp4"] = measure_video(raw, f"{name}.mp4", (), 27.0, raw / "scratch")
    return outcomes


def rows_of(measured, **limits: float) -> dict[str, dict]:
    captions = {name: [Caption(f"about {name}")] for name in measured}
    config = dataclasses.replace(CONFIG, **limits)
    rows, _ = decide(measured, captions, config, find_look_alikes=lambda signatures: [])
    return {row["video"].removesuffix(".mp4"): row for row in rows}


def test_the_shares_are_those_of_pixels_without_any_light_or_structure():
    frames = np.full((4, 64, 64, 3), 120, np.uint8)
    frames[:, :16] = 32
    frames[:, 16:24] = 245
    frames[:, 24:32] = (0, 0, 200)  # a deep blue is no black
    frames[:, 32:40] = (255, 255, 0)  # and a full yellow no white
    assert dark_and_bright(frames) == (0.25, 0.125)


def test_bars_count_neither_as_dark_nor_as_sharp(measured):
    rows = rows_of(measured)
    assert rows["night"]["dark_share"] == pytest.approx(0.5, abs=0.03)
    assert rows["glare"]["bright_share"] == pytest.approx(0.25, abs=0.03)
    assert rows["boxed"]["crop"] and rows["boxed"]["dark_share"] == pytest.approx(
        rows["blurred"]["dark_share"], abs=0.03
    )
    # Inside the bars, the picture is as sharp as without them.
    for boxed, bare in (("boxed", "blurred"), ("sharp boxed", "scene")):
        assert rows[boxed]["sharpness"] == pytest.approx(rows[bare]["sharpness"], rel=0.25)


@pytest.mark.parametrize(
    "size, bar",
    [
        ((1080, 1080), (0, 236)),
        ((852, 480), (106, 0)),
        ((720, 576), (0, 73)),
        ((366, 205), (19, 0)),
    ],
    ids=str,
)
def test_the_edge_of_a_bar_is_not_sharp_whatever_the_size(size, bar):
    (width, height), (left, top) = size, bar
    rng = np.random.default_rng(0)
    noise = rng.integers(100, 200, (height - 2 * top, width - 2 * left), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 2)
    boxed = cv2.copyMakeBorder(scene, top, top, left, left, cv2.BORDER_CONSTANT, value=0)
    box = (left, top, width - 2 * left, height - 2 * top)
    within = sharpness_within(sharpness_cells(boxed), box, size)
    assert within == pytest.approx(sharpness(scene), rel=0.1)
    assert within < sharpness(boxed) / 2


@pytest.mark.parametrize(
    "limits, rejected",
    [
        ({}, {}),
        ({"max_dark_share": 0.4}, {"night": "too_dark"}),
        ({"max_bright_share": 0.2}, {"glare": "too_bright"}),
        ({"min_sharpness": 20.0}, {"blurred": "blurred", "boxed": "blurred"}),
    ],
)
def test_a_threshold_rejects_by_name(measured, limits, rejected):
    rows = rows_of(measured, **limits)
    names = {"too_dark", "too_bright", "blurred"}
    found = {name: row["reason"] for name, row in rows.items() if row["reason"] in names}
    assert found == rejected
    for name in rejected:
        key, value = next(iter(limits.items()))
        assert f"curate.{key} is {value:g}." in rows[name]["detail"]
    steps = dict(funnel(list(rows.values())))
    assert ("sharp, not too dark or bright" in steps) == bool(rejected)


def test_the_report_shows_each_score_with_its_threshold(measured, tmp_path: Path):
    rows = list(rows_of(measured, max_dark_share=0.4).values())
    pictures = {row["clip_id"]: measured[row["video"]].signatures[0] for row in rows}
    config = dataclasses.replace(CONFIG, max_dark_share=0.4)
    write_page(tmp_path / "report.html", rows, pictures, config)
    page = (tmp_path / "report.html").read_text()
    for key in ("min_sharpness", "max_dark_share", "max_bright_share"):
        assert page.count(f'data-name="curate.{key}"') == 1
    assert 'data-key="dark_share" data-now="0.4"' in page
    assert 'data-key="sharpness" data-now="-Infinity"' in page
    write_manifest(tmp_path / "m.parquet", rows)
    assert read_manifest(tmp_path / "m.parquet") == rows


def test_the_thresholds_are_off_in_the_demo():
    curate = load_params(REPOSITORY / "params.yaml").curate
    assert (curate.min_sharpness, curate.max_dark_share, curate.max_bright_share) == (0, 1, 1)
