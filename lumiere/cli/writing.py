"""Writes the videos of a job with their sidecars and contact sheets, and replaces nothing that is
not an earlier run's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.cli.options import option
from lumiere.cli.staging import Move, staging, swap
from lumiere.cli.targets import Target, check_writable
from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.errors import first_line
from lumiere.requests import MAX_FRAMES, find_sidecar

if TYPE_CHECKING:
    import numpy as np

SHEET_FRAMES = 16


@dataclass(frozen=True)
class FinishedVideo:
    """A video, and where it goes.

    Attributes:
        frames: uint8 (t, h, w, 3).
        sidecar: the content of its sidecar.
    """

    target: Target
    frames: np.ndarray
    sidecar: dict[str, Any]


def files_of(target: Target, sidecar: Mapping[str, Any]) -> list[Path]:
    """Return the files of the video that a sidecar describes, without the sidecar itself."""
    frames = sidecar.get("frames")
    if not isinstance(frames, int) or not 0 < frames <= MAX_FRAMES:
        frames = 0
    return target.files(frames)


def check_replaceable(target: Target, inputs: Mapping[Path, str]) -> None:
    """Check that a video can be written, and replaces at most a video of an earlier run.

    Args:
        target: where the video goes.
        inputs: the option of each file that the request reads, by its resolved path.

    Raises:
        ValueError: if it cannot be written, or would replace something else.
    """
    check_writable(target.beside.parent)
    if target.is_sequence:
        _check_pictures_apart(target, inputs)
    for path in (*target.files(1), target.sidecar, target.sheet):
        if name := inputs.get(path.resolve()):
            raise ValueError(f"{path} is also {option(name)}; choose another name with -o")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; choose another name with -o")
    if target.sidecar.is_file() and find_sidecar(target.sidecar) is None:
        raise ValueError(
            f"{target.sidecar} is in the way, and was not written by lumiere; choose another "
            "name with -o"
        )
    if target.has_folder:
        _check_folder(target)


def write_videos(videos: Sequence[FinishedVideo], fps: int | float, sheet: bool) -> None:
    """Write videos, contact sheets and sidecars: either all of them or none.

    Args:
        videos: their targets lie in the same folder.
        fps: frames per second.
        sheet: whether to write a contact sheet beside each video.

    Raises:
        ValueError: if they cannot be written; the files of an earlier run are still there.
    """
    first = videos[0].target
    try:
        with staging(first.beside.parent) as aside:
            moves = []
            for number, video in enumerate(videos):
                moves += _stage(video, fps, sheet, aside / str(number))
            swap(moves, aside)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ValueError(
            f"{first.place}: cannot be written ({reason}); choose another place with -o"
        ) from None


def _stage(video: FinishedVideo, fps: int | float, sheet: bool, aside: Path) -> list[Move]:
    """Write one video, its contact sheet and its sidecar below `aside`; return the moves, in
    order.
    """
    target, frames = video.target, video.frames
    old = find_sidecar(target.sidecar)
    aside.mkdir()
    # A sidecar must never be beside the wrong video, not even for a moment. So the old sidecar goes
    # first, and the new one comes last.
    moves: list[Move] = [(None, target.sidecar), *target.stage(aside, frames, fps)]
    if old is not None and not target.has_folder:
        longer = files_of(target, old)[len(frames) :]
        moves += [(None, file) for file in longer]
    if sheet:
        new_sheet = aside.with_name(f"{aside.name}.sheet.png")
        save_picture(contact_sheet(_spread(frames)), new_sheet)
        moves.append((new_sheet, target.sheet))
    elif old is not None:
        moves.append((None, target.sheet))
    new_sidecar = aside.with_name(f"{aside.name}.json")
    text = json.dumps(video.sidecar, indent=2, ensure_ascii=False) + "\n"
    new_sidecar.write_text(text, encoding="utf-8")
    return [*moves, (new_sidecar, target.sidecar)]


def _check_pictures_apart(target: Target, inputs: Mapping[Path, str]) -> None:
    """Raise ValueError if a picture to start from is in the folder that the frames go to."""
    folder = target.path.parent.resolve()
    for path, name in inputs.items():
        if path.parent == folder and path.suffix == ".png":
            raise ValueError(
                f"{option(name)} {path} is in the folder that the frames go to; choose another with -o"
            )


def _check_folder(target: Target) -> None:
    """Raise ValueError if the folder has other files in it, because the whole folder is
    replaced.
    """
    folder = target.path.parent
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; name the folder itself with -o")
    ours = set(files_of(target, find_sidecar(target.sidecar) or {}))
    others = sorted(set(folder.iterdir()) - ours) if folder.is_dir() else []
    if others:
        raise ValueError(
            f"{folder} has files that lumiere did not write, such as {others[0].name}; name a new folder with -o, or a "
            f"file in this one, such as {folder / 'fox.mp4'}"
        )


def _spread(frames: np.ndarray) -> np.ndarray:
    """Return at most `SHEET_FRAMES` of the frames, evenly spread, including the first and the
    last.
    """
    count = min(SHEET_FRAMES, len(frames))
    indices = [round(i * (len(frames) - 1) / max(1, count - 1)) for i in range(count)]
    return frames[indices]
