"""Opens videos, and picks the stream that is the video."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import av
from av.stream import Disposition

from lumiere.data.workers import report_progress
from lumiere.errors import VideoError, first_line
from lumiere.plurals import shortened

# Playlists (HLS, concat) refer to other files, so they are refused whatever the suffix.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT})

# Streams of covers, thumbnails or stills, which lie in the file beside the video.
NOT_THE_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


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


def demuxed(
    container: av.container.InputContainer, *streams: av.stream.Stream
) -> Iterator[av.Packet]:
    """Yield the packets of some streams, or of all, and at last an empty one for each.

    PyAV raises IndexError where it meets a stream that begins within the file, or that damage made
    up. We read no such stream, so reading goes on after it.

    Raises:
        FFmpegError: if the demuxer gives up.
    """
    ended: set[int] = set()
    while True:
        try:
            for packet in container.demux(*streams):
                if not packet.size and packet.pts is None:
                    if packet.stream_index in ended:
                        continue
                    ended.add(packet.stream_index)
                yield packet
        except IndexError:
            continue
        return


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
    return shortened(first_line(getattr(error, "strerror", None) or error), 200)


def _count_pictures(container: av.container.InputContainer) -> dict[int, int]:
    """Count the pictures of each video stream up to two, by the stream's index."""
    streams = video_streams(container)
    counts = {stream.index: 0 for stream in streams}
    with open_video(container.name) as again:
        try:
            for packet in demuxed(again, *again.streams.video):
                report_progress()
                if packet.size and packet.stream_index in counts:
                    counts[packet.stream_index] += 1
                if all(count > 1 for count in counts.values()):
                    break
        except av.error.FFmpegError as error:
            raise_machine_error(error)
    return counts
