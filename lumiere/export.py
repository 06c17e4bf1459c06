"""Videos as files: mp4, webm, gif, webp or numbered PNGs, as the name says; whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lumiere.data.contact_sheets import save_picture
from lumiere.data.video_io import write_video

NUMBER = re.compile(r"%0?\d?d")  # as ffmpeg and printf have it
FOLDER_PATTERN = "%04d.png"
LONGEST_NAME = 200  # bytes; most disks take 255, and settings, sheet and number are longer than the name itself

Move = tuple[Path | None, Path]
"""What is to stand in a place, and the place; None for nothing."""


@dataclass(frozen=True)
class Target:
    """Where one video goes.

    Attributes:
        path: a file; of a PNG sequence its pattern, such as fox-%03d.png.
        beside: what its settings and its contact sheet are called, without suffix.
        has_folder: whether it is a sequence with a folder to itself.
    """

    path: Path
    beside: Path
    has_folder: bool = False

    @property
    def settings(self) -> Path:
        """The JSON file with all that is needed to make the video again."""
        return self.beside.with_name(self.beside.name + ".json")

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.beside.with_name(self.beside.name + ".sheet.png")

    @property
    def place(self) -> Path:
        """What to call it: the file, the pattern, or the folder."""
        return self.path.parent if self.has_folder else self.path

    @property
    def is_sequence(self) -> bool:
        """Whether it is one PNG per frame."""
        return self.path.suffix.lower() == ".png"

    def files(self, num_frames: int) -> list[Path]:
        """The files that a video of `num_frames` frames has, settings and sheet aside."""
        if not self.is_sequence:
            return [self.path]
        return [self.path.with_name(_numbered(self.path.name, i)) for i in range(num_frames)]

    def stage(self, aside: Path, frames: np.ndarray, fps: int | float) -> list[Move]:
        """Write uint8 (t, h, w, 3) at `fps` frames per second into the folder `aside`, and tell what goes where."""
        files = [aside / file.name for file in self.files(len(frames))]
        if self.is_sequence:
            for frame, file in zip(frames, files, strict=True):
                save_picture(Image.fromarray(frame), file)
        else:
            WRITERS[self.path.suffix.lower()](files[0], frames, fps)
        if self.has_folder:
            return [(aside, self.path.parent)]
        return list(zip(files, self.files(len(frames)), strict=True))


def target_of(output: str | Path, index: int | None = None) -> Target:
    """The target that a name means.

    Args:
        output: a file whose suffix is a key of `WRITERS`; a pattern such as fox-%03d.png; or a folder for PNGs, which
            exists or ends with "/".
        index: of one among several videos; it goes into the name.

    Raises:
        ValueError: on a suffix that is not written, a folder that is called like a file, or a name that no disk takes.
    """
    path = Path(os.path.abspath(output))
    _check_names(path)
    number = "" if index is None else f"-{index}"
    suffix = path.suffix.lower()
    is_folder = str(output).endswith(("/", os.sep))
    if not is_folder and path.is_dir():
        if suffix in WRITERS:
            raise ValueError(f"-o {output}: is a folder; choose another name")
        is_folder = True
    if is_folder or not suffix:
        if Path.cwd().is_relative_to(path) or path.name.lower() in WRITERS:
            raise ValueError(
                f"-o {output}: a name is missing; name a file, such as {Path(output) / 'fox.mp4'}, or a folder for "
                f"PNGs, such as {Path(output) / 'fox'}/"
            )
        if not is_folder:
            raise ValueError(
                f"-o {output}: name a file, such as {output}.mp4, or a folder for PNGs, {output}/"
            )
        folder = path.with_name(path.name + number)
        return Target(folder / FOLDER_PATTERN, folder, has_folder=True)
    if suffix == ".png":
        if len(NUMBER.findall(path.name)) != 1:
            raise ValueError(
                f"{output}: one PNG holds one frame; name a sequence, such as {path.stem}-%03d.png, or a folder, "
                f"{path.stem}/"
            )
        name = NUMBER.sub(
            lambda found: f"{number[1:]}-{found[0]}" if number else found[0], path.name
        )
        stem = NUMBER.sub("", Path(name).stem).strip("-_. ") or "frames"
        return Target(path.with_name(name), path.with_name(stem))
    if suffix not in WRITERS:
        raise ValueError(
            f"{output}: suffix {path.suffix!r} is not written; allowed: {', '.join(WRITERS)}, a sequence such as "
            f"{path.stem}-%03d.png, or a folder for PNGs, {path.stem}/"
        )
    return Target(
        path.with_name(f"{path.stem}{number}{path.suffix}"), path.with_name(path.stem + number)
    )


def check_writable(folder: Path) -> None:
    """Raises ValueError where files cannot be made in `folder`; one that is not there yet may be."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{there} is a file, not a folder; choose another place with -o")
    try:
        with tempfile.TemporaryFile(
            dir=there
        ):  # permissions do not tell everything: a disk may be read-only
            pass
    except OSError as error:
        raise ValueError(
            f"{there}: cannot be written ({error.strerror}); choose another place with -o"
        ) from None


