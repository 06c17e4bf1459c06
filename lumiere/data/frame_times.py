"""Computes when the frames of a video are shown, and how long it is, for every reader."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from lumiere.data.video_streams import (
    demuxed,
    main_stream,
    open_video,
    raise_machine_error,
    reason_of,
)
from lumiere.data.workers import report_progress
from lumiere.errors import VideoError

# AVI stores no times: a frame's place in the file is its time, and FFmpeg's pts is wrong with
# B-frames. Raw streams store neither times nor places.
NO_PTS = frozenset({"avi"})
RAW_STREAMS = frozenset({"h264", "hevc"})

# Times that run backwards would hide the frames that follow. A few do in whole files (MPEG program
# streams give a time to some frames only).
LONGEST_RETURN = Fraction(1)  # seconds; more is a file joined from parts with times of their own
MOST_HIDDEN = Fraction(1, 20)  # share of the frames
LONGEST_FRAME = Fraction(600)  # seconds; more is a jump of the times, and would be a day of ticks

SHORTEST = Fraction(1, 1_000_000)  # seconds; how long a single frame without a duration is shown

MEND_TIMES = "write them anew with `ffmpeg -i <file> <new file>`"


@dataclass(frozen=True)
class Timeline:
    """Holds the times at which the frames of a video are shown, read from its packets alone.

    Attributes:
        times: ascending seconds of the frames, the first at 0.
        end: seconds at which the last frame ends.
    """

    times: list[Fraction] = field(default_factory=list)
    end: Fraction = Fraction(0)


def read_timeline(path: str | Path) -> Timeline:
    """Read when the frames are shown, without decoding.

    Raises:
        VideoError: if the file cannot be opened, breaks off, or holds no frame.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        points: list[tuple[int, int]] = []
        try:
            for packet in demuxed(container, stream):
                report_progress()
                if packet.size and packet.pts is not None:
                    points.append((packet.pts, packet.duration or 0))
        except av.error.FFmpegError as error:
            raise_machine_error(error)
            raise VideoError(f"it breaks off ({reason_of(error)})") from None
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
        check_jump(times[-1], times[-1] + last_duration)
        return times[-1] + last_duration
    if len(times) < 2:
        return times[-1] + SHORTEST
    return times[-1] + statistics.median_low(
        after - before for before, after in itertools.pairwise(times)
    )


class Clock:
    """Computes when the frames of a decoder are shown, in ticks of the stream's time base."""

    def __init__(self, container_format: str) -> None:
        self._has_pts = container_format not in NO_PTS
        self._following: int | None = 0 if container_format in RAW_STREAMS else None

    def point(self, frame: av.VideoFrame) -> int | None:
        """Return when the next frame is shown; None if that is unknown."""
        point = frame.pts if self._has_pts else frame.dts
        if point is None:
            point = self._following
        if point is not None and frame.duration:
            self._following = point + frame.duration
        return point

    def packet_point(self, packet: av.Packet) -> int | None:
        """Return when the frame of a packet is shown; None if that is unknown."""
        return packet.pts if self._has_pts else packet.dts


def check_return(later: Fraction, time: Fraction) -> None:
    """Raise VideoError if the times begin anew."""
    if time - later > LONGEST_RETURN:
        raise VideoError(
            f"its times return to {float(later):.2f} s after {float(time):.2f} s; {MEND_TIMES}"
        )


def check_hidden(num_hidden: int, num_frames: int) -> None:
    """Raise VideoError if too many frames are not shown, because their times run backwards."""
    if num_hidden > 1 + MOST_HIDDEN * num_frames:
        raise VideoError(
            f"the times of {num_hidden} of {num_frames} frames run backwards; {MEND_TIMES}"
        )


def check_jump(time: Fraction, later: Fraction) -> None:
    """Raise VideoError if a frame would be shown for an absurdly long time."""
    if later - time > LONGEST_FRAME:
        raise VideoError(
            f"its times jump from {float(time):.2f} s to {float(later):.2f} s; {MEND_TIMES}"
        )
