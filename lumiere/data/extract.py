"""Cuts training windows out of a video where something moves, in a process that can be killed."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lumiere.data.bars import Box, Cropper
from lumiere.data.frame_sizes import Size, as_sizes, fitting_part
from lumiere.data.optical_flow import FLOW_FPS
from lumiere.data.remote import RemoteFile, local_copy
from lumiere.data.shards import pack_arrays, pack_frames, unpack_arrays
from lumiere.data.video_io import Decoded, Ticks, code_version, decode_spans
from lumiere.data.workers import hash_with_progress
from lumiere.errors import FetchError, VideoError
from lumiere.files import write_atomically
from lumiere.plurals import counted

# If any of these changes, earlier results are not reused.
CODE = code_version(
    __name__,
    "lumiere.data.bars",
    "lumiere.data.decoder_signs",
    "lumiere.data.display",
    "lumiere.data.frame_sizes",
    "lumiere.data.frame_times",
    "lumiere.data.key_frames",
    "lumiere.data.shards",
    "lumiere.data.video_io",
    "lumiere.data.video_source",
    "lumiere.data.video_streams",
)

CURE = "run the curate stage again, or correct the cell"

cv2.setNumThreads(1)  # the pool has a process per core

# How the stillest windows of camera footage tell what is noise, see `least_motion`. Chosen on made
# and real backdrops with noise and shake, and so that animation without noise stays as it is.
BAND_PER_WINDOW = 0.05  # width of their band per window's length, as a share of what rises above it
WIDEST_BAND = 0.2
LOW_SHARE = 0.4  # the band begins above this share of them, because the very stillest are chance
STANDS_OUT = 1.6  # times their motion; what moves less does not stand out


@dataclass(frozen=True)
class WindowSettings:
    """The shape of a training clip.

    Attributes:
        fps: frames per second.
        num_frames: frames of one window.
        size: in pixels: the side of a square, (height, width), or several such pairs. Windows are
            cut at one of them.
        clips_per_video: windows per clip of the manifest; fewer if the clip is too short for that
            many.
        min_window_motion: share of the motion of the liveliest window that every window has, above
            what noise and shake move.
    """

    fps: int
    num_frames: int
    size: Any
    clips_per_video: int
    min_window_motion: float = 0.0


@dataclass(frozen=True)
class Source:
    """A stretch of a video.

    Attributes:
        path: the file; a remote one is fetched when it is read.
        sha256: the hash of the file when it was curated.
        start, end: seconds from its first frame, exact.
        decoder: "decord" or "pyav".
        motion_curve: the manifest's column, by which windows are chosen; windows are evenly spread
            if it is empty.
        box: the picture within black bars, see `bars`; None without bars. Stretches of one video
            may have different ones.
    """

    path: Path | RemoteFile
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
    """Cut the windows of one stretch, see `extract_video`.

    Raises:
        VideoError: if the file has changed since curation, or has fewer frames than a window.
    """
    (outcome,) = extract_video((source,), (settings,), scratch)
    if isinstance(outcome, VideoError):
        raise outcome
    return outcome


def extract_video(
    sources: Sequence[Source], settings: Sequence[WindowSettings], scratch: Path
) -> list[Path | VideoError]:
    """Cut the windows of all stretches of one video into files, unless an earlier run has done so.

    The file is hashed once and decoded once.

    Args:
        sources: the stretches, all of one file.
        settings: the shape of the windows of each stretch.
        scratch: folder for finished windows, keyed by content, stretch, settings and code version.

    Returns:
        For each stretch, its file, or why there is none.

    Raises:
        FetchError: if the file cannot be fetched now.
        VideoError: if the file has changed since curation, or its store hangs.
    """
    try:
        path = local_copy(sources[0].path)
    except TimeoutError:
        raise VideoError(
            "its store sent nothing for too long; `dvc repro -f decode` tries again"
        ) from None
    except OSError as error:
        raise FetchError(f"cannot be fetched: {error.strerror or error}") from None
    sources = [replace(source, path=path) for source in sources]
    if hash_with_progress(path) != sources[0].sha256:
        raise VideoError("the file has changed since it was curated; run the curate stage again")
    pairs = list(zip(sources, settings, strict=True))
    paths = [_place(source, own, scratch) for source, own in pairs]
    outcomes: list[Path | VideoError] = list(paths)
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    if missing:
        for place, windows in _cut([pairs[i] for i in missing]):
            i = missing[place]
            if isinstance(windows, VideoError):
                outcomes[i] = windows
            else:
                _write(paths[i], windows)
    return outcomes


def _place(source: Source, settings: WindowSettings, scratch: Path) -> Path:
    key = json.dumps(
        [CODE, asdict(source) | {"path": ""}, asdict(settings)],
        default=str,
    )
    return scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def _write(path: Path, windows: Windows) -> None:
    packed = {
        f"video_{i}": np.frombuffer(video, np.uint8) for i, video in enumerate(windows.videos)
    }
    write_atomically(path, pack_arrays(starts=np.array(windows.starts), **packed))


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
        share: of the motion of the liveliest window that a window must have, see `least_motion`.

    Returns:
        The first frames of up to as many windows, at least one, in order. Those that replace others
        overlap none.
    """
    if not starts or not len(motions):
        return starts
    least = least_motion(motions, length, share)
    lively = [start for start in starts if motions[start] >= least]
    while len(lively) < len(starts):
        free = [
            start
            for start in range(len(motions))
            if motions[start] >= least and all(abs(start - other) >= length for other in lively)
        ]
        if not free:
            break
        lively.append(max(free, key=lambda start: motions[start]))
    return sorted(lively)


