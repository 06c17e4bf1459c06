"""Decoding from a key frame gives the same bits as decoding from the start."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lumiere.data import video_io
from lumiere.data.extract import extract_video, load_windows
from lumiere.data.key_frames import key_frames
from lumiere.data.video_io import Ticks, decode, decode_spans
from lumiere.data.window_choice import Source, WindowSettings
from lumiere.errors import VideoError
from lumiere.files import content_hash
from tests.curation.test_damage import moving_texture
from tests.data.test_video_source import bar, interlaced_in_part
from tests.video_factory import cut_by_edit_list, encode

# Name of the file, codec, options, and whether it has exact key frames behind the first; None if
# some may be exact.
KINDS = [
    ("a.mp4", "libx264", {"g": "12", "bf": "3"}, True),
    ("a.mkv", "libx264", {"g": "12", "bf": "0"}, True),
    ("cra.mp4", "libx265", {"x265": "open-gop=1:keyint=12:bframes=3:scenecut=0"}, None),
    ("idr.mp4", "libx265", {"x265": "open-gop=0:keyint=12:bframes=3:scenecut=0"}, True),
    ("open.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, False),
    ("refresh.mp4", "libx264", {"g": "12", "x264-params": "intra-refresh=1"}, False),
    ("a.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}, True),
    ("a.mov", "mjpeg", {}, True),
    ("av1.mp4", "libsvtav1", {"g": "12", "preset": "12"}, True),
    ("av1.mkv", "libsvtav1", {"g": "12", "preset": "8", "svtav1-params": "film-grain=8"}, None),
    ("mpeg4.mp4", "mpeg4", {"g": "12", "b": "500000"}, True),
    ("mpeg4.mkv", "mpeg4", {"g": "12", "bf": "2", "qpel": "1"}, None),
    ("mpeg2.mkv", "mpeg2video", {"g": "12", "bf": "2"}, None),
    (
        "closed.mkv",
        "mpeg2video",
        {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
        None,
    ),
    ("a.ts", "libx264", {"g": "12"}, False),
    ("a.avi", "mpeg4", {"g": "12"}, False),
]


@pytest.fixture
def eager(monkeypatch):
    """Seek even in short files."""
    monkeypatch.setattr(video_io, "SEEK_FROM", 0)


@pytest.mark.parametrize(("name", "codec", "options", "seeks"), KINDS)
def test_every_span_is_exact_to_the_bit(tmp_path, eager, name, codec, options, seeks):
    path = encode(tmp_path / name, moving_texture(80), 16, codec, **options)
    whole = decode(path).frames
    assert seeks is None or (len(key_frames(path).points) > 1) == seeks
    for start in range(0, 70, 7):
        (part,) = (
            decoded
            for _, decoded in decode_spans(
                path, [Ticks(Fraction(16), Fraction(start, 16), wanted=frozenset(range(8)))]
            )
        )
        assert np.array_equal(part.frames, whole[start : start + 8]), start
        if seeks:
            assert part.num_source_frames <= 12 + 8 + 2, "independent of the place"


def test_spans_of_one_file_come_from_one_pass(tmp_path, eager, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving_texture(80), 16, g="12")
    whole = decode(path).frames
    passes = []
    original = video_io.source_frames
    monkeypatch.setattr(video_io, "source_frames", lambda *a: passes.append(a[2]) or original(*a))
    spans = [
        Ticks(Fraction(16), Fraction(start, 16), Fraction(start + 8, 16))
        for start in (60, 0, 4, 64)
    ]
    parts = dict(decode_spans(path, spans))
    for index, start in enumerate((60, 0, 4, 64)):
        assert np.array_equal(parts[index].frames, whole[start : start + 8])
    assert [seek is None for seek in passes] == [True, False]


def test_every_span_of_a_partly_interlaced_file_is_exact(tmp_path, eager):
    """The deinterlacer looks at the frames before and after."""
    parts = bar(30, is_woven=False), bar(50, is_woven=True)
    path = interlaced_in_part(tmp_path / "a.mkv", parts)
    assert len(key_frames(path).points) > 4
    whole = decode(path, 25).frames
    for start in range(0, 72, 4):
        ticks = Ticks(Fraction(25), Fraction(start, 25), wanted=frozenset(range(8)))
        ((_, part),) = decode_spans(path, [ticks])
        assert np.array_equal(part.frames, whole[start : start + 8]), start


def test_a_trimmed_file_is_read_from_its_start(tmp_path, eager):
    whole = encode(tmp_path / "whole.mp4", moving_texture(60), 16, g="12")
    path = cut_by_edit_list(tmp_path / "a.mp4", whole, 5)
    assert key_frames(path).points == []
    frames = decode(path, start=2).frames
    assert np.array_equal(frames, decode(path).frames[32:])


def test_all_stretches_of_a_video_are_cut_at_once(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving_texture(80), 16, g="12")
    hashes = []
    monkeypatch.setattr(
        "lumiere.data.extract.hash_with_progress", lambda p: hashes.append(p) or content_hash(p)
    )
    sha256 = content_hash(path)
    ends = [(0, 1), (Fraction(3, 2), 4), (4, Fraction(9, 2)), (4, 5)]
    sources = [Source(path, sha256, Fraction(a), Fraction(b), "pyav") for a, b in ends]
    settings = WindowSettings(16, 16, 32, clips_per_video=2)
    first, second, short, last = extract_video(sources, [settings] * 4, tmp_path / "scratch")
    assert hashes == [path]
    assert isinstance(short, VideoError) and "a window needs 16" in str(short)
    assert load_windows(first).starts == [0.0]
    assert load_windows(second).starts == [1.5, 3.0]
    assert load_windows(last).starts == [4.0]
    alone = extract_video([sources[1]], [settings], tmp_path / "alone")[0]
    assert Path(alone).read_bytes() == Path(second).read_bytes()
