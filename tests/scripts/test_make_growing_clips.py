"""The clips of the example of a motion LoRA grow, and have the sample's captions."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import make_growing_clips


def test_a_still_grows_to_its_whole_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = Image.new("RGB", (40, 40), (255, 255, 255))
    still.paste((255, 0, 0), (10, 10, 30, 30))
    frames = make_growing_clips.growing(still)
    assert frames.shape == (20, 128, 128, 3) and frames.dtype == np.uint8
    areas = (frames[..., 1] < 128).sum(axis=(1, 2))
    assert (np.diff(areas) >= 0).all() and 3.7 < areas[15] / areas[0] < 4.3
    assert (frames[15:] == frames[15]).all() and (frames[:, 0, 0] == 255).all()

    monkeypatch.setattr(make_growing_clips, "SUBJECTS", ("bear",))
    make_growing_clips.make(tmp_path)
    with open(tmp_path / "captions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["video"] for row in rows} == {"bear.mp4"} and len(rows) == 2
    assert (tmp_path / "raw" / "bear.mp4").is_file()
