"""Files whose media data is damaged: decoders conceal it, curation rejects it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.damage import undamaged
from lumiere.curation.measurement import measure_video
from lumiere.curation.verdicts import decide
from lumiere.data import video_io
from lumiere.data.decoder_signs import HEVC_MD5
from lumiere.data.extract import extract_video
from lumiere.data.key_frames import key_frames
from lumiere.data.video_io import decode, read_video
from lumiere.data.video_source import Damage, source_frames
from lumiere.data.window_choice import Source, WindowSettings
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


GROUPS = {"g": "25", "sc_threshold": "0"}
REALTIME = {"deadline": "realtime", "cpu-used": "8", "g": "25"}
NOTE = "damage may go unnoticed"
# Codec, options, and whether an accepted file says that damage may go unnoticed.
ACCEPTED = {
    "h264.ts": ("libx264", GROUPS, False),
    "mpeg2.ts": ("mpeg2video", {"b": "1500000", "g": "15", "bf": "2"}, False),
    "mpeg4.avi": ("mpeg4", {"b": "1500000", "g": "25"}, False),
    "vp9.webm": ("libvpx-vp9", {**REALTIME, "crf": "20", "b": "0"}, False),
    "av1.mkv": ("libsvtav1", {"preset": "12", "g": "25"}, False),
    "hashed.mp4": ("libx265", {"x265": "hash=1:keyint=25"}, False),
    "ffv1.mkv": ("ffv1", {}, False),
    "hevc.mp4": ("libx265", {"x265": "keyint=25"}, True),
    "sums.mp4": ("libx265", {"x265": "hash=2:keyint=25"}, True),
    "vp8.webm": ("libvpx", {**REALTIME, "crf": "20", "b": "1M"}, True),
    "mjpeg.mov": ("mjpeg", {"b": "3000000"}, True),
    "unsummed.mkv": ("ffv1", {"level": "3", "slicecrc": "0"}, True),
}


def lumas(path: Path) -> dict[Fraction, np.ndarray]:
    """The brightness of all frames, by their times."""
    return {
        frame.time: frame.frame.to_ndarray(format="gray").astype(np.int16)
        for frame in source_frames(path)
    }


def count_wrong(whole: dict[Fraction, np.ndarray], path: Path, shots: tuple) -> int:
    """Count the frames in the shots of a damaged file that look like no near one of the whole file."""
    wrong = 0
    for time, luma in lumas(path).items():
        if any(start <= time < end for start, end in shots):
            near = [whole[other] for other in whole if abs(other - time) < Fraction(1, 10)]
            wrong += all(np.abs(luma - other).mean() > 2.5 for other in near)
    return wrong


@pytest.mark.parametrize("name", ACCEPTED)
def test_no_wrong_frame_is_kept_without_a_word(tmp_path, name):
    codec, options, is_noted = ACCEPTED[name]
    there = moving_texture(50)
    whole = encode(tmp_path / name, np.concatenate([there, there[::-1]]), 25, codec, **options)
    measured = measure_video(tmp_path, name, (), 27.0, tmp_path / "scratch")
    assert measured.reason == "" and measured.damage == "", measured.detail
    assert (NOTE in measured.probe.notes) == is_noted
    expected = lumas(whole)
    kept = {}
    for seed in range(3):
        damaged = flip_bytes(whole, tmp_path / f"damaged-{name}", seed)
        measured = measure_video(tmp_path, damaged.name, (), 27.0, tmp_path / "scratch")
        if measured.reason == "" and not is_noted:
            kept[seed] = count_wrong(expected, damaged, measured.shots)
        elif measured.reason == "":
            assert NOTE in measured.probe.notes
            assert not measured.damage, "one sign is enough to reject"
    assert not any(kept.values()), kept


# Options, and a seed whose damage shows before the first frame that the decoder marks.
SPREADING = {
    "open.mkv": ({**GROUPS, "x264-params": "open-gop=1:bframes=3"}, 4),
    "refresh.mp4": ({"g": "250", "x264-params": "intra-refresh=1"}, 2),
}


@pytest.mark.parametrize("name", SPREADING)
def test_damage_that_spreads_before_its_first_sign_is_not_cut_around(tmp_path, name):
    options, seed = SPREADING[name]
    there = moving_texture(100)
    whole = encode(tmp_path / name, np.concatenate([there, there[::-1]]), 25, **options)
    damaged = flip_bytes(whole, tmp_path / f"damaged-{name}", seed, 3)
    damage = Damage()
    list(source_frames(damaged, damage))
    assert damage.first is not None
    wrong_before = count_wrong(lumas(whole), damaged, ((Fraction(0), damage.first),))
    assert wrong_before > 0
    measured = measure_video(tmp_path, damaged.name, (), 27.0, tmp_path / "scratch")
    assert measured.reason == "damaged"


def hashed_like(path: Path, damaged: bool) -> Damage:
    """What is noticed in an HEVC file with MD5 sums, of which one byte of one picture may differ."""
    encode(path, moving_texture(20), 25, "libx265", x265="hash=1:keyint=10")
    content = bytearray(path.read_bytes())
    sums = list(HEVC_MD5.finditer(content))
    assert len(sums) == 20
    content[sums[7].end()] ^= damaged
    path.write_bytes(content)
    damage = Damage()
    assert len(list(source_frames(path, damage))) == 20
    return damage


def test_a_picture_that_differs_from_its_checksum_is_damage(tmp_path):
    assert not hashed_like(tmp_path / "a.mp4", damaged=False)
    assert hashed_like(tmp_path / "b.mp4", damaged=True).signs == [Fraction(8, 25)]
    assert av.logging.get_level() is None, "FFmpeg's log is off again"


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
    assert shot[1].denominator == 1  # ends at a key frame
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
            (cut,) = extract_video((source,), (settings,), tmp_path / name)
            assert not isinstance(cut, VideoError), cut
    kept = [sorted(file.read_bytes() for file in (tmp_path / name).iterdir()) for name in "xy"]
    assert kept[0] == kept[1]


def test_a_video_that_breaks_off_does_not_end_in_one_damaged_frame(tmp_path):
    """VP9's decoder gives nothing up to the next key frame. Here there is none."""
    codec, options = CODECS["vp9.webm"]
    whole = encode(tmp_path / "whole.webm", moving_texture(60), 25, codec, g="30", **options)
    with av.open(str(whole)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(whole.read_bytes())
    place, size = places[40]
    content[place + size // 4 : place + size] = bytes(size - size // 4)
    (tmp_path / "a.webm").write_bytes(content)
    measured = measure_video(tmp_path, "a.webm", (), 27.0, tmp_path / "scratch")
    assert measured.reason == "damaged", measured.notes


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
    # A sign of damage within the second group of pictures: the first and the third are kept.
    seen = Damage(num_frames=1, signs=[Fraction(3, 2)])
    stretches = undamaged(path, "mpeg4", Fraction(5), seen)
    assert stretches == [(Fraction(0), Fraction(1)), (Fraction(2), Fraction(5))]
    assert undamaged(path, "vp9", Fraction(5), seen) == [], "where some damage gives no sign"
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
