"""The files of a batch of generated videos: the `generate` stage writes them, the evaluation reads them.

index.json        the names of the samples, in order
<name>.mp4        a finished sample
<name>.json       its sidecar, with at least name, mode, prompt and fps
<name>.sheet.png  some of its frames side by side
<name>.xt.png     its middle row over time
<name>.known.npz  for modes that are given pixels: generated and known, uint8 (t, h, w, 3), and known_mask (t, h, w)
t2v_set.npz       frames: uint8 (n, t, h, w, 3), text-to-video clips at base size, made for the distances
t2v_set.json      {"prompts": [n sentences], "fps": ...}
seams.npz         multidiffusion and independent: uint8 (n, t, h, w, 3), the same clips super-resolved in windows that
                  are reconciled at every step, and in windows that share no frame
seams.json        {"window_size", "overlap"} of the super-resolution that made seams.npz
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lumiere.data.contact_sheets import contact_sheet, save_picture, xt_slice
from lumiere.data.video_io import read_video, write_video
from lumiere.errors import DataError, first_line
from lumiere.files import write_atomically

RESERVED_NAMES = ("index", "seams", "t2v_set")
SHOWN_SUFFIXES = (".mp4", ".json", ".sheet.png", ".xt.png")  # what a reviewer wants to see
KNOWN = ("generated", "known", "known_mask")
SEAMS = ("multidiffusion", "independent")


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
        known = _read_arrays(known_path, KNOWN) if known_path.exists() else None
        samples.append(Sample(info, frames, known))
    return samples


# --- the text-to-video set -------------------------------------------------------------------------------------------


def write_text_to_video_set(
    folder: Path, frames: np.ndarray, prompts: Sequence[str], fps: int
) -> None:
    """Write uint8 (n, t, h, w, 3) with a sentence for each clip."""
    _write_arrays(folder / "t2v_set.npz", {"frames": frames})
    _write_json(folder / "t2v_set.json", {"prompts": list(prompts), "fps": fps}, indent=1)


def read_text_to_video_set(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Read the clips, uint8 (n, t, h, w, 3), and their sentences.

    Raises:
        DataError: if a file is missing, damaged, or does not fit the other.
    """
    path = folder / "t2v_set.npz"
    prompts = list(_read_json(folder / "t2v_set.json")["prompts"])
    frames = _read_arrays(path, ("frames",))["frames"]
    if frames.ndim != 5 or frames.dtype != np.uint8 or len(frames) != len(prompts):
        raise DataError(
            f"{path}: {frames.dtype} {frames.shape} for {len(prompts)} prompts; expected uint8 "
            "(n, t, h, w, 3); run the generate stage again"
        )
    return frames, prompts


# --- seams -----------------------------------------------------------------------------------------------------------


def write_seams(
    folder: Path, videos: Mapping[str, np.ndarray], window_size: int, overlap: int
) -> None:
    """Write the clips with and without MultiDiffusion, uint8 (n, t, h, w, 3) each, and the
    windows' settings.
    """
    _write_arrays(folder / "seams.npz", {name: videos[name] for name in SEAMS})
    _write_json(folder / "seams.json", {"window_size": window_size, "overlap": overlap})


def read_seams(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Read the clips, by `SEAMS`, and window_size and overlap.

    Raises:
        DataError: if a file is missing or damaged.
    """
    settings = _read_json(folder / "seams.json")
    return _read_arrays(folder / "seams.npz", SEAMS), settings


# --- parts -----------------------------------------------------------------------------------------------------------


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


@contextmanager
def _damage_named(path: Path) -> Iterator[Path]:
    """Turn what a missing or damaged file raises into a DataError that names the file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the generate stage first")
    try:
        yield path
    except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
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
