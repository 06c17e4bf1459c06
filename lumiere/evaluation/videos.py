"""Sets of videos to measure, read one at a time, so that memory does not grow with their number.

A *folder set* is any folder of video files. The files of two folders belong together if their names
(without suffix) agree, or else if their captions do. A caption comes from a CSV file, from the JSON
file that `lumiere generate` writes beside a video, or from nowhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Protocol

import av
import numpy as np

from lumiere.data.clips import resize_video
from lumiere.data.pixel_values import from_model_range, to_model_range
from lumiere.data.tables import read_table
from lumiere.data.video_io import read_video
from lumiere.data.video_source import look
from lumiere.data.video_streams import demuxed, main_stream, open_video
from lumiere.errors import DataError, VideoError, first_line, one_line
from lumiere.plurals import counted

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".webp")
UNREADABLE = ".webp"  # it is a video too, but no decoder here reads it
MIN_VIDEOS = 2  # for a distance; a few dozen are needed for it to mean something
MAX_FRAMES = 16  # by default; networks on video are trained on about as many
FALLBACK_FPS = Fraction(16)  # of a file that does not say
DAMAGED = "damaged or cut off; get the file again"


@dataclass(frozen=True)
class Video:
    """A video in memory.

    Attributes:
        name: unique in its set.
        frames: uint8 (t, h, w, 3), RGB.
        fps: frames per second.
        caption: its prompt; may be empty.
        captions: all sentences that describe it, `caption` among them.
        subject: its source; videos of two sets with the same subject show the same thing.
        held_out: no model was trained on its subject.
    """

    name: str
    frames: np.ndarray
    fps: float
    caption: str = ""
    captions: tuple[str, ...] = ()
    subject: str = ""
    held_out: bool = False


class VideoSet(Protocol):
    """Videos that are read when they are asked for.

    Attributes:
        names: of all of them, for messages.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of all videos, in their order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Video: ...


@dataclass(frozen=True)
class LazyVideos:
    """A set made of one reader for each video, and the names of the videos for messages."""

    readers: Sequence[Callable[[], Video]]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.names:
            names = [f"video {index}" for index in range(len(self.readers))]
            object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> Video:
        return self.readers[index]()

    def __iter__(self) -> Iterator[Video]:
        return (read() for read in self.readers)


@dataclass(frozen=True)
class FileEntry:
    """The facts of a video file that can be read without decoding it.

    Attributes:
        name: path below its folder, with forward slashes.
        height, width: pixels, as shown.
        num_frames: packets in the file.
        fps: frames per second.
    """

    path: Path
    name: str
    height: int
    width: int
    num_frames: int
    fps: Fraction
    captions: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name without its suffix; files of two folders with one stem belong together."""
        return str(Path(self.name).with_suffix("").as_posix())


@dataclass(frozen=True)
class Folder:
    """The video files of a folder, and those that cannot be read, by name with the reason."""

    path: Path
    entries: list[FileEntry]
    unreadable: dict[str, str] = field(default_factory=dict)


def list_folder(folder: Path, captions: dict[str, tuple[str, ...]] | None = None) -> Folder:
    """Look at the video files below a folder, in the order of their names. Hidden files are ignored.

    Args:
        folder: with files of `SUFFIXES`, also in subfolders.
        captions: sentences by file name or stem, from `read_captions`.

    Raises:
        DataError: if there is no such folder, or no video file in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of videos")
    paths = sorted(path for path in folder.rglob("*") if _is_video(folder, path))
    if not paths:
        readable = ", ".join(suffix for suffix in SUFFIXES if suffix != UNREADABLE)
        raise DataError(
            f"{folder}: no videos; expected files that end in {readable}, one file for each video"
        )
    entries: list[FileEntry] = []
    unreadable: dict[str, str] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            entry = _look_at(path, name)
        except VideoError as error:
            unreadable[name] = one_line(error)
            continue
        entries.append(replace(entry, captions=_captions_of(entry, captions or {})))
    return Folder(folder, entries, unreadable)


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a CSV file with the columns `video` and `caption`: sentences by file name or stem.

    A video may have several rows, as in data/captions.csv. The first sentence is its prompt.

    Raises:
        DataError: if it is not such a file, or a cell is empty.
    """
    captions: dict[str, list[str]] = {}
    for line, cells in read_table(path, ("video", "caption")):
        for column in ("video", "caption"):
            if not cells[column]:
                raise DataError(
                    f"{path}, line {line}: {column} is empty; fill it or delete the row"
                )
        captions.setdefault(cells["video"], []).append(cells["caption"])
    return {video: tuple(dict.fromkeys(sentences)) for video, sentences in captions.items()}


def unused_captions(captions: dict[str, tuple[str, ...]], folders: Sequence[Folder]) -> list[str]:
    """Return the videos that a caption file names and no folder has."""
    video_names: set[str] = set()
    for folder in folders:
        for name in [*(entry.name for entry in folder.entries), *folder.unreadable]:
            video_names.update(_caption_names(name))
    return [video for video in captions if video not in video_names]


def read_file(
    entry: FileEntry, num_frames: int, fps: Fraction, size: tuple[int, int]
) -> np.ndarray:
    """Decode the first `num_frames` frames at `fps`, uint8 (t, h, w, 3) at `size` (height, width).

    A video of another shape is scaled until it covers `size`, and cropped in the middle.

    Raises:
        VideoError: if it cannot be decoded, one of these frames is damaged, or it is too short.
    """
    # Half a frame more than needed: the end lies between two ticks, so that rounding cannot matter.
    end = (num_frames + Fraction(1, 2)) / fps

    def scaled(frame: np.ndarray) -> np.ndarray:  # one at a time, for large videos take much memory
        return fit(frame[None], size)[0]

    frames = read_video(entry.path, fps, end=end, transform=scaled)
    if len(frames) < num_frames:
        raise VideoError(
            f"{counted(len(frames), 'frame')} at {float(fps):g} a second; {num_frames} are needed"
        )
    return frames[:num_frames]


def fit(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 (t, h, w, 3) without aliasing until it covers `size` (height, width), and crop the
    middle.
    """
    h, w = frames.shape[1:3]
    height, width = size
    if (h, w) == size:
        return frames
    scale = max(height / h, width / w)
    scaled = max(height, round(h * scale)), max(width, round(w * scale))
    frames = from_model_range(resize_video(to_model_range(frames)[None], scaled)[0])
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return frames[:, top : top + height, left : left + width]


