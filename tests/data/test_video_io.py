"""The resampling rule, on frames that carry their own number, with both decoders."""

from __future__ import annotations

import bisect
import errno
import os
import resource
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lumiere.data import video_source
from lumiere.data.video_io import (
    Ticks,
    decode,
    exact_seconds,
    read_video,
    select_ticks,
    write_video,
)
from lumiere.errors import VideoError
from tests.video_factory import (
    cut_by_edit_list,
    encode,
    numbered,
    open_gop,
    read_numbers,
    rotated,
    truncated,
)

DECODERS = ("pyav", "decord")


def expected(times: list[Fraction], end: Fraction, fps: int = 16) -> list[int]:
    """The rule, spelled out: the last frame at or before each tick."""
    numbers = []
    while Fraction(len(numbers), fps) < end:
        numbers.append(bisect.bisect_right(times, Fraction(len(numbers), fps)) - 1)
    return numbers


@pytest.mark.parametrize(
    "fps", [Fraction(16), Fraction(8), Fraction(25), Fraction(30_000, 1001), Fraction(50)]
)
@pytest.mark.parametrize("bframes", ["0", "3"])
def test_both_decoders_follow_the_rule(tmp_path, fps, bframes):
    path = encode(tmp_path / "a.mp4", numbered(40), fps, bf=bframes)
    times = [i / fps for i in range(40)]
    for decoder in DECODERS:
        assert read_numbers(read_video(path, decoder=decoder)) == expected(times, 40 / fps), decoder


def test_decoders_agree_to_the_bit(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(70), 30)
    assert np.array_equal(read_video(path), read_video(path, decoder="decord"))


def test_equals_ffmpegs_fps_filter_rounding_up(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(60), 24)
    graph = av.filter.Graph()
    with av.open(str(path)) as container:
        source = graph.add_buffer(template=container.streams.video[0])
        fps_filter, sink = graph.add("fps", "fps=16:round=up"), graph.add("buffersink")
        source.link_to(fps_filter)
        fps_filter.link_to(sink)
        graph.configure()
        theirs = []
        for frame in [*container.decode(video=0), None]:
            graph.push(frame)
            while True:
                try:
                    theirs.append(graph.pull().to_ndarray(format="rgb24"))
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    ours = read_numbers(read_video(path))
    assert ours == read_numbers(np.stack(theirs))[: len(ours)]


@pytest.mark.parametrize("decoder", DECODERS)
def test_varying_frame_rate(tmp_path, decoder):
    steps = [Fraction(step, 100) for step in (3, 3, 20, 5, 1, 1, 30, 4, 4, 10)]
    times = [sum(steps[:i], Fraction(0)) for i in range(len(steps))]
    path = encode(tmp_path / "a.mp4", numbered(10), 100, times=times, bf="0")
    assert read_numbers(read_video(path, decoder=decoder)) == expected(times, times[-1] + steps[-2])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_span_starts_at_its_own_first_frame(tmp_path, decoder):
    path = encode(tmp_path / "a.mp4", numbered(48))
    assert read_numbers(read_video(path, start=1.0, end=1.5, decoder=decoder)) == list(
        range(16, 24)
    )
    assert read_video(path, start=2.0, end=2.0, decoder=decoder).shape == (0, 64, 96, 3)


def test_select_ticks_takes_the_last_frame_at_or_before():
    times = [Fraction(i, 25) for i in range(50)]
    assert select_ticks(times, Ticks(Fraction(16)), Fraction(2)) == expected(times, Fraction(2))
    span = Ticks(Fraction(16), Fraction(1, 2), Fraction(3, 4))
    assert select_ticks(times, span, Fraction(2)) == [12, 14, 15, 17]


def test_open_gop_is_right_in_order(tmp_path):
    path = open_gop(tmp_path / "a.mp4", numbered(48))
    assert read_numbers(read_video(path)) == list(range(48))


def test_edit_list_is_honoured(tmp_path):
    whole = encode(tmp_path / "whole.mp4", numbered(48), bf="2", g="8")
    path = cut_by_edit_list(tmp_path / "cut.mp4", whole, 20)
    assert read_numbers(read_video(path))[:20] == list(range(20, 40))


@pytest.mark.parametrize("decoder", DECODERS)
def test_rotation_is_honoured(tmp_path, decoder):
    upright = read_video(encode(tmp_path / "a.mp4", numbered(4)))
    turned = read_video(rotated(tmp_path / "b.mp4", tmp_path / "a.mp4"), decoder=decoder)
    assert turned.shape == (4, 96, 64, 3)
    assert np.array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


def test_truncated_file_gives_all_it_has(tmp_path):
    whole = encode(tmp_path / "whole.mp4", numbered(64), bf="0", crf="1")
    decoded = decode(truncated(tmp_path / "part.mp4", whole, 0.6))
    assert 10 < decoded.num_source_frames < 64
    assert read_numbers(decoded.frames[:-1]) == list(range(len(decoded.frames) - 1))


