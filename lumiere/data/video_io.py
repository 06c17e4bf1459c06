"""Reads videos at a fixed frame rate; `write_video` writes them.

Output frame k is the last source frame at or before k / fps seconds, counted from the timestamp of
the first frame. This equals ffmpeg's `fps=<fps>:round=up`. Times are exact fractions, because the
index round(k * source_fps / fps) is wrong on half the ticks, and because the float 1.2 lies below
6/5, where it shows the frame before.
"""

from __future__ import annotations

import bisect
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from lumiere.data.frame_times import end_of, read_timeline
from lumiere.data.key_frames import key_frames
from lumiere.data.video_source import (
    Damage,
    Seek,
    SeekError,
    SourceFrame,
    look,
    source_frames,
)
from lumiere.data.video_streams import reason_of
from lumiere.data.video_writing import write_video as write_video
from lumiere.data.workers import report_progress
from lumiere.errors import DamagedVideoError, VideoError
from lumiere.files import content_hash

# Frames and scores depend on these libraries too, besides our own code.
LIBRARIES = ("av", "decord", "numpy", "opencv-python")

DECORD_BATCH = 32  # frames that are in memory at full size at a time
SEEK_FROM = 10  # seconds; up to there, decoding from the start costs less than reading all packets
FOREVER = Fraction(10**12)  # seconds
LARGEST_DENOMINATOR = 1_000_000  # of times given as floats: microseconds, and every usual time base

Seconds = float | Fraction
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decoded:
    """Frames at a fixed rate, and facts about the source.

    Attributes:
        frames: uint8 (t, h, w, c), RGB, as shown.
        num_source_frames: frames that the decoder returned, up to the end of the requested span.
        duration: seconds from the start of the first source frame to the end of the last.
        damage: what could not be read; decord never tells.
    """

    frames: np.ndarray
    num_source_frames: int
    duration: Fraction
    damage: Damage = field(default_factory=Damage)


def code_version(*modules: str) -> dict[str, str]:
    """Return everything that results depend on besides their input: hashes of imported modules,
    and versions of libraries.
    """
    code = {name: content_hash(Path(str(sys.modules[name].__file__))) for name in modules}
    return code | {name: _installed_version(name) for name in LIBRARIES}


def exact_seconds(seconds: Seconds) -> Fraction:
    """Return the time that a number means: 6/5 for the float 1.2, which is a little less.

    A float becomes the nearest fraction with a denominator of up to a million. Every time in
    microseconds, and every frame's time in the usual time bases, returns from a float exactly.
    """
    if isinstance(seconds, Fraction):
        return seconds
    return Fraction(seconds).limit_denominator(LARGEST_DENOMINATOR)


def read_video(
    path: str | Path,
    fps: int | Fraction = 16,
    start: Seconds = 0,
    end: Seconds | None = None,
    decoder: str = "pyav",
    transform: Transform | None = None,
) -> np.ndarray:
    """Read the frames of a video at `fps`, by the rule in the module's docstring.

    Args:
        path: any container and codec that FFmpeg reads.
        fps: output frames per second.
        start, end: seconds from the first frame, see `exact_seconds`; output times are
            start + k / fps, below `end` and the video's end.
        decoder: "pyav", or "decord" for files that `lumiere.curation.probe` trusts it with.
        transform: applied to each source frame (h, w, c), such as a resize that saves memory.

    Returns:
        uint8 (t, h, w, c), RGB, as shown; t is 0 if the span contains no tick.

    Raises:
        VideoError: if no frame can be decoded, or if the pictures change their size.
        DamagedVideoError: if a frame up to `end` is damaged.
    """
    decoded = decode(path, fps, start, end, decoder, transform)
    if decoded.damage:
        raise DamagedVideoError(f"damaged or cut off; get the file again ({decoded.damage})")
    return decoded.frames


