"""Tests the script behind docs/gallery.md: how it reads the page, and the pictures it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lumiere.data.video_io import write_video
from lumiere.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import make_gallery as gallery  # noqa: E402

PAGE = """\
```sh
mkdir horse
lumiere generate "a fox, \\"red\\"" --seed 1 \\
    --image horse/0000.png -o a.mp4
lumiere generate "a fox" -o b.mp4  # the same
```

![Foxes](images/gallery/foxes.webp)
"""


def test_a_picture_belongs_to_the_commands_above_it() -> None:
    parts = gallery.read_parts(PAGE + "```sh\nlumiere generate x -o c.mp4\n```\n![](images/c.webp)")
    assert list(parts) == ["foxes", "c"]
    foxes = parts["foxes"]
    assert foxes.path == ROOT / "docs/images/gallery/foxes.webp"
    assert foxes.videos == ["a.mp4", "b.mp4"]
    start = ["generate", 'a fox, "red"', "--seed", "1", "--image", "horse/0000.png", "-o", "a.mp4"]
    assert foxes.commands == [start, ["generate", "a fox", "-o", "b.mp4"]]
    assert parts["c"].videos == ["c.mp4"]


@pytest.mark.parametrize(
    "page",
    [
        "![](images/a.webp)",
        "lumiere generate x -o a.mp4",
        PAGE + "![](images/other.webp)",
        PAGE.replace(" -o b.mp4", ""),
    ],
)
def test_a_page_that_does_not_fit_together_is_an_error(page: str) -> None:
    with pytest.raises(DataError, match=r"gallery\.md"):
        gallery.read_parts(page)


def test_the_page_makes_each_video_once() -> None:
    parts = gallery.read_parts(gallery.PAGE.read_text(encoding="utf-8"))
    videos = [video for part in parts.values() for video in part.videos]
    assert len(set(videos)) == len(videos)
    assert {name for row in gallery.OVERVIEW_ROWS for name in row} <= parts.keys()


def test_videos_are_shown_side_by_side(tmp_path: Path) -> None:
    """A small video is enlarged to the side of a large one, and keeps its frames."""
    dark, light = np.full((3, 16, 16, 3), 20, np.uint8), np.full((3, 32, 32, 3), 200, np.uint8)
    dark[1], dark[2] = 55, 90
    write_video(tmp_path / "dark.mp4", dark, gallery.FPS)
    write_video(tmp_path / "light.mp4", light, gallery.FPS)
    frames = gallery.join([[tmp_path / "dark.mp4", tmp_path / "light.mp4"]])
    gallery.save_moving(frames, tmp_path / "both.webp")
    with Image.open(tmp_path / "both.webp") as picture:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    assert [frame.shape for frame in shown] == [(32, 64 + gallery.GAP, 3)] * 3
    for frame, level in zip(shown, (20, 55, 90), strict=True):
        assert np.abs(frame[:, :30].astype(int) - level).max() < 12
        assert np.abs(frame[:, 38:].astype(int) - 200).max() < 12


def test_a_missing_video_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fox\.mp4"):
        gallery.join([[tmp_path / "fox.mp4"]])
