"""Opens videos, and answers two questions for every reader: which stream, and how long.

`lumiere.data.display` answers the third: how a frame is shown.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.stream import Disposition

from lumiere.data.display import Converter, Display, deinterlaced, display_of
from lumiere.data.workers import report_progress
from lumiere.errors import VideoError, first_line

# Playlists (HLS, concat) refer to other files, so they are refused whatever the suffix.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT})

# Pictures that stand for a video, and are not the video.
NOT_THE_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# FFmpeg's own VP8 and VP9 decoders return broken pictures of damaged files without any sign.
# libvpx's decoders return the same pixels and read alpha; that of VP9 notices almost all damage,
# that of VP8 some.
DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# These decoders mark the frames whose damage they conceal. All others have to be strict instead.
MARKING_CODECS = frozenset(
    {"h264", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1", "msmpeg4v1", "msmpeg4v2"}
    | {"msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1"}
)
STRICT = "crccheck+bitstream+buffer+explode"

# AVI stores no times: a frame's place in the file is its time, and FFmpeg's pts is wrong with
# B-frames. Raw streams store neither times nor places.
NO_PTS = frozenset({"avi"})
RAW_STREAMS = frozenset({"h264", "hevc"})

# Times that run backwards would hide the frames that follow. A few do in whole files (MPEG program
# streams give a time to some frames only).
LONGEST_RETURN = Fraction(1)  # seconds; more is a file joined from parts with times of their own
MOST_HIDDEN = Fraction(1, 20)  # share of the frames
LONGEST_FRAME = Fraction(600)  # seconds; more is a jump of the times, and would be a day of ticks

FRAMES_LOOKED_AT = 8  # the first frame of an interlaced video may be marked otherwise
SHORTEST = Fraction(1, 1_000_000)  # seconds; how long a single frame without a duration is shown

MEND_TIMES = "write them anew with `ffmpeg -i <file> <new file>`"


class SeekError(VideoError):
    """Decoding did not begin at the key frame that was asked for."""


@dataclass
class Damage:
    """What a decoder could not read, counted while frames are decoded.

    Attributes:
        num_frames: frames whose damage the decoder concealed.
        num_packets: packets that gave no frame because they are damaged.
        signs: seconds from the first frame to each sign of damage whose time is known.
    """

    num_frames: int = 0
    num_packets: int = 0
    signs: list[Fraction] = field(default_factory=list)

    def note(self, time: Fraction) -> None:
        """Note the time of a sign of damage."""
        self.signs.append(max(time, Fraction(0)))

    @property
    def first(self) -> Fraction | None:
        """The time of the first sign; None if none is known."""
        return min(self.signs, default=None)

    @property
    def is_timed(self) -> bool:
        """Whether the time of each sign is known."""
        return len(self.signs) == self.num_frames + self.num_packets

    def is_in(self, start: Fraction, end: Fraction) -> bool:
        """Return whether there is damage from `start` up to `end`, or may be."""
        return not self.is_timed or any(start <= sign < end for sign in self.signs)

    def copy(self) -> Damage:
        return Damage(self.num_frames, self.num_packets, list(self.signs))

    def __bool__(self) -> bool:
        return self.num_frames + self.num_packets > 0

    def __str__(self) -> str:
        parts = []
        if self.num_frames:
            parts.append(f"{self.num_frames} damaged frames")
        if self.num_packets:
            parts.append(f"{self.num_packets} unreadable packets")
        since = "" if self.first is None else f", from {float(self.first):.2f} s on"
        return " and ".join(parts) + since


@dataclass(frozen=True)
class SourceFrame:
    """A decoded frame, which becomes a picture when someone asks for it.

    Attributes:
        time: seconds from the first frame.
        duration: its own duration in seconds; 0 if unknown.
    """

    time: Fraction
    duration: Fraction
    frame: av.VideoFrame
    display: Display
    converter: Converter

    def picture(self) -> np.ndarray:
        """uint8 (h, w, 3), RGB, as shown."""
        return self.display.picture(self.frame, self.converter)

    def thumbnail(self, side: int) -> np.ndarray:
        """uint8 (side, side, 3), RGB: the picture squashed to a small square, at little cost."""
        return self.display.thumbnail(self.frame, self.converter, side)

    @property
    def size(self) -> tuple[int, int]:
        """The (width, height) of the picture."""
        return self.display.size(self.frame.width, self.frame.height)


@dataclass(frozen=True)
class Seek:
    """A key frame at which decoding begins, see `lumiere.data.key_frames`.

    Attributes:
        point: its timestamp, in ticks of the stream's time base.
        points: the timestamps of all exact key frames; the first is that of the video's first frame.
    """

    point: int
    points: Sequence[int]


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown, from its packets alone.

    Attributes:
        times: ascending seconds of the frames, the first at 0.
        end: seconds at which the last frame ends.
    """

    times: list[Fraction] = field(default_factory=list)
    end: Fraction = Fraction(0)


