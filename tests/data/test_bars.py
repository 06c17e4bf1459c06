"""Black bars are found and cut off; dark skies and things on black stay whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lumiere.curation.measurement import measure_video
from lumiere.data.bars import crop, find_picture
from lumiere.data.extract import Source, WindowSettings, extract_windows, load_windows
from lumiere.data.shards import unpack_arrays
from tests.video_factory import encode, numbered


def on_black(box: tuple[int, int, int, int], size: tuple[int, int] = (90, 160)) -> np.ndarray:
    """uint8 (h, w), lit within a box."""
    picture = np.full(size, 16, np.uint8)
    crop(picture, box)[:] = 120
    return picture


@pytest.mark.parametrize(
    "box",
    [(0, 12, 160, 66), (20, 0, 120, 90), (20, 12, 120, 66), (0, 12, 160, 67)],
    ids=["letterbox", "pillarbox", "both", "one row more below"],
)
def test_bars_are_found(box):
    assert find_picture(on_black(box)) == box


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
    assert measured.box == (0, 16, 96, 64)
    assert (measured.width, measured.height) == (96, 64)
    assert measured.signatures[0, 0].mean(axis=(1, 2)).min() > 40, "no black rows"
    source = Source(
        tmp_path / "a.mp4", measured.sha256, Fraction(0), Fraction(2), "pyav", box=measured.box
    )
    settings = WindowSettings(16, 16, 64, clips_per_video=1)
    (video,) = load_windows(extract_windows(source, settings, tmp_path / "scratch")).videos
    for i, frame in enumerate(unpack_arrays(video).values()):
        assert np.abs(frame.astype(int) - frames[i, :, 16:80]).mean() < 8
