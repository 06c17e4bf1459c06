"""The files of a batch of generated videos: the `generate` stage writes them, the evaluation reads them.

index.json        the names of the samples, in order
<name>.mp4        a finished sample
<name>.json       its sidecar, with at least name, mode, prompt and fps
<name>.sheet.png  some of its frames side by side
<name>.xt.png     its middle row over time
<name>.known.npz  for modes that are given pixels: generated and known, uint8 (t, h, w, 3), and known_mask (t, h, w)
sets/<set>.npz    the clips that the evaluation needs besides the samples: one array a clip, uint8 (t, h, w, 3),
                  called 000000, 000001, ...
sets/<set>.json   a list with a row for each clip, in the same order; the keys are the fields of `SetEntry`

All sets of `SETS` are written; one may be empty:

text_to_video     captions of training clips, at base size
held_out          captions of validation clips, at base size
image_to_video    captions and first frames of training clips, at base size
styles            one prompt and one seed at several weights of a style, alpha 0 (no style) included, at base size
seams             the middles of text-to-video clips, super-resolved twice each, one row after the other: in windows
                  that MultiDiffusion reconciles at every step, and in windows that share no frame
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from lumiere.data.contact_sheets import contact_sheet, save_picture, xt_slice
from lumiere.data.video_io import read_video, write_video
from lumiere.errors import DataError, first_line
from lumiere.files import is_file, raise_machine_error, write_atomically
from lumiere.plurals import counted

RESERVED_NAMES = ("index",)
SHOWN_SUFFIXES = (".mp4", ".json", ".sheet.png", ".xt.png")  # what a reviewer wants to see
KNOWN = ("generated", "known", "known_mask")
TEXT_TO_VIDEO, HELD_OUT, IMAGE_TO_VIDEO, STYLES, SEAMS = SETS = (
    "text_to_video", "held_out", "image_to_video", "styles", "seams",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A finished sample.

    Attributes:
        info: its sidecar, with at least name, mode, prompt and fps.
        frames: uint8 (t, h, w, 3). After reading them back from the mp4, they differ by the losses
            of its codec.
        known: the arrays of `<name>.known.npz`, for modes with given pixels.
    """

    info: dict[str, Any]
    frames: np.ndarray
    known: dict[str, np.ndarray] | None = None


# --- samples ---------------------------------------------------------------------------------------------------------


def write_index(folder: Path, names: Sequence[str]) -> None:
    """Write the list of samples."""
    _write_json(folder / "index.json", list(names), indent=1)