def open_video(path: str | Path, **options: str) -> av.container.InputContainer:
    """Open a video file; only local files in real media formats are accepted.

    Raises:
        VideoError: if it cannot be opened or holds no video stream.
        OSError: if the machine cannot open any file now.
    """
    try:
        # Use an absolute path, so that FFmpeg does not take a colon in a name for a protocol.
        container = av.open(
            os.path.abspath(path), options={**OPEN_OPTIONS, **options}, metadata_errors="replace"
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise_machine_error(error)
        raise VideoError(f"cannot be opened ({reason_of(error)})") from None
    if not container.streams.video:
        container.close()
        raise VideoError("no video stream")
    return container


def main_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the stream that is the video.

    Covers and thumbnails do not count. Of several streams, one with more than one picture is
    preferred, then the default one, then the largest, then the first.

    Raises:
        VideoError: if there is none that can be decoded.
    """
    streams = video_streams(container)
    if not streams:
        raise VideoError("no video stream that can be decoded")
    if len(streams) == 1:
        return streams[0]
    counts = _count_pictures(container)

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
        is_default = bool(stream.disposition & Disposition.default)
        return counts[stream.index] > 1, is_default, stream.width * stream.height

    return max(streams, key=rank)  # the first of equals


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Return the streams that may be the video."""
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None
        and stream.codec_context.width
        and stream.codec_context.height
        and not stream.disposition & NOT_THE_VIDEO
    ]


