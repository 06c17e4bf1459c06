"""Which stream, how long, how shown: the same answers for every reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from lumiere.curation.combing import is_combed
from lumiere.curation.measurement import Measurement, measure_video
from lumiere.curation.probe import probe
from lumiere.data.display import on_background, turned
from lumiere.data.video_io import decode, read_video
from lumiere.data.video_streams import demuxed, main_stream, open_video
from lumiere.errors import VideoError
from lumiere.evaluation.videos import list_folder
from tests.video_factory import encode, numbered, read_numbers, truncated

QUARTER = ((0, 1), (-1, 0))


def measure(path: Path) -> Measurement:
    """What curation says of a file."""
    return measure_video(path.parent, path.name, (), 27.0, path.parent / "scratch")


def add(
    container: av.container.OutputContainer, codec: str, size: tuple[int, int]
) -> av.VideoStream:
    """A stream of (height, width)."""
    stream = container.add_stream(codec, rate=16)
    stream.height, stream.width = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


def fill(
    container: av.container.OutputContainer, stream: av.VideoStream, frames: np.ndarray
) -> None:
    """Encode all frames into a stream."""
    for picture in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())


def with_sound(
    path: Path, frames: np.ndarray, seconds: float, late: Fraction = Fraction(0)
) -> Path:
    """A file whose sound lasts `seconds`, and whose picture starts `late` seconds after it."""
    with av.open(str(path), "w") as container:
        picture = add(container, "libx264", frames.shape[1:3])
        sound = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48_000)
        sound.layout = "mono"
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = i + int(late * 16), Fraction(1, 16)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for start in range(0, int(seconds * 48_000), 960):
            silence = np.zeros((1, 960), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


# --- which stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", [Disposition.attached_pic, Disposition.default])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_cover_or_thumbnail_before_the_track_is_not_the_video(tmp_path, name, disposition):
    frames = numbered(20)
    with av.open(str(tmp_path / name), "w") as container:
        cover, video = add(container, "mjpeg", (200, 200)), add(container, "libx264", (64, 96))
        cover.disposition = disposition
        fill(container, cover, np.full((1, 200, 200, 3), 90, np.uint8))
        fill(container, video, frames)
    # Matroska rounds times to milliseconds, which these ticks are a multiple of.
    assert read_numbers(read_video(tmp_path / name, 8)) == list(range(0, 20, 2))
    measured = measure(tmp_path / name)
    assert (measured.reason, measured.num_frames) == ("", 20)
    assert (measured.width, measured.height) == (96, 64)
    assert measured.probe.decoder == "pyav", "decord chooses its stream by other rules"
    entry = list_folder(tmp_path).entries[0]
    assert (entry.width, entry.height, entry.num_frames) == (96, 64, 20)


def test_of_two_tracks_the_larger_is_the_video(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        small, large = add(container, "libx264", (32, 48)), add(container, "libx264", (64, 96))
        fill(container, small, np.zeros((10, 32, 48, 3), np.uint8))
        fill(container, large, numbered(20))
    assert read_numbers(read_video(tmp_path / "a.mkv", 8)) == list(range(0, 20, 2))
    assert probe(tmp_path / "a.mkv")[0].decoder_reason == "2 video streams"


def test_a_cover_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = add(container, "mjpeg", (64, 96))
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        fill(container, cover, numbered(1))
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux([*sound.encode(frame), *sound.encode()])
    with pytest.raises(VideoError, match="no video stream"):
        read_video(tmp_path / "a.mp4")


class BeginsLate:
    """A container in which a stream begins late, of which PyAV does not know."""

    def __init__(self, container: av.container.InputContainer, after: int) -> None:
        self.container, self.after, self.num_read = container, after, 0

    def demux(self, *streams: av.VideoStream) -> Iterator[av.Packet]:
        for packet in self.container.demux(*streams):
            yield packet
            self.num_read += 1
            if self.num_read == self.after:
                raise IndexError("list index out of range")


@pytest.mark.parametrize("after", [7, 20, 21])  # within, at the last packet, at the end
def test_a_stream_that_begins_late_does_not_end_the_video(tmp_path, after):
    path = encode(tmp_path / "a.ts", numbered(20))
    with open_video(path) as container:
        expected = [(packet.pts, packet.size) for packet in container.demux(video=0)]
    with open_video(path) as container:
        late = BeginsLate(container, after)
        packets = [(packet.pts, packet.size) for packet in demuxed(late, main_stream(container))]
    assert packets == expected and len(packets) == 21


# --- how long -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("late", [Fraction(0), Fraction(2)])
def test_sound_may_be_longer_than_the_picture(tmp_path, name, late):
    if name == "a.avi" and late:
        pytest.skip("avi has no time stamps")
    measured = measure(with_sound(tmp_path / name, numbered(32), 9.0, late))
    assert measured.reason == "", measured.detail
    assert float(measured.duration) == pytest.approx(2, abs=1e-3)


def test_a_cut_off_file_is_still_truncated(tmp_path):
    whole = with_sound(tmp_path / "whole.mkv", numbered(64), 4.0)
    assert measure(truncated(tmp_path / "a.mkv", whole, 0.6)).reason == "truncated"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_long_interval_before_the_last_frame_does_not_stretch_it(tmp_path, name):
    times = [Fraction(i, 10) for i in range(20)] + [Fraction(7)]
    path = encode(tmp_path / name, numbered(21), 10, times=times, bf="0")
    assert float(decode(path).duration) < 7.5
    assert measure(path).reason == ""


def test_a_last_frame_is_shown_for_its_own_duration(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in numbered(4)]
    durations = [100, 100, 100, 2000]  # milliseconds
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=durations
    )
    assert decode(tmp_path / "a.gif").duration == Fraction(23, 10)
    assert measure(tmp_path / "a.gif").reason == ""


def test_one_frame_less_than_the_header_counts_is_no_truncation(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(20))
    content = bytearray(path.read_bytes())
    count = content.index(b"stsz") + 12
    assert int.from_bytes(content[count : count + 4], "big") == 20
    measured = measure(path)
    assert measured.probe.promised_frames == 20
    last = av.open(str(path)).streams.video[0].index_entries[19]
    content[last.pos : last.pos + last.size] = bytes(last.size)  # an empty last sample
    (tmp_path / "b.mp4").write_bytes(content)
    assert measure(tmp_path / "b.mp4").reason in ("", "damaged")


# --- how shown ------------------------------------------------------------------------------------


def shown(path: Path, **display: object) -> Path:
    """A file with a rotation, a mirroring or pixels that are not square."""
    with av.open(str(path), "w") as container:
        stream = add(container, "libx264", (64, 96))
        # The same bytes each time: x264 reads uninitialised memory for the macroblock tree.
        stream.codec_context.options = {"crf": "12", "threads": "1", "x264-params": "mbtree=0"}
        if aspect := display.pop("aspect", None):
            stream.codec_context.sample_aspect_ratio = aspect
        if display:
            stream.set_display_rotation(display.pop("rotation", 0), **display)
        fill(container, stream, numbered(20))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("display", "expected"),
    [
        ({"rotation": 90}, lambda frames: np.rot90(frames, 1, axes=(1, 2))),
        ({"rotation": 180}, lambda frames: np.rot90(frames, 2, axes=(1, 2))),
        ({"rotation": -90}, lambda frames: np.rot90(frames, -1, axes=(1, 2))),
        ({"hflip": True}, lambda frames: frames[:, :, ::-1]),
        ({"vflip": True}, lambda frames: frames[:, ::-1]),
    ],
)
def test_rotation_and_mirroring_are_shown(tmp_path, name, display, expected):
    plain = read_video(shown(tmp_path / f"plain-{name}"))
    path = shown(tmp_path / name, **display)
    assert np.array_equal(read_video(path), expected(plain))
    facts, _ = probe(path)
    assert (facts.decoder, facts.notes) == ("pyav", ("rotated or mirrored",))


def test_every_display_matrix_moves_pixels_as_it_says():
    pixels = np.arange(12).reshape(3, 4, 1)
    for a, b, c, d in ((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)):
        for matrix in (((a, b), (c, d)), ((b, a), (d, c))):
            result = turned(pixels, matrix)
            (p, q), (r, s) = matrix
            height, width = result.shape[:2]
            for y in range(3):
                for x in range(4):
                    u, v = p * x + r * y, q * x + s * y
                    u, v = (u if p + r > 0 else width - 1 + u), (v if q + s > 0 else height - 1 + v)
                    assert result[v, u, 0] == pixels[y, x, 0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_circles_stay_circles(tmp_path, name):
    path = shown(tmp_path / name, aspect=Fraction(2))
    assert read_video(path).shape == (20, 64, 192, 3)
    measured = measure(path)
    assert (measured.width, measured.height) == (192, 64)
    assert measured.probe.notes == ("pixels of 2:1",)
    entry = list_folder(tmp_path).entries[0]
    assert (entry.width, entry.height) == (192, 64)
    assert read_video(shown(tmp_path / f"tall-{name}", aspect=Fraction(1, 2))).shape[1:3] == (
        128,
        96,
    )


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [("a.mov", "qtrle", "argb"), ("a.webm", "libvpx-vp9", "yuva420p")],
)
def test_transparent_pixels_show_white(tmp_path, name, codec, kind):
    with av.open(str(tmp_path / name), "w") as container:
        stream = add(container, codec, (64, 96))
        stream.pix_fmt = kind
        for picture in numbered(4):
            pixels = np.dstack([picture, np.full((64, 96), 255, np.uint8)])
            pixels[:, :48, 3] = 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=kind)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = read_video(tmp_path / name)
    assert (frames[:, :, :44] == 255).all()
    assert np.abs(frames[:, :40, 52:].astype(int) - numbered(4)[:, :40, 52:]).mean() < 12
    assert probe(tmp_path / name)[0].notes[0] == "transparent"


def test_half_transparent_pixels_are_blended():
    pixels = np.array([[[0, 100, 255, 128]]], np.uint8)
    assert on_background(pixels).tolist() == [[[127, 177, 255]]]


def test_a_change_of_size_is_named(tmp_path):
    times = [Fraction(i, 16) for i in range(40)]
    encode(tmp_path / "a.ts", numbered(20), times=times[:20])
    encode(tmp_path / "b.ts", numbered(20, height=32, width=96), times=times[20:])
    joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(joined)
    with pytest.raises(VideoError, match="change their size"):
        read_video(tmp_path / "joined.ts")
    measured = measure(tmp_path / "joined.ts")
    assert measured.reason == "unreadable" and "change their size" in measured.detail


def pq(nits: np.ndarray) -> np.ndarray:
    """The inverse EOTF of SMPTE ST 2084: candelas per square metre to a signal in [0, 1]."""
    powered = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered)) ** 78.84375


def hlg(nits: np.ndarray) -> np.ndarray:
    """The inverse EOTF of ARIB STD-B67 on a display of 1000 candelas per square metre."""
    light = (nits / 1000) ** (1 / 1.2)  # of the scene
    bright = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), bright)


def levels_of_hdr(path: Path, signal: np.ndarray, transfer: str) -> np.ndarray:
    """How bright six bars of a signal in [0, 1] are shown, 0 to 255."""
    bars = (signal * 65_535).astype(np.uint16).repeat(16)
    picture = np.repeat(np.broadcast_to(bars, (64, 96))[..., None], 3, axis=-1)
    options = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none:pools=1"
    with av.open(str(path), "w") as container:
        stream = add(container, "libx265", (64, 96))
        stream.pix_fmt = "yuv420p10le"
        stream.options = {"x265-params": options, "crf": "4", "preset": "ultrafast"}
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb48le")
            container.mux(stream.encode(frame.reformat(format="yuv420p10le", dst_colorspace=9)))
        container.mux(stream.encode())
    return read_video(path)[1, 32, 8::16].mean(axis=-1)


@pytest.mark.parametrize(
    ("name", "transfer", "curve"), [("PQ", "smpte2084", pq), ("HLG", "arib-std-b67", hlg)]
)
def test_hdr_is_tone_mapped(tmp_path, name, transfer, curve):
    nits = np.array([0.1, 5, 18, 203, 600, 1000])
    levels = levels_of_hdr(tmp_path / "a.mp4", curve(nits), transfer)
    assert (np.diff(levels) > 10).all(), "brighter stays brighter"
    assert levels[0] < 14, "black"
    assert 140 < levels[3] < 200, "reference white"
    assert levels[3] - levels[2] > 75, "contrast; without tone mapping it is 59"
    assert probe(tmp_path / "a.mp4")[0].notes[0] == f"HDR ({name})"


def combing(frames: np.ndarray) -> float:
    """How much rows differ from the rows next to them, beyond those of their own field."""
    rows = frames.mean(axis=-1)
    beside = np.abs(rows[:, 1:-1] - rows[:, 2:]).mean()
    own = np.abs(rows[:, :-2] - rows[:, 2:]).mean()
    return float(beside - own)


def bar(num_frames: int, is_woven: bool) -> np.ndarray:
    """uint8 (t, 64, 96, 3): a bar that moves with every field, there and back."""
    fields = [np.full((64, 96, 3), 40, np.uint8) for _ in range(2 * num_frames)]
    for i, field in enumerate(fields):
        left = 10 + abs((i + 40) % 80 - 40)
        field[:, left : left + 30] = 220
    frames = np.stack(fields[::2])
    if is_woven:
        frames[:, 1::2] = np.stack(fields[1::2])[:, 1::2]
    return frames


def interlaced_in_part(path: Path, parts: Sequence[np.ndarray], marked: int = 1) -> Path:
    """A transport stream of two encodings, of which one is marked as interlaced."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"b": "4000000"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        start = 0
        for number, pictures in enumerate(parts):
            codec = av.CodecContext.create("mpeg2video", "w")
            codec.height, codec.width, codec.pix_fmt = 64, 96, "yuv420p"
            codec.time_base, codec.framerate = Fraction(1, 25), Fraction(25)
            codec.options = {
                "b": "4000000",
                "flags": "+ildct+ilme" if number == marked else "-ildct",
            }
            frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
            for i, frame in enumerate(frames):
                frame.pts, frame.time_base = start + i, Fraction(1, 25)
            packets = [packet for frame in [*frames, None] for packet in codec.encode(frame)]
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
            start += len(frames)
    return path


