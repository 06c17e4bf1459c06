"""A folder of captioned pictures: `captions.csv` with the columns image, caption, beside the picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.tables import read_table


def load_captioned_folder(folder: Path, size: int) -> tuple[np.ndarray, list[str]]:
    """Pictures on white, centre-cropped and resized, with their captions.

    Args:
        folder: holds `captions.csv` and the pictures it names.
        size: side of the result, pixels.

    Returns:
        uint8 (n, size, size, 3) and n sentences, in the file's order.

    Raises:
        ValueError: naming what is missing or unreadable.
    """
    listing = folder / "captions.csv"
    if not listing.is_file():
        raise ValueError(
            f"{listing}: no such file; a style is a folder with captions.csv (image,caption) and its pictures"
        )
    rows = read_table(listing, ("image", "caption"))
    for line, row in rows:
        for column, cure in (
            ("image", "name a picture in the same folder"),
            ("caption", "say what the picture shows"),
        ):
            if not row[column]:
                raise ValueError(f"{listing}, line {line}: the {column} is empty; {cure}")
    return np.stack([_read(folder / row["image"], size) for _, row in rows]), [
        row["caption"] for _, row in rows
    ]


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path}: not a readable picture: {error}") from None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize(
        (size, size), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB"))