def look(path: str | Path) -> Display:
    """Decode the first frames to see how a video is shown.

    Raises:
        VideoError: if no frame can be decoded.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        first_frames = FirstFrames(stream)
        for packet in _packets(container, stream, Damage()):
            first_frames.add(packet)
            if first_frames.is_complete:
                break
        return first_frames.display()


class FirstFrames:
    """Decodes the first frames of a stream from its packets, to see how it is shown."""

    def __init__(self, stream: av.VideoStream) -> None:
        stream.thread_type = "NONE"
        self._stream = stream
        self._frames: list[av.VideoFrame] = []

    @property
    def is_complete(self) -> bool:
        return len(self._frames) >= FRAMES_LOOKED_AT

    def add(self, packet: av.Packet | None) -> None:
        """Decode the next packet, or at the end what the decoder still holds (None)."""
        if self.is_complete:
            return
        with contextlib.suppress(av.error.FFmpegError):
            # FFmpeg's own decoder, for only these are told the display matrix.
            self._frames += self._stream.codec_context.decode(packet)

    def display(self) -> Display:
        """Return how the stream is shown.

        Raises:
            VideoError: if no frame can be decoded.
        """
        self.add(None)
        if not self._frames:
            raise VideoError("no frame could be decoded")
        return display_of(self._stream, self._frames[:FRAMES_LOOKED_AT])


def source_frames(
    path: str | Path,
    damage: Damage | None = None,
    seek: Seek | None = None,
    display: Display | None = None,
) -> Iterator[SourceFrame]:
    """Yield all frames in the order in which they are shown, each at a later time than the last.

    Damaged packets are skipped. The decoder is flushed at the end, so that a truncated file gives
    all its frames.

    Args:
        path: any container and codec that FFmpeg reads.
        damage: counts what cannot be read; it is complete when the generator ends.
        seek: where to begin; by default at the start.
        display: from `look`, if the caller has it.

    Raises:
        VideoError: if the file cannot be opened, or no frame can be decoded.
    """
    damage = Damage() if damage is None else damage
    display, converter = display or look(path), Converter()
    origin: int | None = None if seek is None else seek.points[0]
    time = Fraction(-1)
    num_frames = num_hidden = 0
    with open_video(path) as container:
        stream = main_stream(container)
        assert stream.time_base is not None
        time_base = Fraction(stream.time_base)
        if seek is not None:
            container.seek(seek.point, stream=stream)
        frames = _frames(container, stream, _decoder(stream), damage, origin)
        if seek is not None:
            frames = _from_key_frame(frames, seek)
        for frame in deinterlaced(frames) if display.is_interlaced else frames:
            assert frame.pts is not None
            if display.is_interlaced and frame.time_base:
                time_base = Fraction(frame.time_base)  # the filter counts in halves
            origin = frame.pts if origin is None else origin
            later = (frame.pts - origin) * time_base
            num_frames += 1
            if later <= time:  # a repeated or backward time would show nothing
                num_hidden += later < time
                _check_return(later, time)
                continue
            _check_jump(max(time, Fraction(0)), later)
            time = later
            duration = max(0, frame.duration or 0) * time_base
            yield SourceFrame(time, duration, frame, display, converter)
    _check_hidden(num_hidden, num_frames)


def first_point(path: str | Path) -> int | None:
    """Return the timestamp of the first frame that can be decoded, in ticks of the stream's time
    base; None if there is none.

    Raises:
        VideoError: if the file cannot be opened.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        frame = next(_frames(container, stream, _decoder(stream), Damage()), None)
        return None if frame is None else frame.pts


