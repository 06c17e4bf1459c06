"""Finds where `lumiere generate` writes a video: the file, numbered PNGs or folder that -o names."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.cli.staging import Move
from lumiere.data.contact_sheets import save_picture
from lumiere.data.video_formats import WRITERS

NUMBER = re.compile(r"%0?\d?d")  # as in printf and ffmpeg
FOLDER_PATTERN = "%04d.png"
MAX_NAME = 200  # bytes; most disks take 255, and a sidecar's or a numbered name is longer than the name itself


@dataclass(frozen=True)
class Target:
    """The destination of one video.

    Attributes:
        path: a file, or the pattern of a PNG sequence, such as fox-%03d.png.
        beside: the path of its sidecar and its contact sheet, without suffix.
        has_folder: whether it is a sequence in a folder of its own.
    """

    path: Path
    beside: Path
    has_folder: bool = False

    @property
    def sidecar(self) -> Path:
        """The JSON file with everything that is needed to make the video again."""
        return self.beside.with_name(self.beside.name + ".json")

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.beside.with_name(self.beside.name + ".sheet.png")

    @property
    def place(self) -> Path:
        """The name of the target in messages: the file, the pattern, or the folder."""
        return self.path.parent if self.has_folder else self.path

    @property
    def is_sequence(self) -> bool:
        """Return whether the target is one PNG per frame."""
        return self.path.suffix.lower() == ".png"

    def files(self, num_frames: int) -> list[Path]:
        """Return the files of a video of `num_frames` frames, without its sidecar and contact
        sheet.
        """
        if not self.is_sequence:
            return [self.path]
        return [self._numbered(i) for i in range(num_frames)]

    def _numbered(self, index: int) -> Path:
        return self.path.with_name(NUMBER.sub(lambda match: match[0] % index, self.path.name))

    def stage(self, aside: Path, frames: np.ndarray, fps: int | float) -> list[Move]:
        """Write uint8 (t, h, w, 3) at `fps` frames per second into the folder `aside`; return
        the moves.
        """
        places = self.files(len(frames))
        files = [aside / place.name for place in places]
        if self.is_sequence:
            for frame, file in zip(frames, files, strict=True):
                save_picture(Image.fromarray(frame), file)
        else:
            WRITERS[self.path.suffix.lower()](files[0], frames, fps)
        if self.has_folder:
            return [(aside, self.path.parent)]
        return list(zip(files, places, strict=True))


def target_of(output: str | Path, index: int | None = None) -> Target:
    """Return the target that an output name describes.

    Args:
        output: a file whose suffix is a key of `WRITERS`; a pattern such as fox-%03d.png; or a folder for PNGs, which
            exists or ends with "/".
        index: the number of this video among several; it becomes a part of the name.

    Raises:
        ValueError: if no video can be written under that name.
    """
    path = Path(os.path.abspath(output))
    _check_length(path)
    suffix = path.suffix.lower()
    if _is_folder(output, path):
        return _folder_target(output, path, index)
    if suffix == ".png":
        return _sequence_target(output, path, index)
    if suffix not in WRITERS:
        raise ValueError(
            f"{output}: suffix {path.suffix!r} is not written; allowed: {', '.join(WRITERS)}, a "
            f"sequence such as {path.stem}-%03d.png, or a folder for PNGs, {path.stem}/"
        )
    stem = path.stem if index is None else f"{path.stem}-{index}"
    return Target(path.with_name(stem + path.suffix), path.with_name(stem))


def check_writable(folder: Path) -> None:
    """Raise ValueError if files cannot be made in `folder`, which may not exist yet."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, not a folder; choose another place with -o")
    try:
        # Checking permissions is not enough, because the disk may be read-only.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"{existing}: cannot be written ({error.strerror}); choose another place with -o"
        ) from None


def _is_folder(output: str | Path, path: Path) -> bool:
    if str(output).endswith(("/", os.sep)):
        return True
    suffix = path.suffix.lower()
    if path.is_dir():
        if suffix in WRITERS:
            raise ValueError(f"-o {output}: is a folder; choose another name")
        return True
    if suffix:
        return False
    if not _is_nameless(path):
        raise ValueError(
            f"-o {output}: name a file, such as {output}.mp4, or a folder for PNGs, {output}/"
        )
    return True


def _is_nameless(path: Path) -> bool:
    """Return whether a path lacks a name of its own: it is the current folder, one above it, or
    a suffix alone.
    """
    return Path.cwd().is_relative_to(path) or path.name.lower() in WRITERS


def _folder_target(output: str | Path, path: Path, index: int | None) -> Target:
    if _is_nameless(path):
        raise ValueError(
            f"-o {output}: a name is missing; name a file, such as {Path(output) / 'fox.mp4'}, or a "
            f"folder for PNGs, such as {Path(output) / 'fox'}/"
        )
    folder = path if index is None else path.with_name(f"{path.name}-{index}")
    return Target(folder / FOLDER_PATTERN, folder, has_folder=True)


def _sequence_target(output: str | Path, path: Path, index: int | None) -> Target:
    if len(NUMBER.findall(path.name)) != 1:
        raise ValueError(
            f"{output}: one PNG holds one frame; name a sequence, such as {path.stem}-%03d.png, or a "
            f"folder, {path.stem}/"
        )
    name = path.name
    if index is not None:
        name = NUMBER.sub(lambda match: f"{index}-{match[0]}", name)
    stem = NUMBER.sub("", Path(name).stem).strip("-_. ") or "frames"
    return Target(path.with_name(name), path.with_name(stem))


def _check_length(path: Path) -> None:
    for name in path.parts:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"-o {os.fsencode(name)!r}: not in UTF-8; choose another name with -o"
            ) from None
        if size > MAX_NAME:
            raise ValueError(f"-o {name[:20]}...: a name of {size} bytes; use at most {MAX_NAME}")