def test_frames_that_are_interlaced_later_are_deinterlaced(tmp_path):
    parts = bar(12, is_woven=False), bar(60, is_woven=True)
    path = interlaced_in_part(tmp_path / "a.ts", parts)
    frames = read_video(path, 25)
    assert len(frames) == 72 and decode(path).duration == Fraction(72, 25)
    assert combing(parts[1]) > 1.5
    assert combing(frames[13:-1]) < 0.4
    measured = measure(path)
    assert measured.reason == "" and "interlaced in part" in measured.notes
    assert (measured.probe.decoder, measured.probe.decoder_reason) == ("pyav", "interlaced")


def test_an_interlaced_beginning_is_not_the_whole(tmp_path):
    parts = bar(24, is_woven=True), bar(48, is_woven=False)
    notes = []
    for name, marked in (("beginning", 0), ("end", 1)):
        path = interlaced_in_part(tmp_path / f"{name}.ts", parts, marked)
        measured = measure(path)
        notes.append([*measured.probe.notes, *measured.notes].count("interlaced in part"))
        assert "interlaced" not in [*measured.probe.notes, *measured.notes]
    assert notes == [1, 1]
    whole = encode(tmp_path / "a.mp4", parts[0], 25, **{"x264-params": "interlaced=1:tff=1"})
    measured = measure(whole)
    assert [*measured.probe.notes, *measured.notes] == ["interlaced", "without colour"]