def read_timeline(path: str | Path) -> Timeline:
    """Read when the frames are shown, without decoding.

    Raises:
        VideoError: if the file cannot be opened, or holds no frame.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        points: list[tuple[int, int]] = []
        for packet in container.demux(stream):
            report_progress()
            if packet.size and packet.pts is not None:
                points.append((packet.pts, packet.duration or 0))
        points.sort()
        assert stream.time_base is not None
        time_base = Fraction(stream.time_base)
    if not points:
        raise VideoError("no frame could be decoded")
    times = [(point - points[0][0]) * time_base for point, _ in points]
    return Timeline(times, end_of(times, max(0, points[-1][1]) * time_base))


def end_of(times: Sequence[Fraction], last_duration: Fraction) -> Fraction:
    """Return when the last frame ends.

    Args:
        times: ascending seconds of the frames, at least one.
        last_duration: the last frame's own duration; 0 if unknown. Then it is shown as long as
            the median frame, and a single frame for (almost) no time.

    Raises:
        VideoError: if that is absurdly long.
    """
    if last_duration > 0:
        _check_jump(times[-1], times[-1] + last_duration)
        return times[-1] + last_duration
    if len(times) < 2:
        return times[-1] + SHORTEST
    return times[-1] + statistics.median_low(
        after - before for before, after in itertools.pairwise(times)
    )


def raise_machine_error(error: Exception) -> None:
    """Raise the error if it is about the state of the machine, which FFmpeg reports like a damaged file.

    EIO and ENOMEM do not count: FFmpeg also uses them for files that end too early or declare
    absurd sizes.
    """
    if getattr(error, "errno", None) in MACHINE_ERRORS:
        raise error


def reason_of(error: Exception) -> str:
    """Return the cause of an error without the path, because a message about a video is shown
    beside its name.
    """
    return first_line(getattr(error, "strerror", None) or error)[:200]


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """Return a decoder that notices damage, on one thread, because the pool has a process per core."""
    stream.thread_type = "NONE"
    context = stream.codec_context
    name = context.codec.canonical_name
    if name in DECODERS:
        strict = av.CodecContext.create(DECODERS[name], "r")
        strict.extradata = context.extradata
        strict.thread_type = "NONE"
        return cast(av.VideoCodecContext, strict)
    if name not in MARKING_CODECS:
        context.options = {"err_detect": STRICT}
    return context


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    decoder: av.VideoCodecContext,
    damage: Damage,
    origin: int | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode packet by packet, each in its own `try`, so that a damaged packet does not end the video.

    A frame's `pts` is when it is shown. Frames before the first known time are left out. Damage is
    timed from `origin`, by default the first frame.
    """
    time_base = Fraction(stream.time_base or 1)
    clock = _Clock(container.format.name)
    first = origin
    for packet in _packets(container, stream, damage):
        try:
            for frame in decoder.decode(packet):
                frame.pts = clock.point(frame)
                if frame.pts is None:
                    continue
                first = frame.pts if first is None else first
                if frame.is_corrupt:
                    damage.num_frames += 1
                    damage.note((frame.pts - first) * time_base)
                yield frame
        except av.error.FFmpegError:
            # A recording may begin in the middle of a group of pictures. What comes before its
            # first frame cannot be decoded, and is no damage.
            if first is None or packet is None:
                continue
            damage.num_packets += 1
            if packet.pts is not None:
                damage.note((packet.pts - first) * time_base)


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, damage: Damage
) -> Iterator[av.Packet | None]:
    """Yield the packets of a stream, and at last one that flushes the decoder.

    That is None if the demuxer gives up, which is counted as damage.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            raise_machine_error(error)
            damage.num_packets += 1
            yield None
            return
        yield packet


def _from_key_frame(frames: Iterator[av.VideoFrame], seek: Seek) -> Iterator[av.VideoFrame]:
    """Check that decoding begins at an exact key frame, and not too late.

    Raises:
        SeekError: if the container's index leads elsewhere.
    """
    first = next(frames, None)
    if first is None or first.pts is None or first.pts > seek.point or first.pts not in seek.points:
        raise SeekError("its index does not lead to its key frames")
    yield from itertools.chain([first], frames)


class _Clock:
    """When the frames of a decoder are shown, in ticks of the stream's time base."""

    def __init__(self, container_format: str) -> None:
        self._has_pts = container_format not in NO_PTS
        self._following: int | None = 0 if container_format in RAW_STREAMS else None

    def point(self, frame: av.VideoFrame) -> int | None:
        """Return when the next frame is shown; None if nobody knows."""
        point = frame.pts if self._has_pts else frame.dts
        if point is None:
            point = self._following
        if point is not None and frame.duration:
            self._following = point + frame.duration
        return point


def _check_return(later: Fraction, time: Fraction) -> None:
    """Raise VideoError if the times begin anew."""
    if time - later > LONGEST_RETURN:
        raise VideoError(
            f"its times return to {float(later):.2f} s after {float(time):.2f} s; {MEND_TIMES}"
        )


def _check_hidden(num_hidden: int, num_frames: int) -> None:
    """Raise VideoError if too many frames are not shown, because their times run backwards."""
    if num_hidden > 1 + MOST_HIDDEN * num_frames:
        raise VideoError(
            f"the times of {num_hidden} of {num_frames} frames run backwards; {MEND_TIMES}"
        )


def _check_jump(time: Fraction, later: Fraction) -> None:
    """Raise VideoError if a frame would be shown for an absurdly long time."""
    if later - time > LONGEST_FRAME:
        raise VideoError(
            f"its times jump from {float(time):.2f} s to {float(later):.2f} s; {MEND_TIMES}"
        )


def _count_pictures(container: av.container.InputContainer) -> dict[int, int]:
    """Count the pictures of each video stream up to two, by the stream's index."""
    streams = video_streams(container)
    counts = {stream.index: 0 for stream in streams}
    with open_video(container.name) as again:
        try:
            for packet in again.demux(again.streams.video):
                report_progress()
                if packet.size and packet.stream_index in counts:
                    counts[packet.stream_index] += 1
                if all(count > 1 for count in counts.values()):
                    break
        except av.error.FFmpegError as error:
            raise_machine_error(error)
    return counts
