"""Turns pictures upright."""

from __future__ import annotations

import struct

from PIL import Image, ImageOps


def upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says; ignore EXIF that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, struct.error):
        return picture
