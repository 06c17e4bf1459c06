"""Cuts training windows out of a video, evenly spread, square and resized, in a process that can be killed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.data.shards import pack_arrays, pack_frames, unpack_arrays
from lumiere.data.video_io import code_version, decode
from lumiere.errors import VideoError
from lumiere.files import content_hash, write_atomically

# If any of these changes, earlier results are not reused.
CODE = code_version(
    __name__,
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
    """

    fps: int
    num_frames: int
    size: int
    clips_per_video: int


@dataclass(frozen=True)
class Source:
    """A stretch of a video.

    Attributes:
        path: the file.
        sha256: the hash of the file when it was curated.
        start, end: seconds from its first frame, exact.
        decoder: "decord" or "pyav".
    """

    path: Path
    sha256: str
    start: Fraction
    end: Fraction
    decoder: str


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
        [CODE, source.sha256, source.start, source.end, source.decoder, asdict(settings)],
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


def square(frame: np.ndarray, size: int) -> np.ndarray:
    """Cut the largest centred square out of a uint8 (h, w, 3), and resize it to (size, size, 3)
    without aliasing.
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = frame[top : top + side, left : left + side]
    if side == size:
        return crop
    # INTER_AREA weighs each source pixel by its share, even for factors that are not whole, such as
    # 160 to 128.
    return cv2.resize(
        crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    )


def _cut(source: Source, settings: WindowSettings) -> Windows:
    """Decode the frames of the windows, and only these."""
    length, fps = settings.num_frames, settings.fps
    num_ticks = max(0, math.ceil((source.end - source.start) * fps))
    starts = window_starts(num_ticks, length, settings.clips_per_video)
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
    decoded = decode(
        source.path,
        settings.fps,
        source.start,
        source.end,
        source.decoder,
        transform=lambda frame: square(frame, settings.size),
        wanted=frozenset(wanted),
    )
    if decoded.damage:
        raise VideoError(f"damaged ({decoded.damage}); run the curate stage again")
    if len(decoded.frames) < len(wanted):
        raise VideoError(
            f"{len(decoded.frames)} of the {len(wanted)} frames of its windows can be decoded"
        )
    return decoded.frames