def least_motion(motions: np.ndarray, length: int, share: float) -> float:
    """Return how much has to move in a window.

    That is a share of what moves in the liveliest window. Sensor noise and a shaking hand move all
    the time, though. So if many windows lie in a narrow band at the bottom, and others far above it,
    the band is noise: the share counts above it, and a window has to rise to twice the band, or half
    of the way up. Otherwise nothing stands out, and every window that moves is as good.

    Args:
        motions: from `window_motions`; at least one.
        length: frames of a window.
        share: 0 to 1; 0 if anything will do.
    """
    top = float(motions.max())
    if share <= 0:
        return 0.0
    ascending = np.sort(motions)
    counts = np.arange(length, len(motions))  # how many windows the band may hold
    low = ascending[(LOW_SHARE * counts).astype(int)]
    # Windows that share frames are alike, so a few of them are no evidence.
    widths = np.minimum(WIDEST_BAND, BAND_PER_WINDOW * counts / length)
    is_band = ascending[counts] - low <= widths * (top - low)
    if not is_band.any():
        return share * top
    noise = float(ascending[counts[is_band][-1] // 2])
    if top < STANDS_OUT * noise:
        return share * top
    limit = noise + max(share * (top - noise), min(noise, (top - noise) / 2))
    return min(top, limit)  # rounding may exceed it


def fit(frame: np.ndarray, size: Size) -> np.ndarray:
    """Cut the largest centred part of the shape of `size` (height, width) out of a uint8 (h, w, 3),
    and resize it to (height, width, 3) without aliasing.
    """
    height, width = frame.shape[:2]
    rows, columns = fitting_part((height, width), size)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = frame[top : top + rows, left : left + columns]
    if (rows, columns) == size:
        return middle.copy()  # a view would keep the whole frame in memory
    # INTER_AREA weighs each source pixel by its share, even for factors that are not whole, such as
    # 160 to 128.
    shrinks = rows * columns > size[0] * size[1]
    return cv2.resize(
        middle, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def _cut(
    pairs: Sequence[tuple[Source, WindowSettings]],
) -> Iterator[tuple[int, Windows | VideoError]]:
    """Decode the frames of the windows of all stretches, and only these.

    Args:
        pairs: each stretch with the shape of its windows.

    Yields:
        (index of the stretch, its windows or why it has none) for every stretch, in any order.
    """
    starts_of: dict[int, list[int]] = {}
    for i, (source, settings) in enumerate(pairs):
        starts_of[i] = _choose(source, settings)
        if not starts_of[i]:
            count = _count_ticks(source, settings)
            length, fps = settings.num_frames, settings.fps
            yield i, VideoError(f"{counted(count, 'frame')} at {fps} fps; a window needs {length}")
    left = [i for i in starts_of if starts_of[i]]
    for decoder in (pairs[0][0].decoder, "pyav"):  # PyAV reads what decord cannot: the same frames
        try:
            for i, decoded in _decode(pairs, starts_of, left, decoder):
                left = [other for other in left if other != i]
                yield i, _windows(*pairs[i], starts_of[i], decoded)
        except (VideoError, ImportError) as error:
            if decoder != "pyav":
                continue
            for i in left:
                yield i, error if isinstance(error, VideoError) else VideoError(str(error))
        if not left or decoder == "pyav":
            return


def _count_ticks(source: Source, settings: WindowSettings) -> int:
    return max(0, math.ceil((source.end - source.start) * settings.fps))


def _choose(source: Source, settings: WindowSettings) -> list[int]:
    """Return the first frames of the windows of a stretch."""
    num_ticks, length = _count_ticks(source, settings), settings.num_frames
    starts = window_starts(num_ticks, length, settings.clips_per_video)
    motions = window_motions(source, num_ticks, settings)
    return choose_windows(starts, length, motions, settings.min_window_motion)


def _needed_frames(starts: list[int], length: int) -> list[int]:
    return sorted({k for start in starts for k in range(start, start + length)})


def _decode(
    pairs: Sequence[tuple[Source, WindowSettings]],
    starts_of: Mapping[int, list[int]],
    left: list[int],
    decoder: str,
) -> Iterator[tuple[int, Decoded | VideoError]]:
    """Decode the windows of some stretches; frames are uint8 (t, h, w, 3)."""
    spans, croppers = [], [Cropper(source.box) for source, _ in pairs]
    for i in left:
        source, settings = pairs[i]
        (size,) = as_sizes(settings.size)
        needed = frozenset(_needed_frames(starts_of[i], settings.num_frames))
        start, end = Fraction(source.start), Fraction(source.end)
        transform = functools.partial(_cropped_and_fit, cropper=croppers[i], size=size)
        spans.append(Ticks(Fraction(settings.fps), start, end, needed, transform))
    for place, decoded in decode_spans(local_copy(pairs[0][0].path), spans, decoder):
        problem = croppers[left[place]].problem
        yield left[place], VideoError(f"{problem}; {CURE}") if problem else decoded


def _cropped_and_fit(frame: np.ndarray, cropper: Cropper, size: Size) -> np.ndarray:
    """Cut the bars off a frame (h, w, 3), and fit the rest to `size`."""
    return fit(cropper(frame), size)


def _windows(
    source: Source, settings: WindowSettings, starts: list[int], decoded: Decoded | VideoError
) -> Windows | VideoError:
    """Divide the decoded frames of a stretch into windows; an error if one is missing or damaged."""
    if isinstance(decoded, VideoError):
        return decoded
    length, fps = settings.num_frames, settings.fps
    needed = _needed_frames(starts, length)
    # Curation cuts around damage that a decoder meets nevertheless.
    if decoded.damage.is_in(source.start, source.end):
        return VideoError(f"damaged ({decoded.damage}); run the curate stage again")
    if len(decoded.frames) < len(needed):
        return VideoError(
            f"{len(decoded.frames)} of the {len(needed)} frames of its windows can be decoded"
        )
    frames = decoded.frames
    places = {k: place for place, k in enumerate(needed)}
    videos = [pack_frames(frames[[places[start + i] for i in range(length)]]) for start in starts]
    return Windows(videos, [float(source.start + Fraction(start, fps)) for start in starts])