def most_common_size(entries: Sequence[FileEntry]) -> tuple[int, int]:
    """Return the (height, width) of most of the files; of the first of them, if several are."""
    counts = Counter((entry.height, entry.width) for entry in entries)
    return counts.most_common(1)[0][0]


def most_common_fps(entries: Sequence[FileEntry]) -> Fraction:
    """Return the frame rate of most of the files."""
    return Counter(entry.fps for entry in entries).most_common(1)[0][0]


def frames_at(entry: FileEntry, fps: Fraction) -> int:
    """Return how many frames a file has at another rate."""
    return max(1, int(entry.num_frames / entry.fps * fps + Fraction(1, 1000)))


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced indices below `count`."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def is_blank(frames: np.ndarray) -> bool:
    """Return whether all pixels of a video have one colour, such as black, and leave nothing to measure."""
    return bool((frames == frames[0, 0, 0]).all())


def _is_video(folder: Path, path: Path) -> bool:
    parts = path.relative_to(folder).parts
    is_hidden = any(part.startswith(".") for part in parts)
    return path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden


def _look_at(path: Path, name: str) -> FileEntry:
    if path.suffix.lower() == UNREADABLE:
        raise VideoError("animated WebP is written, but not read; convert it to mp4")
    with open_video(path) as container:
        stream = main_stream(container)
        rate, stored = stream.average_rate, (stream.width, stream.height)
        num_packets = _count_packets(container, stream)
    size = look(path).size(*stored)
    fps = Fraction(rate) if rate else FALLBACK_FPS
    return FileEntry(path, name, size[1], size[0], num_packets, fps.limit_denominator(1001))


def _count_packets(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    count = 0
    try:
        for packet in demuxed(container, stream):
            if packet.is_corrupt:
                raise VideoError(f"{DAMAGED} (it ends in the middle of a frame)")
            count += bool(packet.size) and packet.pts is not None
    except av.error.FFmpegError as error:
        raise VideoError(f"{DAMAGED} ({first_line(error.strerror)})") from None
    if not count:
        raise VideoError("it has no frames")
    return count


def _caption_names(name: str) -> tuple[str, ...]:
    """Return what a caption file may call a video: with folder and suffix or without."""
    path = PurePosixPath(name)
    return name, path.name, path.with_suffix("").as_posix(), path.stem


def _captions_of(entry: FileEntry, captions: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    for name in _caption_names(entry.name):
        if name in captions:
            return captions[name]
    sidecar = entry.path.with_suffix(".json")
    if not sidecar.is_file():
        return ()
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()  # a JSON file of somebody else
    prompt = content.get("prompt") if isinstance(content, dict) else None
    return (prompt,) if isinstance(prompt, str) and prompt.strip() else ()
