"""Reads a folder of pictures and `captions.csv`, which has the columns image and caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.frame_sizes import Size, as_sizes, fitting_part
from lumiere.data.pictures import as_shown, cannot_be_shown
from lumiere.data.tables import read_table
from lumiere.errors import DataError, one_line


def load_captioned_folder(folder: Path, size: int | Size) -> tuple[np.ndarray, list[str]]:
    """Read pictures as they are shown, crop their centre, resize it and put it on white.

    Args:
        folder: holds `captions.csv` and the pictures it names.
        size: of the result in pixels: the side of a square, or (height, width).

    Returns:
        uint8 (n, h, w, 3) and n sentences, in the file's order.

    Raises:
        DataError: if the folder has no captions.csv, a cell is empty, or a picture cannot be read.
    """
    listing = folder / "captions.csv"
    if not listing.is_file():
        raise DataError(
            f"{listing}: no such file; a style is a folder with captions.csv (image,caption) and its pictures"
        )
    rows = read_table(listing, ("image", "caption"))
    for line, row in rows:
        for column, cure in (
            ("image", "name a picture in the same folder"),
            ("caption", "say what the picture shows"),
        ):
            if not row[column]:
                raise DataError(f"{listing}, line {line}: the {column} is empty; {cure}")
    (shape,) = as_sizes(size)
    pictures = [_read(folder / row["image"], shape) for _, row in rows]
    return np.stack(pictures), [row["caption"] for _, row in rows]


def _read(path: Path, size: Size) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            opened.load()
            problem = cannot_be_shown(opened)
            picture = opened if problem else as_shown(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not a readable picture: {one_line(error)}",
            cure="replace it or remove its row",
        ) from None
    if problem:
        raise DataError(f"{path}: {problem}")
    height, width = fitting_part((picture.height, picture.width), size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB"))
