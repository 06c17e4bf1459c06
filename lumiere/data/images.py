"""A folder of captioned pictures: `captions.csv` with the columns image, caption, beside the picture files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


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
    with listing.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"image", "caption"} <= set(rows[0]):
        raise ValueError(f"{listing}: expected the columns image, caption and at least one row")
    return np.stack([_read(folder / row["image"], size) for row in rows]), [row["caption"] for row in rows]


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path}: not a readable picture: {error}") from None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB"))
