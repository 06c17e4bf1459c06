"""Files whose times are missing, wrong or absurd: each frame at its time, or an error that says why."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lumiere.curation.measurement import measure_video
from lumiere.data.video_io import decode, read_video
from lumiere.data.video_source import source_frames
from lumiere.errors import VideoError
from tests.data.test_video_source import shown
from tests.video_factory import encode, numbered, read_numbers


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"bf": "3"}), ("mpeg4", {"bf": "2", "q": "2"})]
)
def test_avi_with_b_frames_shows_every_frame_in_order(tmp_path, codec, options):
    path = encode(tmp_path / "a.avi", numbered(40), 25, codec, **options)
    assert read_numbers(read_video(path, 25)) == list(range(40))


@pytest.mark.parametrize("suffix", ["h264", "hevc"])
def test_raw_streams_count_their_frames(tmp_path, suffix):
    codec = {"h264": "libx264", "hevc": "libx265"}[suffix]
    path = encode(tmp_path / f"a.{suffix}", numbered(30), 25, codec)
    assert read_numbers(read_video(path, 25)) == list(range(30))
    assert decode(path).duration == Fraction(30, 25)


def joined(path: Path, num_frames: int) -> Path:
    """Two recordings in one file, each with times that begin at the same value."""
    parts = [encode(path.with_name(f"{i}.ts"), numbered(num_frames, i), 25) for i in range(2)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize(
    ("num_frames", "problem"),
    [(50, "return to 0.00 s after 1.96 s"), (15, "of 14 of 30 frames run backwards")],
)
def test_frames_behind_a_restart_of_the_times_are_not_lost_silently(tmp_path, num_frames, problem):
    path = joined(tmp_path / "joined.ts", num_frames)
    with pytest.raises(VideoError, match=problem):
        decode(path)
    measured = measure_video(tmp_path, path.name, (), 27.0, tmp_path / "scratch")
    assert measured.reason == "unreadable" and problem in measured.detail


def test_a_day_between_two_frames_is_an_error_and_no_day_of_ticks(tmp_path):
    times = [Fraction(i, 25) + (90_000 if i >= 10 else 0) for i in range(20)]
    path = encode(tmp_path / "a.mkv", numbered(20), 25, times=times)
    with pytest.raises(VideoError, match=r"jump from 0\.36 s to 90000\.40 s"):
        decode(path)


def test_a_frame_that_is_shown_for_minutes_takes_no_memory(tmp_path):
    times = [Fraction(i, 25) + (500 if i >= 10 else 0) for i in range(40)]
    encode(tmp_path / "a.mp4", numbered(40), 25, times=times)
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert measured.duration == 500 + Fraction(40, 25)
    (segment,) = measured.segments
    assert len(segment.motion_curve) == 500 * 16 + 25
    assert not any(segment.motion_curve[7:8000]) and any(segment.motion_curve[:6])


def test_pixels_of_an_absurd_shape_are_refused(tmp_path):
    path = shown(tmp_path / "a.mp4", aspect=Fraction(20))
    with pytest.raises(VideoError, match="pixels are 20:1 in shape"):
        next(source_frames(path))


def test_colours_of_both_matrices_and_ranges_are_shown_alike(tmp_path):
    colour = np.full((64, 96, 3), (200, 60, 30), np.uint8)
    pictures = []
    for name, matrix, kind in (("a", 1, "yuv444p"), ("b", 5, "yuv444p"), ("c", 1, "yuvj444p")):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=16, options={"crf": "1"})
            stream.height, stream.width, stream.pix_fmt = 64, 96, kind
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if kind == "yuvj444p" else 1
            for _ in range(4):
                frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
                frame = frame.reformat(format=kind, dst_colorspace=matrix)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        pictures.append(read_video(tmp_path / f"{name}.mp4")[1].astype(int))
    for picture in pictures:
        assert np.abs(picture - colour).max() <= 3