def decode(
    path: str | Path,
    fps: int | Fraction = 16,
    start: Seconds = 0,
    end: Seconds | None = None,
    decoder: str = "pyav",
    transform: Transform | None = None,
    wanted: Collection[int] | None = None,
) -> Decoded:
    """Decode like `read_video`, and also count the source frames and what is damaged.

    Args:
        wanted: the output frames to return; by default all. Memory grows with their number, and
            decoding ends after the last of them.
    """
    stop = None if end is None else exact_seconds(end)
    ticks = Ticks(Fraction(fps), exact_seconds(start), stop, wanted, transform or np.asarray)
    ((_, decoded),) = decode_spans(path, [ticks], decoder)
    return decoded


@dataclass(frozen=True)
class Ticks:
    """The times start + k / fps below `end`.

    Attributes:
        wanted: the values of k that count; all if None.
        transform: applied to each source frame (h, w, c) that is shown then, such as a crop, or a
            resize that saves memory.
    """

    fps: Fraction
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    wanted: Collection[int] | None = None
    transform: Transform = np.asarray

    def count_before(self, time: Fraction) -> int:
        """Return how many ticks lie before `time`, wanted or not."""
        stop = time if self.end is None else min(time, self.end)
        return max(0, math.ceil((stop - self.start) * self.fps))

    def between(self, start: Fraction, end: Fraction) -> list[int]:
        """Return the wanted ticks in [start, end), during which one frame is shown."""
        ticks = range(self.count_before(start), self.count_before(end))
        return [k for k in ticks if self.wanted is None or k in self.wanted]

    @property
    def last_time(self) -> Fraction | None:
        """The time at which decoding may stop: just after the last wanted tick, or at the end."""
        if self.wanted is None:
            return self.end
        last = self.start + max(self.wanted, default=0) / self.fps
        return last if self.end is None else min(last, self.end)


def select_ticks(times: Sequence[Fraction], ticks: Ticks, end: Fraction) -> list[int]:
    """Return, for each wanted tick before `end`, the index of the last frame at or before it.

    Args:
        times: ascending seconds of the source frames, the first at 0.
        end: seconds at which the last frame ends.
    """
    numbers = ticks.between(Fraction(0), end)
    return [bisect.bisect_right(times, ticks.start + k / ticks.fps) - 1 for k in numbers]


def decode_spans(
    path: str | Path,
    spans: Sequence[Ticks],
    decoder: str = "pyav",
) -> Iterator[tuple[int, Decoded]]:
    """Decode several spans of a video in one pass.

    Where it is exact, PyAV begins at the key frame before a span, so that the cost does not depend
    on the span's place in the file. A span is handed over as soon as it is complete, so that memory
    does not grow with their number.

    Args:
        path: any container and codec that FFmpeg reads.
        spans: the ticks of each span, in any order; wanted ticks save time and memory.
        decoder: see `read_video`.

    Yields:
        (index of the span, its frames), see `Decoded`, in the order of their ends.

    Raises:
        VideoError: if no frame can be decoded, or if the pictures change their size.
    """
    if decoder not in _DECODERS:
        raise ValueError(f"decoder is {decoder!r}; allowed: {', '.join(sorted(_DECODERS))}")
    yield from _DECODERS[decoder](path, spans)


@dataclass
class _Taker:
    """Collects the frames of one span while the frames of the video pass."""

    index: int
    ticks: Ticks
    frames: list[np.ndarray] = field(default_factory=list)

    @property
    def first_time(self) -> Fraction:
        """The first wanted tick."""
        numbers = self.ticks.wanted
        return self.ticks.start + min(numbers if numbers else (0,)) / self.ticks.fps

    def take(self, held: SourceFrame, until: Fraction) -> None:
        """Give a frame to each wanted tick at which it is shown."""
        if shown := self.ticks.between(held.time, until):
            self.frames.extend([self.ticks.transform(held.picture())] * len(shown))

    def is_complete(self, time: Fraction) -> bool:
        """Return whether no frame from `time` on is wanted."""
        last = self.ticks.last_time
        return last is not None and last < time


def _decode_pyav(path: str | Path, spans: Sequence[Ticks]) -> Iterator[tuple[int, Decoded]]:
    """Decode in order, by timestamp, from the start or from exact key frames."""
    takers = [_Taker(i, ticks) for i, ticks in enumerate(spans)]
    takers.sort(key=lambda taker: taker.first_time)
    for seek, group in _runs(path, takers):
        try:
            yield from _decode_run(path, group, seek)
        except SeekError:  # nothing has been taken yet
            yield from _decode_run(path, group, None)


