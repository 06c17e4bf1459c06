"""Cuts training windows out of a video where something moves, in a process that can be killed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.data.bars import Box, crop
from lumiere.data.optical_flow import FLOW_FPS
from lumiere.data.shards import pack_arrays, pack_frames, unpack_arrays
from lumiere.data.video_io import Decoded, code_version, decode
from lumiere.errors import VideoError
from lumiere.files import content_hash, write_atomically

# If any of these changes, earlier results are not reused.
CODE = code_version(
    __name__,
    "lumiere.data.bars",
    "lumiere.data.display",
    "lumiere.data.shards",
    "lumiere.data.video_io",
    "lumiere.data.video_source",
)

cv2.setNumThreads(1)  # the pool has a process per core


@dataclass(frozen=True)
class WindowSettings:
    """The shape of a training clip.

    Attributes:
        fps: frames per second.
        num_frames: frames of one window.
        size: height and width in pixels.
        clips_per_video: windows per clip of the manifest; fewer if the clip is too short for that
            many.
        min_window_motion: share of the motion of the liveliest window that every window has.
    """

    fps: int
    num_frames: int
    size: int
    clips_per_video: int
    min_window_motion: float = 0.0


@dataclass(frozen=True)
class Source:
    """A stretch of a video.

    Attributes:
        path: the file.
        sha256: the hash of the file when it was curated.
        start, end: seconds from its first frame, exact.
        decoder: "decord" or "pyav".
        motion_curve: the manifest's column, by which windows are chosen; windows are evenly spread
            if it is empty.
        box: the picture within black bars, see `bars`; None without bars.
    """

    path: Path
    sha256: str
    start: Fraction
    end: Fraction
    decoder: str
    motion_curve: tuple[float, ...] = ()
    box: Box | None = None


@dataclass(frozen=True)
class Windows:
    """The windows of one stretch.

    Attributes:
        videos: the frames of k windows, uint8 (t, h, w, 3) each, packed as in a shard.
        starts: where the k windows begin, in seconds from the video's first frame.
    """

    videos: list[bytes]
    starts: list[float]


def extract_windows(source: Source, settings: WindowSettings, scratch: Path) -> Path:
    """Cut the windows of one stretch into a file, unless an earlier run has done so.

    Args:
        source: the stretch.
        settings: the shape of the windows.
        scratch: folder for finished windows, keyed by content, stretch, settings and code version.

    Raises:
        VideoError: if the file has changed since curation, or has fewer frames than a window.
    """
    if content_hash(source.path) != source.sha256:
        raise VideoError("the file has changed since it was curated; run the curate stage again")
    key = json.dumps(
        [CODE, asdict(source) | {"path": ""}, asdict(settings)],
        default=str,
    )
    path = scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if not path.is_file():
        windows = _cut(source, settings)
        packed = {
            f"video_{i}": np.frombuffer(video, np.uint8) for i, video in enumerate(windows.videos)
        }
        write_atomically(path, pack_arrays(starts=np.array(windows.starts), **packed))
    return path


def load_windows(path: Path) -> Windows:
    """Read a file that `extract_windows` wrote."""
    arrays = unpack_arrays(path.read_bytes())
    starts = arrays["starts"].tolist()
    return Windows([arrays[f"video_{i}"].tobytes() for i in range(len(starts))], starts)


def window_starts(num_ticks: int, num_frames: int, count: int) -> list[int]:
    """Return the first frames of up to `count` different windows, evenly spread over the video."""
    if num_ticks < num_frames:
        return []
    return sorted(
        {round(start) for start in np.linspace(0, num_ticks - num_frames, count).tolist()}
    )


def window_motions(source: Source, num_ticks: int, settings: WindowSettings) -> np.ndarray:
    """Return the mean of the motion curve in each window of a stretch, by the window's first frame;
    empty without a curve.
    """
    curve = source.motion_curve
    count = num_ticks - settings.num_frames + 1
    if not curve or count < 1:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    origin = math.ceil(source.start * FLOW_FPS)  # the tick at which the curve begins
    motions = []
    for first in range(count):
        begin = source.start + Fraction(first, settings.fps)
        end = begin + Fraction(settings.num_frames - 1, settings.fps)
        low = min(max(0, math.floor(begin * FLOW_FPS) - origin), len(curve) - 1)
        high = min(max(low + 1, math.ceil(end * FLOW_FPS) - origin), len(curve))
        motions.append((sums[high] - sums[low]) / (high - low))
    return np.array(motions)


def choose_windows(starts: list[int], length: int, motions: np.ndarray, share: float) -> list[int]:
    """Replace windows in which little moves by livelier ones.

    Motion is measured over a whole clip, and its first and last second may be still: the road
    before the car drives by.

    Args:
        starts: the first frames of evenly spread windows, from `window_starts`.
        length: frames of a window.
        motions: from `window_motions`.
        share: of the motion of the liveliest window that a window must have.

    Returns:
        The first frames of up to as many windows, at least one, in order. Those that replace others
        overlap none.
    """
    if not starts or not len(motions):
        return starts
    least = share * motions.max()
    chosen = [start for start in starts if motions[start] >= least]
    while len(chosen) < len(starts):
        free = [
            start
            for start in range(len(motions))
            if motions[start] >= least and all(abs(start - other) >= length for other in chosen)
        ]
        if not free:
            break
        chosen.append(max(free, key=lambda start: motions[start]))
    return sorted(chosen)


def square(frame: np.ndarray, size: int) -> np.ndarray:
    """Cut the largest centred square out of a uint8 (h, w, 3), and resize it to (size, size, 3)
    without aliasing.
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = frame[top : top + side, left : left + side]
    if side == size:
        return middle.copy()  # a view would keep the whole frame in memory
    # INTER_AREA weighs each source pixel by its share, even for factors that are not whole, such as
    # 160 to 128.
    return cv2.resize(
        middle, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    )


