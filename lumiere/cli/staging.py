"""Writes files completely or not at all: it writes them to a hidden folder, then renames them
into place together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

Move = tuple[Path | None, Path]
"""A new file or folder and its place; None empties the place."""


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder in `folder`, for files that are not finished yet.

    `folder` is made if it is missing, and removed again if an error leaves it empty.
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
    """Make all moves in order, by renaming. If one fails, undo those already made.

    Args:
        moves: files and folders on one disk.
        aside: a folder on that disk, to which the previous files are moved.
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
    """Rename a file, or give it a second name, so that it stays in place even if the run is killed.

    A folder cannot have two names, nor can a file on some disks.
    """
    if leave:
        with suppress(OSError):
            os.link(place, old, follow_symlinks=False)
            return
    os.rename(place, old)