# --- whole or not at all ---------------------------------------------------------------------------------------------


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder`, for what is not whole yet.

    `folder` is made if need be, and goes again if nothing comes of it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".lumiere-", dir=folder, ignore_cleanup_errors=True
        ) as aside:
            yield Path(aside)
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def swap(moves: Sequence[Move], aside: Path) -> None:
    """Put everything in its place by renaming, in this order; all of it, or on an error none.

    Args:
        moves: files and folders, on one disk.
        aside: a folder on that disk, which takes what stood there before.
    """
    undo: list[tuple[Path, Path]] = []
    try:
        for number, (new, place) in enumerate(moves):
            if os.path.lexists(place):
                old = aside / f"old-{number}"
                undo.append((old, place))
                _set_aside(place, old, leave=new is not None)
            if new is not None:
                undo.append((place, new))
                os.replace(new, place)
    except BaseException:  # Ctrl-C too
        for moved, back in reversed(undo):
            if os.path.lexists(moved):
                os.rename(moved, back)
        raise


def _set_aside(place: Path, old: Path, leave: bool) -> None:
    """Rename a file, or give it a second name, so that even a killed run finds it in its place.

    A folder cannot have two names, nor can a file on some disks.
    """
    if leave:
        with suppress(OSError):
            os.link(place, old, follow_symlinks=False)
            return
    os.rename(place, old)


# --- writers -------------------------------------------------------------------------------------------------------


def write_webm(path: Path, frames: np.ndarray, fps: int | float, crf: int = 20) -> None:
    """VP9 (yuv420p, constant quality); odd sizes get one more row or column, a copy of the last."""
    frames = np.pad(
        frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge"
    )
    with av.open(str(path), "w", format="webm", options={"fflags": "+bitexact"}) as container:
        # One thread, as in write_video: the same frames give the same bytes.
        options = {"crf": str(crf), "b": "0", "threads": "1", "row-mt": "0"}
        stream = container.add_stream(
            "libvpx-vp9", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())


def write_gif(path: Path, frames: np.ndarray, fps: int | float) -> None:
    """An endless GIF. One palette for all frames and no dithering: both would make still parts flicker."""
    palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(
        256, dither=Image.Dither.NONE
    )
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    # GIF counts in hundredths of a second.
    pictures[0].save(
        path, "GIF", save_all=True, append_images=pictures[1:], duration=_durations(len(frames), fps, 10),
        loop=0, disposal=1, optimize=False,
    )  # fmt: skip


def write_webp(path: Path, frames: np.ndarray, fps: int | float) -> None:
    """An endless animated WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(
        path, "WEBP", save_all=True, append_images=pictures[1:], duration=_durations(len(frames), fps, 1),
        loop=0, quality=90, method=4,
    )  # fmt: skip


def _write_mp4(path: Path, frames: np.ndarray, fps: int | float) -> None:
    write_video(path, frames, Fraction(fps).limit_denominator(1001))


WRITERS: dict[str, Callable[[Path, np.ndarray, int | float], None]] = {
    ".mp4": _write_mp4,
    ".webm": write_webm,
    ".gif": write_gif,
    ".webp": write_webp,
}


def _durations(num_frames: int, fps: int | float, unit: int) -> list[int]:
    """Milliseconds per frame in multiples of `unit`, such that the frames' beginnings do not drift."""
    ticks = [round(i * 1000 / fps / unit) for i in range(num_frames + 1)]
    return [max(1, after - before) * unit for before, after in itertools.pairwise(ticks)]


def _numbered(name: str, number: int) -> str:
    return NUMBER.sub(lambda found: found[0] % number, name)


def _check_names(path: Path) -> None:
    for name in path.parts:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"-o {os.fsencode(name)!r}: not in UTF-8; choose another name with -o"
            ) from None
        if size > LONGEST_NAME:
            raise ValueError(
                f"-o {name[:20]}...: a name of {size} bytes; use at most {LONGEST_NAME}"
            )
