"""Reads videos at a fixed frame rate, and writes H.264 files that play everywhere.

Output frame k is the last source frame at or before k / fps seconds, counted from the timestamp of
the first frame. This equals ffmpeg's `fps=<fps>:round=up`. Timestamps are exact fractions, because
the index round(k * source_fps / fps) is wrong on half the ticks.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from lumiere.errors import VideoError, first_line
from lumiere.files import content_hash

# Playlists (HLS, concat) refer to other files, so they are refused whatever the suffix.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

MACHINE_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT})
# Frames and scores depend on these libraries too, besides our own code.
LIBRARIES = ("av", "decord", "numpy", "opencv-python", "scenedetect")

DECORD_BATCH = 32  # frames that are in memory at full size at a time


@dataclass(frozen=True)
class Decoded:
    """Frames at a fixed rate, and facts about the source.

    Attributes:
        frames: uint8 (t, h, w, c), RGB, upright.
        num_source_frames: frames that the decoder returned, up to the end of the requested span.
        duration: seconds from the start of the first source frame to the end of the last.
    """

    frames: np.ndarray
    num_source_frames: int
    duration: float


def code_version(*modules: str) -> dict[str, str]:
    """Return everything that results depend on besides their input: hashes of imported modules,
    and versions of libraries.
    """
    code = {name: content_hash(Path(str(sys.modules[name].__file__))) for name in modules}
    return code | {name: _installed_version(name) for name in LIBRARIES}


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
        _raise_machine_error(error)
        raise VideoError(f"cannot be opened ({_reason(error)})") from None
    if not container.streams.video:
        container.close()
        raise VideoError("no video stream")
    return container


def read_video(
    path: str | Path,
    fps: int | Fraction = 16,
    start: float = 0.0,
    end: float | None = None,
    decoder: str = "pyav",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Read the frames of a video at `fps`, by the rule in the module's docstring.

    Args:
        path: any container and codec that FFmpeg reads.
        fps: output frames per second.
        start, end: seconds from the first frame; output times are start + k / fps, below `end` and
            the video's end.
        decoder: "pyav", or "decord" for files that `lumiere.curation.probe` trusts it with.
        transform: applied to each source frame (h, w, c), such as a resize that saves memory.

    Returns:
        uint8 (t, h, w, c), RGB, upright; t is 0 if the span contains no tick.

    Raises:
        VideoError: if no frame can be decoded.
    """
    return decode(path, fps, start, end, decoder, transform).frames


