"""Cuts training windows out of a video, in a process that can be killed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.data.bars import Cropper
from lumiere.data.frame_sizes import Size, as_sizes, fitting_part
from lumiere.data.remote import local_copy
from lumiere.data.shards import pack_arrays, pack_frames, unpack_arrays
from lumiere.data.video_io import Decoded, Ticks, code_version, decode_spans
from lumiere.data.window_choice import Source, WindowSettings, choose, count_ticks
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
    "lumiere.data.window_choice",
)

CURE = "run the curate stage again, or correct the cell"

cv2.setNumThreads(1)  # the pool has a process per core


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
        starts_of[i] = choose(source, settings)
        if not starts_of[i]:
            count = count_ticks(source, settings)
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