def _runs(path: str | Path, takers: list[_Taker]) -> Iterator[tuple[Seek | None, list[_Taker]]]:
    """Group spans that are decoded without a jump, and where each group begins."""
    # The deinterlacer looks at the frames before.
    if not takers or takers[-1].first_time < SEEK_FROM or look(path).is_interlaced:
        if takers:
            yield None, takers
        return
    keys = key_frames(path)
    run: list[_Taker] = []
    run_seek: Seek | None = None
    run_end = Fraction(0)
    for taker in takers:
        point = keys.before(taker.first_time)
        start = Fraction(0) if point is None else (point - keys.points[0]) * keys.time_base
        last = FOREVER if taker.ticks.last_time is None else taker.ticks.last_time
        if run and start > run_end:
            yield run_seek, run
            run = []
        if not run:
            run_seek = Seek(point, keys.points) if point is not None and start > 0 else None
        run.append(taker)
        run_end = max(run_end, last)
    yield run_seek, run


def _decode_run(
    path: str | Path, takers: list[_Taker], seek: Seek | None
) -> Iterator[tuple[int, Decoded]]:
    """Decode once, from `seek` on, and hand over each span when it is complete."""
    times: list[Fraction] = []
    held: SourceFrame | None = None  # the newest frame, whose end is not known yet
    damage = Damage()
    left = list(takers)

    def finish(duration: Fraction, taker: _Taker) -> tuple[int, Decoded]:
        assert held is not None
        frames = _stack(taker.frames, held.picture, taker.ticks.transform)
        return taker.index, Decoded(frames, len(times), duration, damage.copy())

    for frame in source_frames(path, damage, seek):
        report_progress()
        times.append(frame.time)
        for taker in left:
            if held is not None:
                taker.take(held, frame.time)
        held = frame
        complete = [taker for taker in left if taker.is_complete(frame.time)]
        for taker in complete:
            yield finish(end_of(times, frame.duration), taker)
        left = [taker for taker in left if taker not in complete]
        if not left:
            return
    if held is None:
        raise VideoError("no frame could be decoded")
    duration = end_of(times, held.duration)
    for taker in left:
        taker.take(held, duration)
        yield finish(duration, taker)


def _decode_decord(path: str | Path, spans: Sequence[Ticks]) -> Iterator[tuple[int, Decoded]]:
    """Decode by index, with the exact timestamps of the container, because decord rounds them to float32."""
    import decord  # late: decord has no wheels for some machines, where PyAV reads everything

    timeline = read_timeline(path)
    times = timeline.times
    try:
        reader = decord.VideoReader(os.path.abspath(path), num_threads=1)
        if len(reader) != len(times):
            raise VideoError(f"decord counts {len(reader)} frames, the container {len(times)}")
        for number, ticks in enumerate(spans):
            report_progress()
            indices = select_ticks(times, ticks, timeline.end)
            frames = []
            for i in range(0, len(indices), DECORD_BATCH):
                pictures = reader.get_batch(indices[i : i + DECORD_BATCH]).asnumpy()
                frames += [ticks.transform(picture) for picture in pictures]
            stacked = _stack(frames, lambda: reader[0].asnumpy(), ticks.transform)
            yield number, Decoded(stacked, len(times), timeline.end)
    except decord.DECORDError as error:
        raise VideoError(f"decord: {reason_of(error)}") from None


_DECODERS = {"pyav": _decode_pyav, "decord": _decode_decord}


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # decord has wheels for some machines only
        return ""


def _stack(
    frames: list[np.ndarray], example: Callable[[], np.ndarray], transform: Transform
) -> np.ndarray:
    """Stack frames to (t, h, w, c); `example` gives the shape if there are none.

    Raises:
        VideoError: if the frames differ in size.
    """
    if not frames:
        return np.empty((0, *transform(example()).shape), np.uint8)
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        named = ", ".join(f"{width}x{height}" for height, width in sizes)
        raise VideoError(f"the pictures change their size ({named}); convert it to one size")
    return np.stack(frames)