def decode(
    path: str | Path,
    fps: int | Fraction = 16,
    start: float = 0.0,
    end: float | None = None,
    decoder: str = "pyav",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Decoded:
    """Decode like `read_video`, and also count the source frames."""
    if decoder not in _DECODERS:
        raise ValueError(f"decoder is {decoder!r}; allowed: {', '.join(sorted(_DECODERS))}")
    return _DECODERS[decoder](path, Fraction(fps), start, end, transform or np.asarray)


def select_ticks(
    times: Sequence[Fraction],
    fps: Fraction,
    start: float = 0.0,
    end: float | None = None,
    duration: Fraction | None = None,
) -> list[int]:
    """Return, for each tick start + k / fps below `end` and `duration`, the index of the last frame
    at or before it.

    Args:
        times: ascending seconds of the source frames, the first at 0.
        duration: seconds; by default, the time of the last frame plus the last interval.
    """
    stop = times[-1] + _last_interval(times) if duration is None else duration
    stop = stop if end is None else min(stop, Fraction(end))
    first = Fraction(start)
    num_ticks = max(0, math.ceil((stop - first) * fps))
    return [bisect.bisect_right(times, first + k / fps) - 1 for k in range(num_ticks)]


def source_frames(path: str | Path) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Yield all frames in order: (seconds on the stream's clock, uint8 (h, w, c)), upright.

    Damaged packets are skipped. The decoder is flushed at the end, so that a truncated file gives
    all its frames.
    """
    reformatter = VideoReformatter()  # shared, because one per frame is half as fast
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # the pool has one process per core
        assert stream.time_base is not None
        time_base = Fraction(stream.time_base)
        for frame in _frames(container, stream):
            if frame.pts is None:
                continue
            picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
            yield (
                frame.pts * time_base,
                np.rot90(picture, frame.rotation // 90) if frame.rotation else picture,
            )


def packet_times(path: str | Path) -> list[Fraction]:
    """Read the presentation times of all packets, ascending, in seconds from the first, without
    decoding.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        points = sorted(
            packet.pts
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None
        )
        assert stream.time_base is not None
        time_base = Fraction(stream.time_base)
    return [(point - points[0]) * time_base for point in points]


def write_video(path: str | Path, frames: np.ndarray, fps: int | Fraction, crf: int = 16) -> None:
    """Write an H.264 file (yuv420p, faststart) that plays in browsers; the same frames give the same bytes.

    The file is written under a temporary name and renamed, so that `path` is never incomplete.
    Because yuv420p needs even sizes, the last row or column of an odd size is repeated.

    Args:
        frames: uint8 (t, h, w, c), RGB, with t of at least 1.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; expected uint8 (t, h, w, 3) with t of at least 1"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frames = np.pad(
        frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge"
    )
    try:
        with av.open(
            str(temporary),
            "w",
            format="mp4",
            options={"movflags": "+faststart", "fflags": "+bitexact"},
        ) as container:
            # Use one thread, because the bytes depend on the number of threads. Use no macroblock
            # tree, because its SIMD code reads uninitialised memory for small frames.
            parameters = "colormatrix=smpte170m:mbtree=0"
            options = {
                "crf": str(crf),
                "preset": "medium",
                "threads": "1",
                "x264-params": parameters,
            }
            stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
            stream.height, stream.width, stream.pix_fmt = (
                frames.shape[1],
                frames.shape[2],
                "yuv420p",
            )
            for frame in frames:
                container.mux(
                    stream.encode(
                        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                    )
                )
            container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _decode_pyav(
    path: str | Path,
    fps: Fraction,
    start: float,
    end: float | None,
    transform: Callable[[np.ndarray], np.ndarray],
) -> Decoded:
    """Decode in order, by timestamp, which is exact for every readable file; seeking is not."""
    times: list[Fraction] = []
    picked: list[np.ndarray] = []
    held: np.ndarray | None = None  # the newest frame that no tick has taken yet
    stop = None if end is None else Fraction(end)

    def take_until(time: Fraction) -> None:
        """Assign the held frame to each tick before `time`."""
        while (tick := Fraction(start) + len(picked) / fps) < time and (
            stop is None or tick < stop
        ):
            assert held is not None
            picked.append(transform(held))

    origin: Fraction | None = None
    for absolute, picture in source_frames(path):
        origin = absolute if origin is None else origin
        time = absolute - origin
        if times and time <= times[-1]:
            continue  # a repeated or backward timestamp would show nothing
        take_until(time)
        times.append(time)
        held = picture
        if stop is not None and time >= stop:
            break
    if not times:
        raise VideoError("no frame could be decoded")
    duration = times[-1] + _last_interval(times)
    take_until(duration)
    return Decoded(_stack(picked, held, transform), len(times), float(duration))


def _decode_decord(
    path: str | Path,
    fps: Fraction,
    start: float,
    end: float | None,
    transform: Callable[[np.ndarray], np.ndarray],
) -> Decoded:
    """Decode by index, with the exact timestamps of the container, because decord rounds them to float32."""
    import decord  # late: decord has no wheels for some machines, where PyAV reads everything

    times = packet_times(path)
    try:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
        if len(reader) != len(times):
            raise VideoError(f"decord counts {len(reader)} frames, the container {len(times)}")
        indices = select_ticks(times, fps, start, end)
        frames = []
        for i in range(0, len(indices), DECORD_BATCH):
            frames += [
                transform(picture)
                for picture in reader.get_batch(indices[i : i + DECORD_BATCH]).asnumpy()
            ]
        held = None if frames else reader[0].asnumpy()
    except decord.DECORDError as error:
        raise VideoError(f"decord: {_reason(error)}") from None
    return Decoded(
        _stack(frames, held, transform), len(times), float(times[-1] + _last_interval(times))
    )


_DECODERS = {"pyav": _decode_pyav, "decord": _decode_decord}


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Decode packet by packet, each in its own `try`, so that a damaged packet does not end the video."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            _raise_machine_error(error)
            packet = None  # the demuxer gave up: flush what the decoder still holds
        with contextlib.suppress(av.error.FFmpegError):
            yield from stream.decode(packet)
        if packet is None:
            return


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # decord has wheels for some machines only
        return ""


def _raise_machine_error(error: Exception) -> None:
    """Raise the error if it is about the state of the machine, which FFmpeg reports like a damaged file.

    EIO and ENOMEM do not count: FFmpeg also uses them for files that end too early or declare
    absurd sizes.
    """
    if getattr(error, "errno", None) in MACHINE_ERRORS:
        raise error


def _last_interval(times: Sequence[Fraction]) -> Fraction:
    """Return how long the last frame is shown: as long as the one before it. A single frame is
    shown for (almost) no time.
    """
    return times[-1] - times[-2] if len(times) > 1 else Fraction(1, 1_000_000)


def _stack(
    frames: list[np.ndarray],
    example: np.ndarray | None,
    transform: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Stack frames to (t, h, w, c); `example` gives the shape if there are none."""
    if frames:
        return np.stack(frames)
    assert example is not None
    return np.empty((0, *transform(example).shape), np.uint8)


def _reason(error: Exception) -> str:
    """Return the cause of an error without the path, because a message about a video is shown
    beside its name.
    """
    return first_line(getattr(error, "strerror", None) or error)[:200]
