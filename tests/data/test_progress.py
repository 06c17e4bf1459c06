"""Reading a large file reports progress before the first frame is decoded."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest

from lumiere.curation import measurement, probe
from lumiere.data import extract, frame_times, key_frames, workers
from lumiere.data.workers import hash_with_progress
from lumiere.errors import VideoError
from tests.video_factory import encode, numbered

NUM_FRAMES = 20


class Reports:
    """Counts reports of progress."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    counter = Reports()
    for module in (measurement, probe, workers, key_frames, frame_times):
        monkeypatch.setattr(module, "report_progress", counter)
    return counter


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return encode(tmp_path / "a.mp4", numbered(NUM_FRAMES))


def test_a_hash_reports_often_and_is_that_of_all_bytes(tmp_path: Path, reports: Reports) -> None:
    content = bytes(range(256)) * (4 << 12) + b"rest"  # 4 MB and 4 bytes
    file = tmp_path / "file"
    file.write_bytes(content)
    assert hash_with_progress(file) == hashlib.sha256(content).hexdigest()
    assert reports.count >= 4


@pytest.mark.parametrize(
    "read",
    [probe.probe, key_frames.key_frames, frame_times.read_timeline],
    ids=lambda f: f.__name__,
)
def test_each_pass_over_packets_reports(read, video: Path, reports: Reports) -> None:
    read(video)
    assert reports.count >= NUM_FRAMES


def test_hashing_before_a_measurement_or_windows_reports(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(bytes(3 << 20))
    monkeypatch.setattr(measurement, "_measure", lambda path, sha256, *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measurement.measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "s")
    count = reports.count
    assert count >= 3
    source = extract.Source(file, "another hash", Fraction(0), Fraction(1), "pyav")
    with pytest.raises(VideoError, match="has changed"):
        extract.extract_windows(source, extract.WindowSettings(8, 8, 16, 1), tmp_path)
    assert reports.count == 2 * count
