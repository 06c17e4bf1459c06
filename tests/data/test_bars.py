"""Black bars are found and cut off; dark skies and things on black stay whole."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from lumiere.curation.measurement import measure_video
from lumiere.data.bars import are_black, crop, find_picture, may_have_bars
from lumiere.data.extract import extract_windows, load_windows
from lumiere.data.shards import unpack_arrays
from lumiere.data.window_choice import Source, WindowSettings
from tests.video_factory import encode, numbered


def on_black(box: tuple[int, int, int, int], size: tuple[int, int] = (90, 160)) -> np.ndarray:
    """uint8 (h, w), lit within a box."""
    picture = np.full(size, 16, np.uint8)
    crop(picture, box)[:] = 120
    return picture


@pytest.mark.parametrize(
    "box",
    [(0, 12, 160, 66), (20, 0, 120, 90), (20, 12, 120, 66), (40, 12, 80, 66), (0, 12, 160, 67)],
    ids=["letterbox", "pillarbox", "both", "both, and narrow", "one row more below"],
)
def test_bars_are_found(box):
    assert find_picture(on_black(box)) == box


def test_grey_bars_and_bars_with_a_subtitle_are_found():
    box = (0, 20, 160, 50)
    grey = on_black(box)
    grey[grey == 16] = 40
    assert find_picture(grey) == box
    assert find_picture(grey.T) == (20, 0, 50, 160)
    text = on_black(box)
    text[78:83, 40:120:2] = 230
    assert find_picture(text) == box
    small = cv2.resize(text, (64, 64), interpolation=cv2.INTER_AREA)
    assert are_black(small, box, (160, 90))
    assert not are_black(np.full((64, 64), 200, np.uint8), box, (160, 90)), "a flash hides the bars"


def test_one_bar_may_be_the_night():
    for picture in (on_black((0, 12, 160, 78)), on_black((20, 0, 140, 90))):
        assert find_picture(picture) is None and may_have_bars(picture)
    y, x = np.mgrid[:90, :160]
    hills = np.where(y > 40 + 10 * np.sin(x / 9), 120, 16).astype(np.uint8)
    slope = np.clip(3 * (y - 20), 0, 255).astype(np.uint8)
    for picture in (hills, slope, on_black((0, 0, 160, 90)), np.zeros((90, 160), np.uint8)):
        assert find_picture(picture) is None and not may_have_bars(picture)


def test_dark_scenes_have_no_grey_bars():
    generator = np.random.default_rng(0)
    y, _ = np.mgrid[:90, :160]
    road = np.clip(200 - 6 * np.abs(y - 45), 30, 255) + generator.integers(0, 9, (90, 160))
    assert find_picture(road.astype(np.uint8)) is None, "its light fades out"
    trees = generator.integers(0, 60, (90, 160)).astype(np.uint8)
    trees[20:70] = 150
    assert find_picture(trees) is None, "what is dark is not even"


def shots_of(count: int) -> list[np.ndarray]:
    """Return shots of two seconds in which everything moves, uint8 (32, 128, 128, 3) each."""
    pictures = np.random.default_rng(1).integers(60, 215, (count, 16, 32, 3), np.uint8)
    wide = pictures.repeat(8, 1).repeat(8, 2)
    return [np.stack([p[:, 2 * i : 2 * i + 128] for i in range(32)]) for p in wide]


def letterboxed(frames: np.ndarray, text: bool = False) -> np.ndarray:
    boxed = frames.copy()
    boxed[:, :24] = boxed[:, -24:] = 0
    if text:
        boxed[8:24, -14:-8, 40:88:3] = 230
    return boxed


BARRED = {
    "a subtitle": ((0, 24, 128, 80), ()),
    "one bar": (None, ("may have bars",)),
    "a flash": (None, ("may have bars",)),
}


@pytest.mark.parametrize("kind", BARRED)
def test_bars_of_a_file_are_cut_off_or_noted(tmp_path, kind):
    first, _ = shots_of(2)
    frames = letterboxed(first, kind == "a subtitle")
    if kind == "one bar":
        frames[:, -24:] = first[:, -24:]
    if kind == "a flash":
        frames[15] = 250
    encode(tmp_path / "a.mp4", frames)
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    (segment,) = measured.segments
    assert (segment.box, measured.notes) == BARRED[kind]


def test_what_is_no_bar():
    assert find_picture(np.full((90, 160), 120, np.uint8)) is None
    assert find_picture(np.full((90, 160), 16, np.uint8)) is None, "black"
    assert find_picture(on_black((0, 40, 160, 50))) is None, "a dark sky has no second bar"
    y, x = np.mgrid[:90, :160]
    disc = np.where((x - 80) ** 2 + (y - 45) ** 2 < 900, 200, 16).astype(np.uint8)
    assert find_picture(disc) is None, "a disc on black has no straight edge"
    assert find_picture(on_black((0, 1, 160, 88))) is None, "a thin border"


def test_bars_are_neither_measured_nor_trained_on(tmp_path):
    frames = numbered(32, first=4032)  # whose last row is lit, as that of a real picture
    boxed = np.zeros((32, 96, 96, 3), np.uint8)
    boxed[:, 16:80] = frames
    encode(tmp_path / "a.mp4", boxed)
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    (segment,) = measured.segments
    assert segment.box == (0, 16, 96, 64)
    assert measured.size_of(segment) == (96, 64)
    assert measured.signatures[0, 0].mean(axis=(1, 2)).min() > 40, "no black rows"
    source = Source(
        tmp_path / "a.mp4", measured.sha256, Fraction(0), Fraction(2), "pyav", box=segment.box
    )
    settings = WindowSettings(16, 16, 64, clips_per_video=1)
    (video,) = load_windows(extract_windows(source, settings, tmp_path / "scratch")).videos
    for i, frame in enumerate(unpack_arrays(video).values()):
        assert np.abs(frame.astype(int) - frames[i, :, 16:80]).mean() < 8