def write_sample(folder: Path, sample: Sample) -> None:
    """Write the files of one sample."""
    name, frames = sample.info["name"], sample.frames
    write_video(folder / f"{name}.mp4", frames, fps=sample.info["fps"])
    shown = frames[:: max(1, len(frames) // 8)]
    save_picture(contact_sheet(shown), folder / f"{name}.sheet.png")
    save_picture(xt_slice(frames), folder / f"{name}.xt.png")
    _write_json(folder / f"{name}.json", sample.info, indent=2)
    if sample.known is not None:
        _write_arrays(folder / f"{name}.known.npz", sample.known)


def read_samples(folder: Path) -> list[Sample]:
    """Read all samples that index.json names, in its order.

    Raises:
        DataError: if a file is missing or damaged.
    """
    samples = []
    for name in _read_json(folder / "index.json"):
        info = _read_json(folder / f"{name}.json")
        with _damage_named(folder / f"{name}.mp4") as path:
            frames = read_video(path, fps=info["fps"])
        known_path = folder / f"{name}.known.npz"
        known = _read_arrays(known_path, KNOWN) if is_file(known_path) else None
        samples.append(Sample(info, frames, known))
    return samples


# --- sets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetEntry:
    """The settings with which a clip of a set was made.

    Attributes:
        prompt: its sentence.
        mode: a key of `lumiere.modes.MODES`.
        seed: of its noise. A clip does not depend on the clips made beside it.
        fps: frames per second.
        clip_id: the real clip that the prompt was taken from; in image to video also the first
            frame.
        subject: that clip's source video. Entries of equal subject show the same.
        held_out: whether that clip belongs to the validation split.
        style: the style's name; empty for none.
        alpha: the style's weight. With 0, the style has no part in the clip.
        window_size: frames of the windows of super-resolution; None for a clip at base size.
        overlap: frames that neighbouring windows share.
        multidiffusion: whether the windows are reconciled; if not, they share no frame.
    """

    prompt: str
    mode: str
    seed: int
    fps: float
    clip_id: str
    subject: str
    held_out: bool = False
    style: str = ""
    alpha: float = 0.0
    window_size: int | None = None
    overlap: int | None = None
    multidiffusion: bool | None = None


class ClipSet:
    """A set in a folder of generated videos. Iterating loads one clip at a time.

    Attributes:
        path: the file of the clips.
        entries: a row for each clip.
    """

    def __init__(self, path: Path, entries: Sequence[SetEntry]) -> None:
        self.path, self.entries = path, list(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[SetEntry, np.ndarray]]:
        """Yield each entry with its frames, uint8 (t, h, w, 3).

        Raises:
            DataError: if the file is damaged.
        """
        with _damage_named(self.path), np.load(self.path, allow_pickle=False) as arrays:
            for index, entry in enumerate(self.entries):
                yield entry, self._checked(index, arrays[_member(index)])

    def frames(self, index: int) -> np.ndarray:
        """Load one clip, uint8 (t, h, w, 3).

        Raises:
            DataError: if the file is damaged.
        """
        return self._checked(index, _read_arrays(self.path, [_member(index)])[_member(index)])

    def _checked(self, index: int, frames: np.ndarray) -> np.ndarray:
        is_video = frames.ndim == 4 and frames.shape[3] == 3 and frames.size > 0
        if frames.dtype != np.uint8 or not is_video:
            raise DataError(
                f"{self.path}: clip {index} is {frames.dtype} {frames.shape}; expected uint8 "
                "(t, h, w, 3); run the generate stage again"
            )
        return frames


def write_set(folder: Path, name: str, clips: Iterable[tuple[SetEntry, np.ndarray]]) -> int:
    """Write a set clip by clip, so that `clips` may make them one at a time.

    Args:
        folder: the folder of the generated videos.
        name: one of `SETS`.
        clips: entries with their frames, uint8 (t, h, w, 3).

    Returns:
        The number of clips.
    """
    path = _set_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    entries: list[SetEntry] = []
    try:
        with ZipFile(temporary, "w") as archive:
            for entry, frames in clips:
                # Without a time of its own, a member has the same bytes in every run.
                info = ZipInfo(f"{_member(len(entries))}.npy")
                info.compress_type = ZIP_DEFLATED
                with archive.open(info, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(frames), allow_pickle=False)
                entries.append(entry)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _write_json(path.with_suffix(".json"), [asdict(entry) for entry in entries], indent=1)
    return len(entries)


def read_set(folder: Path, name: str) -> ClipSet:
    """Open a set; its frames are read later, clip by clip.

    Args:
        folder: the folder of the generated videos.
        name: one of `SETS`.

    Raises:
        DataError: if a file is missing, damaged, or does not fit the other.
    """
    path = _set_path(folder, name)
    rows = _read_json(path.with_suffix(".json"))
    with _damage_named(path.with_suffix(".json")):
        if not isinstance(rows, list):
            raise ValueError("not a list of rows")
        entries = [_entry(row) for row in rows]
    with _damage_named(path), np.load(path, allow_pickle=False) as arrays:
        members = sorted(arrays.files)
    if members != [_member(index) for index in range(len(entries))]:
        raise DataError(
            f"{path}: {counted(len(members), 'clip')} for {counted(len(entries), 'row')} of {name}.json; "
            "run the generate stage again"
        )
    return ClipSet(path, entries)


def _set_path(folder: Path, name: str) -> Path:
    if name not in SETS:
        raise ValueError(f"set {name!r}; allowed: {', '.join(SETS)}")
    return folder / "sets" / f"{name}.npz"


def _member(index: int) -> str:
    return f"{index:06d}"


def _entry(row: Any) -> SetEntry:
    """Read a row.

    Raises:
        ValueError: if a key is missing or unknown, or a value is of another type.
    """
    names = [item.name for item in fields(SetEntry)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"a row is {row!r}; expected the keys {', '.join(names)}")
    for name, hint in get_type_hints(SetEntry).items():
        number = hint is float and type(row[name]) is int
        if not (number or isinstance(row[name], hint)):
            raise ValueError(f"{name} is {row[name]!r}; expected {getattr(hint, '__name__', hint)}")
    return SetEntry(**row)


# --- parts -----------------------------------------------------------------------------------------------------------


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


@contextmanager
def _damage_named(path: Path) -> Iterator[Path]:
    """Turn what a missing or damaged file raises into a DataError that names the file."""
    if not is_file(path):
        raise DataError(f"{path}: no such file; run the generate stage first")
    try:
        with path.open("rb"):  # FFmpeg reports a missing permission like a damaged file
            pass
        yield path
    except DataError:
        raise  # it names the file already
    except (ValueError, KeyError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise_machine_error(error, path)
        raise DataError(
            f"{path}: cannot be read ({first_line(error)}); run the generate stage again"
        ) from None


def _read_json(path: Path) -> Any:
    with _damage_named(path):
        return json.loads(path.read_text(encoding="utf-8"))


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with _damage_named(path), np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names}