@pytest.mark.parametrize("speed, pan", [(0, 0), (3, 0), (9, 0), (2, 1)])
@pytest.mark.parametrize("height", [1, 2])
def test_slats_do_not_look_interlaced(tmp_path, speed, pan, height):
    """Stripes of one and two rows, with a thing that moves before them, and a camera that tilts."""
    y, _ = np.mgrid[:96, :128]
    frames = np.full((48, 96, 128, 3), 60, np.uint8)
    for i, frame in enumerate(frames):
        frame[(y + pan * i) // height % 2 == 0] = 180
        if speed:
            left = (8 + speed * i) % 100
            frame[20:70, left : left + 24] = (200, 90, 30)
    path = encode(tmp_path / "a.mp4", frames, 24)
    assert "looks interlaced" not in measure(path).notes


@pytest.mark.parametrize("is_woven", [False, True])
def test_video_that_looks_interlaced_is_noted(tmp_path, is_woven):
    path = encode(tmp_path / "a.mp4", bar(60, is_woven), 25)
    assert ("looks interlaced" in measure(path).notes) == is_woven


def test_texture_does_not_look_interlaced():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96), np.uint8)
    assert not any(is_combed(picture) for picture in pictures)
    assert is_combed(cv2.cvtColor(bar(1, is_woven=True)[0], cv2.COLOR_RGB2GRAY))


def test_interlaced_video_is_deinterlaced(tmp_path):
    woven = bar(20, is_woven=True)
    path = encode(tmp_path / "a.mp4", woven, 25, **{"x264-params": "interlaced=1:tff=1"})
    frames = read_video(path, 25)
    assert len(frames) == 20 and decode(path).duration == Fraction(20, 25)
    assert combing(woven) > 1.5
    assert combing(frames[1:-1]) < 0.4
    assert probe(path)[0].notes == ("interlaced",)
