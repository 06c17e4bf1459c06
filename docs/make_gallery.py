"""Make the moving pictures of docs/gallery.md with the commands that stand there.

    python docs/make_gallery.py                      # all parts: about ten minutes on two idle cores
    python docs/make_gallery.py neon long            # some of them; --list names all

A part is a picture of the page, by its name, with the `lumiere generate` commands above it. The
picture shows the videos that these commands write, side by side. `modes`, the picture of README.md,
combines videos of other parts, so make those first. Videos and their settings stay in the work
folder. The demo weights make them.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.video_io import read_video, write_video
from lumiere.errors import DataError, run_program
from lumiere.pipelines.assemble import PRETRAINED

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "gallery.md"
COMMAND = re.compile(r"^lumiere generate (?:.*\\\n)*.*", re.MULTILINE)
PICTURE = re.compile(r"^!\[[^]]*\]\((images/(?:[\w-]+/)*([\w-]+)\.webp)\)", re.MULTILINE)
OVERVIEW = DOCS / "images/modes.webp"
OVERVIEW_ROWS = (
    ("text", "image", "first-and-last", "cinemagraph"),
    ("inpainting", "moving-inpainting", "outpainting", "neon"),
)
FPS = 16
GAP = 4  # pixels between videos
PADDING = [(0, 0), (0, GAP), (0, GAP), (0, 0)]
QUALITY = 80


@dataclass
class Part:
    """A picture of the page.

    Attributes:
        path: the file to write.
        commands: the arguments of `lumiere` for each of its videos.
    """

    path: Path
    commands: list[list[str]] = field(default_factory=list)

    @property
    def videos(self) -> list[str]:
        """The names of the videos that the commands write."""
        return [command[command.index("-o") + 1] for command in self.commands]


def read_parts(page: str) -> dict[str, Part]:
    """Return the pictures of a page by their names, each with the commands since the one before.

    Raises:
        DataError: if a picture has no command, or a command has no picture or no -o.
    """
    parts: dict[str, Part] = {}
    commands: list[list[str]] = []
    places = [*COMMAND.finditer(page), *PICTURE.finditer(page)]
    for place in sorted(places, key=lambda match: match.start()):
        if place.re is COMMAND:
            commands.append(shlex.split(place[0].replace("\\\n", " "), comments=True)[1:])
            continue
        parts[place[2]] = Part(DOCS / place[1], commands)
        commands = []
    unpaired = [name for name, part in parts.items() if not part.commands]
    if commands or unpaired:
        problem = f"{PAGE.name}: a picture without command, or the reverse: {unpaired or commands}"
        raise DataError(problem, "put each picture below its commands")
    for name, part in parts.items():
        if any("-o" not in command for command in part.commands):
            raise DataError(f"{PAGE.name}, {name}: a command names no video", "add -o")
    return parts


def write_inputs(work: Path, raw: Path) -> None:
    """Write what the commands start from: the sample videos, frames of some, and a mask."""
    (work / "data").mkdir(parents=True, exist_ok=True)
    link = work / "data/raw"
    if not link.is_symlink():
        link.symlink_to(raw)
    for name in ("racehorse", "penguin", "beer"):
        (work / name).mkdir(exist_ok=True)
        # As `ffmpeg -vf fps=16 -start_number 0` does.
        for number, frame in enumerate(read_video(raw / f"{name}.mp4", FPS)[:16]):
            Image.fromarray(frame).save(work / name / f"{number:04d}.png")
    # A mask is white where to generate: a box that moves from left to right.
    mask = np.zeros((16, 160, 160, 3), np.uint8)
    for number, frame in enumerate(mask):
        frame[20:140, 5 * number : 5 * number + 80] = 255
    write_video(work / "moving-mask.mp4", mask, FPS)


def run_command(arguments: Sequence[str], work: Path) -> None:
    """Run `lumiere` in the work folder, with the demo weights.

    Raises:
        DataError: if it fails; it has said why.
    """
    print(shlex.join(["lumiere", *arguments]), flush=True)
    command = [sys.executable, "-m", "lumiere.cli", *arguments, "--model", "demo"]
    env = {**os.environ, "PYTHONPATH": str(DOCS.parent), "LUMIERE_PRETRAINED": str(PRETRAINED)}
    if subprocess.run(command, cwd=work, env=env).returncode:
        raise DataError(f"lumiere {arguments[0]} failed", "mend what it says, and call again")


def join(rows: Sequence[Sequence[Path]]) -> np.ndarray:
    """Put videos in rows: (t, h, w, 3). Small ones are enlarged without smoothing.

    Raises:
        DataError: if a video is missing, or the videos have different lengths.
    """
    missing = [path.name for row in rows for path in row if not path.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such video", "make the parts that show them")
    videos = [[read_video(path, FPS) for path in row] for row in rows]
    lengths = {len(video) for row in videos for video in row}
    if len(lengths) > 1:
        raise DataError(f"videos of {sorted(lengths)} frames in one picture", "make them alike")
    side = max(video.shape[1] for row in videos for video in row)
    bands = []
    for row in videos:
        padded = [np.pad(enlarge(video, side), PADDING, constant_values=255) for video in row]
        bands.append(np.concatenate(padded, axis=2))
    return np.concatenate(bands, axis=1)[:, :-GAP, :-GAP]


def enlarge(video: np.ndarray, side: int) -> np.ndarray:
    """Repeat pixels of a square video (t, h, w, 3) up to a side."""
    factor = side // video.shape[1]
    return video.repeat(factor, axis=1).repeat(factor, axis=2)


def save_moving(frames: np.ndarray, path: Path) -> None:
    """Write frames (t, h, w, 3) as an animated WebP that repeats for ever."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=round(1000 / FPS),
        loop=0,
        quality=QUALITY,
        method=6,
    )


def make(names: Sequence[str], parts: dict[str, Part], work: Path) -> None:
    """Make pictures by their names; `modes` is the overview."""
    for name in names:
        if name == OVERVIEW.stem:
            rows = [[work / parts[part].videos[-1] for part in row] for row in OVERVIEW_ROWS]
            path = OVERVIEW
        else:
            part = parts[name]
            for command in part.commands:
                run_command(command, work)
            rows, path = [[work / video for video in part.videos]], part.path
        save_moving(join(rows), path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def run(parser: argparse.ArgumentParser) -> None:
    """Make the chosen parts."""
    arguments = parser.parse_args()
    parts = read_parts(PAGE.read_text(encoding="utf-8"))
    names = [*parts, OVERVIEW.stem]
    if arguments.list:
        print("\n".join(names))
        return
    unknown = sorted(set(arguments.parts) - set(names))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; allowed: {', '.join(names)}")
    work = arguments.work.absolute()
    write_inputs(work, DOCS.parent / "data/raw")
    make(arguments.parts or names, parts, work)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="what to make (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("gallery"),
        help="folder for the videos (default: gallery)",
    )
    run_program(lambda: run(parser))


if __name__ == "__main__":
    main()
