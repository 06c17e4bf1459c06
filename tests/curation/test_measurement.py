"""Finished measurements are reused, unless the machine was at fault or the code has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lumiere.curation import measurement
from lumiere.curation.filters import motions
from lumiere.curation.measurement import measure_video
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.tick_frames import TickFrames
from tests.data.test_video_source import add, fill
from tests.video_factory import encode, numbered

ROOT = Path(__file__).resolve().parents[2]


def test_a_damaged_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    first = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert first.reason == "unreadable"
    monkeypatch.setattr(measurement, "_measure", lambda *_: pytest.fail("measured again"))
    assert measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch").detail == first.detail


@pytest.mark.parametrize("error", [OSError(24, "Too many open files", "/some/path"), MemoryError()])
@pytest.mark.parametrize("where", ["probe", "read_frames", "hash_with_progress"])
def test_a_fault_of_the_machine_is_no_lasting_verdict(tmp_path, monkeypatch, error, where):
    encode(tmp_path / "a.mp4", numbered(20))

    def failing(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(measurement, where, failing)
        with pytest.raises(Rejection) as caught:
            measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert caught.value.reason == Reason.UNREADABLE
    assert "`dvc repro -f curate` tries again" in caught.value.detail
    assert "/some/path" not in caught.value.detail
    assert measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch").reason == ""


@pytest.mark.parametrize("module", ["curation/filters.py", "curation/shots.py", "data/video_io.py"])
def test_changed_code_measures_again(tmp_path, module):
    shutil.copytree(
        ROOT / "lumiere", tmp_path / "lumiere", ignore=shutil.ignore_patterns("__pycache__")
    )
    encode(tmp_path / "raw" / "a.mp4", numbered(20))
    code = (
        "from pathlib import Path; from lumiere.curation import measurement\n"
        "measurement.measure_video(Path('raw'), 'a.mp4', (), 27.0, Path('scratch'))"
    )

    def num_measured() -> int:
        env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
        return len(list((tmp_path / "scratch").iterdir()))

    assert [num_measured(), num_measured()] == [1, 1]
    with (tmp_path / "lumiere" / module).open("a") as file:
        file.write("\nCHANGED = True\n")
    assert num_measured() == 2


@pytest.mark.parametrize("has_bars", [False, True])
def test_memory_does_not_grow_with_the_length(tmp_path, has_bars):
    picture = np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8)
    picture = picture.repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([picture[:, i % 64 : i % 64 + 64] for i in range(320)])
    if has_bars:
        frames[:, :8] = frames[:, -8:] = 0
    encode(tmp_path / "a.mp4", frames, 16)
    del frames
    tracemalloc.start()
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert measured.num_frames == 320 and bool(measured.segments[0].box) == has_bars
    assert peak < 1.5e6, "its 320 pictures of 12 kB are in memory"
    assert [path.suffix for path in (tmp_path / "scratch").iterdir()] == [".npz"]


def test_a_frame_that_is_shown_for_long_is_one_object():
    frames = TickFrames()
    first, second = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    frames.hold(first, 3)
    frames.hold(second, 0)
    frames.hold(second, 2)
    assert [
        np.array_equal(frame, first) for frame in map(frames.part(1, 4).__getitem__, range(3))
    ] == [True, True, False]
    assert frames[0] is frames[1] and frames[2] is not frames[3]
    assert np.array_equal(frames[4], second)
    assert motions(frames.part(0, 3)) == (0.0, [0.0, 0.0])
    frames.cut_bars((0, 16, 64, 32), (64, 64))
    assert np.array_equal(frames[0], cv2.resize(first[16:48], (64, 64)))
    frames.leave_out(1)
    assert len(frames) == 1
    frames.close()


ODD = {
    "1 frames per second": {"times": [Fraction(i) for i in range(6)]},
    "a frame that stands for 2.00 s": {
        "times": [Fraction(i, 16) + (2 - Fraction(1, 16) if i > 2 else 0) for i in range(6)]
    },
    "without colour": {},
    "no times, 25 frames per second assumed": {},
    "2 video streams": {},
}


@pytest.mark.parametrize("note", ODD)
def test_what_is_odd_and_kept_gets_a_remark(tmp_path, note):
    frames = numbered(6)
    if note == "without colour":
        frames = np.repeat(frames.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    path = tmp_path / ("a.h264" if note.startswith("no times") else "a.mkv")
    encode(path, frames, 16, **ODD[note])
    if note.startswith("2 video"):
        with av.open(str(path), "w") as container:
            streams = [add(container, "libx264", (size, 96)) for size in (64, 32)]
            for stream in streams:
                fill(container, stream, frames[:, : stream.height])
    measured = measure_video(tmp_path, path.name, (), 27.0, tmp_path / "scratch")
    assert [*measured.probe.notes, *measured.notes] == [note]


def test_frozen_and_repeated_pictures_get_a_remark(tmp_path):
    frames = numbered(48)
    frozen = np.concatenate([frames[:16], frames[15:16].repeat(24, axis=0)])
    files = {
        "frozen": (frozen, 16, ("nothing moves from 0.94 to 2.44 s",)),
        "threes": (frames[:16].repeat(3, axis=0), 24, ("every frame 3 times",)),
        "twos": (frames[:24].repeat(2, axis=0), 24, ()),
        "fast": (frames, 120, ()),
    }
    for name, (pictures, fps, notes) in files.items():
        encode(tmp_path / f"{name}.mp4", pictures, fps)
        measured = measure_video(tmp_path, f"{name}.mp4", (), 27.0, tmp_path / "scratch")
        assert measured.notes == notes, name


def test_an_ordinary_file_gets_no_remark(tmp_path):
    encode(tmp_path / "a.mp4", numbered(20), 16)
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert measured.probe.notes == measured.notes == ()