@pytest.mark.parametrize(
    "content", [b"", b"no video at all", b"#EXTM3U\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n"]
)
def test_what_is_no_video_is_refused(tmp_path, content):
    encode(tmp_path / "a.mp4", numbered(4))
    path = tmp_path / "list.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError):
        read_video(path)


def test_too_many_open_files_are_no_fault_of_the_video(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError) as caught:
            read_video(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert len(read_video(path)) == 4


def test_a_disk_that_goes_away_does_not_shorten_the_video():
    class Broken:
        format = SimpleNamespace(name="mp4")

        def demux(self, stream):
            raise av.error.OSError(errno.ESTALE, "Stale file handle")
            yield

    with pytest.raises(OSError, match="Stale"):
        list(video_source._packets(Broken(), None, video_source.Damage()))


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "a.mp4", numbered(4)).rename("file:a.mp4")
    assert len(read_video("file:a.mp4")) == 4


def test_unknown_decoder():
    with pytest.raises(ValueError, match="allowed: decord, pyav"):
        read_video("a.mp4", decoder="opencv")


def test_write_and_read_are_inverse_up_to_compression(tmp_path):
    frames = numbered(20)
    write_video(tmp_path / "a.mp4", frames, 16, crf=4)
    again = read_video(tmp_path / "a.mp4")
    assert read_numbers(again) == list(range(20))
    assert np.abs(again.astype(int) - frames).mean() < 6


def test_written_bytes_are_stable_and_play_everywhere(tmp_path):
    frames = numbered(6)[:, :63, :95]
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 16)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content == (tmp_path / "b.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "not faststart"
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.height, context.width) == (
            "h264",
            "yuv420p",
            64,
            96,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_write_refuses_what_is_no_video(tmp_path):
    for frames in (
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8), np.uint8),
    ):
        with pytest.raises(ValueError, match="expected uint8"):
            write_video(tmp_path / "a.mp4", frames, 16)


def test_the_same_frames_give_the_same_bytes_whatever_is_in_memory(tmp_path):
    generator = np.random.default_rng(0)
    picture = generator.normal(128, 60, (8, 8, 3)).repeat(4, axis=0).repeat(4, axis=1)
    frames = np.stack(
        [np.roll(picture, t, axis=1) + generator.normal(0, 8, picture.shape) for t in range(8)]
    )
    frames = frames.clip(0, 255).astype(np.uint8)
    written = set()
    for _ in range(25):
        garbage = [np.full(generator.integers(100, 200_000), 7 * n, np.uint8) for n in range(30)]
        del garbage[::2]
        write_video(tmp_path / "a.mp4", frames, 16)
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


RATES = [Fraction(24), Fraction(25), Fraction(30), Fraction(50), Fraction(60_000, 1001)]
TIME_BASES = [Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 12_800), Fraction(1, 1_000_000)]


@pytest.mark.parametrize("time_base", TIME_BASES)
@pytest.mark.parametrize("rate", RATES)
def test_a_shot_never_shows_the_frame_before_its_cut(rate, time_base):
    times = [round(i / rate / time_base) * time_base for i in range(300)]
    for cut in range(1, 299, 7):
        a_second_later = times[cut] + 1
        second = Ticks(Fraction(16), start=times[cut], end=a_second_later)
        assert select_ticks(times, second, times[-1])[0] == cut
        first = select_ticks(times, Ticks(Fraction(16), end=times[cut]), times[-1])
        assert first[-1] < cut
        assert exact_seconds(float(times[cut])) == times[cut], "a float loses the time"


def test_exact_seconds_mean_what_people_write():
    assert exact_seconds(1.2) == Fraction(6, 5) > Fraction(1.2)
    assert exact_seconds(3600 + 1 / 3) == 3600 + Fraction(1, 3)
    assert exact_seconds(Fraction(1, 7)) == Fraction(1, 7)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_float_start_shows_its_own_frame(tmp_path, decoder):
    path = encode(tmp_path / "a.mp4", numbered(40), 25)
    for number in (3, 30):  # 30 / 25 is the float 1.2, which lies below 6/5
        assert read_numbers(read_video(path, 25, start=number / 25, decoder=decoder))[0] == number


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_the_wanted_frames_are_converted_and_kept(tmp_path, decoder):
    path = encode(tmp_path / "a.mp4", numbered(60))
    converted = []

    def note(picture: np.ndarray) -> np.ndarray:
        converted.append(picture.shape)
        return picture

    wanted = {2, 3, 40}
    decoded = decode(path, 16, start=0.25, decoder=decoder, transform=note, wanted=wanted)
    assert read_numbers(decoded.frames) == [6, 7, 44]
    assert len(converted) == 3
