"""Decodes the frames of a video, each at its time, and counts what is damaged.

`video_streams` picks the stream that is the video, `frame_times` computes when its frames are
shown, and `display` how.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from lumiere.data.decoder_signs import MARKING_CODECS, complaints
from lumiere.data.display import Converter, Display, deinterlaced, display_of
from lumiere.data.frame_times import Clock, check_hidden, check_jump, check_return
from lumiere.data.video_streams import demuxed, main_stream, open_video, raise_machine_error
from lumiere.errors import VideoError
from lumiere.plurals import counted

# FFmpeg's own VP8 and VP9 decoders return broken pictures of damaged files without any sign.
# libvpx's decoders return the same pixels and read alpha; that of VP9 notices almost all damage,
# that of VP8 some.
DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
STRICT = "crccheck+bitstream+buffer+explode"

FRAMES_LOOKED_AT = 8  # the first frame of an interlaced video may be marked differently


class SeekError(VideoError):
    """Reports that decoding did not begin at the key frame that was asked for."""


@dataclass
class Damage:
    """Counts what a decoder cannot read while frames are decoded.

    Attributes:
        num_frames: frames whose damage the decoder concealed or logged.
        num_packets: packets that are damaged, or from which parts are missing.
        signs: seconds from the first frame to each sign of damage whose time is known.
    """

    num_frames: int = 0
    num_packets: int = 0
    signs: list[Fraction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._times = set(self.signs)

    def note(self, time: Fraction) -> None:
        """Note the time of a sign of damage."""
        self.signs.append(max(time, Fraction(0)))
        self._times.add(self.signs[-1])

    def note_packet(self, point: int | None, first: int, time_base: Fraction) -> None:
        """Count a damaged packet, at its time if that is known."""
        self.num_packets += 1
        if point is not None:
            self.note((point - first) * time_base)

    def note_frame(self, time: Fraction) -> None:
        """Count the damaged frame at a time, once."""
        if max(time, Fraction(0)) not in self._times:
            self.num_frames += 1
            self.note(time)

    @property
    def first(self) -> Fraction | None:
        """The time of the first sign; None if none is known."""
        return min(self.signs, default=None)

    @property
    def is_timed(self) -> bool:
        """Return whether the time of each sign is known."""
        return len(self.signs) == self.num_frames + self.num_packets

    def is_in(self, start: Fraction, end: Fraction) -> bool:
        """Return whether there is damage from `start` up to `end`, or may be."""
        return not self.is_timed or any(start <= sign < end for sign in self.signs)

    def copy(self) -> Damage:
        """Return a copy that later signs do not change."""
        return Damage(self.num_frames, self.num_packets, list(self.signs))

    def __bool__(self) -> bool:
        return self.num_frames + self.num_packets > 0

    def __str__(self) -> str:
        parts = []
        if self.num_frames:
            parts.append(counted(self.num_frames, "damaged frame"))
        if self.num_packets:
            parts.append(counted(self.num_packets, "unreadable packet"))
        since = "" if self.first is None else f", from {float(self.first):.2f} s on"
        return " and ".join(parts) + since


@dataclass(frozen=True)
class SourceFrame:
    """A decoded frame, which becomes a picture when someone asks for it.

    Attributes:
        time: seconds from the first frame.
        duration: its own duration in seconds; 0 if unknown.
        is_interlaced: whether it was marked as interlaced; now it is not.
    """

    time: Fraction
    duration: Fraction
    frame: av.VideoFrame
    display: Display
    converter: Converter
    is_interlaced: bool = False

    def picture(self) -> np.ndarray:
        """Return the picture as shown, uint8 (h, w, 3), RGB."""
        return self.display.picture(self.frame, self.converter)

    def thumbnail(self, side: int) -> np.ndarray:
        """Return the picture cheaply squashed to a small square, uint8 (side, side, 3), RGB."""
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
        """Return whether enough frames are decoded."""
        return len(self._frames) >= FRAMES_LOOKED_AT

    def add(self, packet: av.Packet | None) -> None:
        """Decode the next packet, or at the end what the decoder still holds (None)."""
        if self.is_complete:
            return
        with contextlib.suppress(av.error.FFmpegError):
            # Use FFmpeg's own decoder, because no other one gets the display matrix.
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
        for frame, is_interlaced in deinterlaced(frames):
            assert frame.pts is not None
            origin = frame.pts if origin is None else origin
            later = (frame.pts - origin) * time_base
            num_frames += 1
            if later <= time:  # a repeated or backward time would show nothing
                num_hidden += later < time
                check_return(later, time)
                continue
            check_jump(max(time, Fraction(0)), later)
            time = later
            duration = max(0, frame.duration or 0) * time_base
            yield SourceFrame(time, duration, frame, display, converter, is_interlaced)
    check_hidden(num_hidden, num_frames)


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
    codec = stream.codec_context.codec.canonical_name
    clock = Clock(container.format.name)
    suspects: set[int | None] = set()  # when the frames are shown about which the decoder complains
    first = origin
    for packet in _packets(container, stream, damage):
        with complaints(codec) as messages:
            decoded = _decode(decoder, packet)
        if packet is not None and first is not None and _is_broken(packet, decoded):
            # Before the first frame it is no damage: a recording may begin in the middle of a group
            # of pictures, which cannot be decoded.
            damage.note_packet(clock.packet_point(packet), first, time_base)
        elif decoded is not None and packet is not None and _concern(messages, codec):
            point = clock.packet_point(packet)
            suspects.add(point)
            damage.num_frames += point is None
        for frame in decoded or ():
            frame.pts = clock.point(frame)
            if frame.pts is None:
                continue
            first = frame.pts if first is None else first
            if frame.is_corrupt or frame.pts in suspects:
                damage.note_frame((frame.pts - first) * time_base)
            yield frame


def _decode(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame] | None:
    """Return the frames that a packet gives; None if it cannot be decoded."""
    try:
        return decoder.decode(packet)
    except av.error.FFmpegError:
        return None


def _is_broken(packet: av.Packet, decoded: list[av.VideoFrame] | None) -> bool:
    """Return whether a packet cannot be decoded, or the demuxer misses parts of it."""
    return decoded is None or packet.is_corrupt


def _concern(messages: list[tuple[int, str, str]], codec: str) -> bool:
    """Return whether a message of FFmpeg's log comes from the decoder."""
    return any(name == codec for _, name, _ in messages)


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, damage: Damage
) -> Iterator[av.Packet | None]:
    """Yield the packets of a stream, and at last one that flushes the decoder.

    That is None if the demuxer gives up, which is counted as damage.
    """
    packets = demuxed(container, stream)
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
        SeekError: if the container's index leads elsewhere, or if the deinterlacer needs the frame
            before.
    """
    first = next(frames, None)
    if first is None or first.pts is None or first.pts > seek.point or first.pts not in seek.points:
        raise SeekError("its index does not lead to its key frames")
    if first.interlaced_frame:
        raise SeekError("its frames are interlaced")
    yield from itertools.chain([first], frames)
