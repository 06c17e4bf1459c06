"""Files whose media data is damaged: decoders conceal it, curation rejects it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.damage import undamaged
from lumiere.curation.measurement import measure_video
from lumiere.curation.verdicts import decide
from lumiere.data import video_io
from lumiere.data.extract import Source, WindowSettings, extract_video
from lumiere.data.key_frames import key_frames
from lumiere.data.video_io import decode, read_video
from lumiere.data.video_source import Damage, source_frames
from lumiere.errors import VideoError
from tests.video_factory import encode


def moving_texture(num_frames: int) -> np.ndarray:
    """uint8 (t, 96, 128, 3) that pans."""
    texture = np.random.default_rng(0).integers(0, 255, (12, 60, 3), np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([texture[:, 2 * i : 2 * i + 128] for i in range(num_frames)])


def flip_bytes(source: Path, path: Path, seed: int, count: int = 6) -> Path:
    """`source` with a few other bytes in the second half, where its pictures are."""
    generator, content = np.random.default_rng(seed), bytearray(source.read_bytes())
    for place in generator.integers(len(content) // 2, len(content) - 400, count).tolist():
        content[place] ^= int(generator.integers(1, 256))
    path.write_bytes(content)
    return path


CODECS = {
    "h264.mp4": ("libx264", {}),
    "h264.mkv": ("libx264", {"bf": "0"}),
    "mpeg4.avi": ("mpeg4", {"b": "1500000"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}),
}


@pytest.mark.parametrize("name", CODECS)
def test_damage_is_noticed_and_whole_files_have_none(tmp_path, name):
    codec, options = CODECS[name]
    whole = encode(tmp_path / name, moving_texture(60), 25, codec, **options)
    assert not decode(whole).damage
    noticed = 0
    for seed in range(10):
        damage = Damage()
        try:
            list(source_frames(flip_bytes(whole, tmp_path / f"cut-{name}", seed), damage))
        except VideoError:
            damage.num_packets += 1
        noticed += bool(damage)
    assert noticed >= 9


def test_a_damaged_file_is_rejected_by_name(tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving_texture(60), 25)
    flip_bytes(whole, tmp_path / "a.mp4", 0)
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert measured.reason == "damaged"
    assert "the decoder reports 4 damaged frames" in measured.detail
    with pytest.raises(VideoError, match="damaged or cut off"):
        read_video(tmp_path / "a.mp4")
    assert measure_video(tmp_path, "whole.mp4", (), 27.0, tmp_path / "scratch").reason == ""


def test_a_damaged_file_is_cut_around(tmp_path):
    there = moving_texture(150)
    there_and_back = np.concatenate([there, there[::-1]])
    whole = encode(tmp_path / "whole.mp4", there_and_back, 25, g="25", bf="2", sc_threshold="0")
    content = bytearray(whole.read_bytes())
    for place in range(int(len(content) * 0.6), int(len(content) * 0.6) + 40):
        content[place] ^= 0x5A
    (tmp_path / "a.mp4").write_bytes(content)
    late = (Fraction(9), Fraction(11))
    early, middle = (Fraction(1), Fraction(3)), (Fraction(6), Fraction(8))
    measured = measure_video(tmp_path, "a.mp4", (), 27.0, tmp_path / "scratch")
    assert measured.reason == "", measured.detail
    (shot,) = measured.shots  # the part before the damage is the longer one
    assert shot[0] == 0 and 4 < shot[1] < Fraction(36, 5)
    assert measured.notes[0].startswith("cut around damage (")
    spans = (early, middle, late)
    measured = measure_video(tmp_path, "a.mp4", spans, 27.0, tmp_path / "scratch")
    assert [segment.span for segment in measured.segments] == [None, None, early, late]
    assert measured.shots[0] == shot and measured.shots[1][1] == 12
    assert measured.shots[1][0].denominator == 1  # begins at a key frame
    captions = [Caption("first", early), Caption("second", middle), Caption("third", late)]
    rows, _ = decide({"a.mp4": measured}, {"a.mp4": captions}, CurateConfig(min_side=32))
    verdicts = {row["captions"][0]: row["reason"] for row in rows}
    assert verdicts == {"first": "", "second": "damaged", "third": ""}
    # What is kept is what the whole file shows there, also to the decoding stage.
    settings = WindowSettings(16, 16, 64, 2)
    for path, name in ((whole, "x"), (tmp_path / "a.mp4", "y")):
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        for start, end in measured.shots:
            source = Source(path, sha, start, end, "pyav")
            (cut,) = extract_video((source,), settings, tmp_path / name)
            assert not isinstance(cut, VideoError), cut
    kept = [sorted(file.read_bytes() for file in (tmp_path / name).iterdir()) for name in "xy"]
    assert kept[0] == kept[1]


def damaged_first_frame(source: Path, path: Path) -> Path:
    """Copy a file, with other bytes in the middle of its first picture, which resets the decoder."""
    with av.open(str(source)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.size)
        first = bytes(packet)
    content = bytearray(source.read_bytes())
    place = content.index(first[:40])
    for i in range(place + len(first) // 4, place + len(first) // 2):
        content[i] = 0x55
    path.write_bytes(content)
    return path


def test_times_count_from_the_first_frame_that_can_be_decoded(tmp_path, monkeypatch):
    """Key frames too: if the first picture is damaged, the video begins at the next key frame."""
    codec, options = CODECS["vp9.webm"]
    whole = encode(tmp_path / "whole.webm", moving_texture(150), 25, codec, g="25", **options)
    path = damaged_first_frame(whole, tmp_path / "a.webm")
    damage = Damage()
    frames = list(source_frames(path, damage))
    assert len(frames) == 125 and not damage  # what comes before the first frame is no damage
    keys = key_frames(path)
    assert keys.points == [1000, 2000, 3000, 4000, 5000]  # the packets begin at 0
    # A sign of damage within the second group of pictures: the next stretch begins with the third.
    times = [frame.time for frame in frames]
    seen = Damage(num_frames=1, signs=[Fraction(3, 2)])
    stretches = undamaged(path, times, Fraction(5), seen)
    assert stretches == [(Fraction(2), Fraction(5))]
    # Decoding from a key frame shows what decoding from the start shows.
    span = {"start": Fraction(3), "end": Fraction(4), "fps": 25}
    expected = decode(path, **span).frames
    monkeypatch.setattr(video_io, "SEEK_FROM", 0)
    assert np.array_equal(decode(path, **span).frames, expected)
    assert np.array_equal(expected, decode(whole, 25, Fraction(4), Fraction(5)).frames)


def test_a_recording_may_begin_and_end_anywhere(tmp_path):
    whole = encode(tmp_path / "whole.ts", moving_texture(100), 25, g="20", bf="2")
    content = whole.read_bytes()
    num_packets = len(content) // 188  # bytes of a transport packet
    head = content[: 188 * 3]  # the tables that name the streams
    for share in (0.15, 0.4):
        (tmp_path / "tail.ts").write_bytes(head + content[188 * int(num_packets * share) :])
        measured = measure_video(tmp_path, "tail.ts", (), 27.0, tmp_path / "scratch")
        assert measured.reason == "", measured.detail
        assert 30 < measured.num_frames < 100
    (tmp_path / "head.ts").write_bytes(content[: 188 * int(num_packets * 0.7)])
    measured = measure_video(tmp_path, "head.ts", (), 27.0, tmp_path / "scratch")
    assert measured.reason == "", measured.detail
    assert 30 < measured.num_frames < 100