def _cut(source: Source, settings: WindowSettings) -> Windows:
    """Decode the frames of the windows, and only these."""
    length, fps = settings.num_frames, settings.fps
    num_ticks = max(0, math.ceil((source.end - source.start) * fps))
    starts = window_starts(num_ticks, length, settings.clips_per_video)
    motions = window_motions(source, num_ticks, settings)
    starts = choose_windows(starts, length, motions, settings.min_window_motion)
    if not starts:
        raise VideoError(f"{num_ticks} frames at {fps} fps; a window needs {length}")
    wanted = sorted({k for start in starts for k in range(start, start + length)})
    frames = _decode(source, settings, wanted)
    places = {k: place for place, k in enumerate(wanted)}
    videos = [pack_frames(frames[[places[start + i] for i in range(length)]]) for start in starts]
    return Windows(videos, [float(source.start + Fraction(start, fps)) for start in starts])


def _decode(source: Source, settings: WindowSettings, wanted: list[int]) -> np.ndarray:
    """Return the wanted frames of a stretch, uint8 (t, size, size, 3).

    Raises:
        VideoError: if one of them cannot be decoded, or is damaged.
    """

    def read(decoder: str) -> Decoded:
        return decode(
            source.path,
            settings.fps,
            source.start,
            source.end,
            decoder,
            transform=lambda frame: square(crop(frame, source.box), settings.size),
            wanted=frozenset(wanted),
        )

    try:
        decoded = read(source.decoder)
    except (VideoError, ImportError):
        if source.decoder == "pyav":
            raise
        decoded = read("pyav")  # it returns the same frames
    # Curation leaves out a damaged last frame, which a decoder meets nevertheless.
    first = decoded.damage.first
    if decoded.damage and (first is None or first < source.end):
        raise VideoError(f"damaged ({decoded.damage}); run the curate stage again")
    if len(decoded.frames) < len(wanted):
        raise VideoError(
            f"{len(decoded.frames)} of the {len(wanted)} frames of its windows can be decoded"
        )
    return decoded.frames
