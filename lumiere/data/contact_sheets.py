"""Draws pictures of videos: contact sheets and x-t slices, for reports and for `dvc plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def contact_sheet(
    frames: np.ndarray | Sequence[np.ndarray],
    columns: int = 8,
    labels: Sequence[str] | None = None,
    gap: int = 2,
) -> Image.Image:
    """Put frames side by side, row by row.

    Args:
        frames: uint8 (t, h, w, 3), or a sequence of equally large (h, w, 3).
        columns: frames per row.
        labels: a line of text under each frame.
        gap: pixels between frames.
    """
    if not len(frames):
        raise ValueError("a contact sheet needs at least one frame")
    columns = min(columns, len(frames))
    height, width = frames[0].shape[:2]
    line = 13 if labels is not None else 0
    rows = -(-len(frames) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + gap) - gap, rows * (height + line + gap) - gap), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for i, frame in enumerate(frames):
        x, y = i % columns * (width + gap), i // columns * (height + line + gap)
        sheet.paste(Image.fromarray(np.asarray(frame)), (x, y))
        if labels is not None:
            # The embedded font is about 6 pixels a letter; longer text would run into the
            # neighbour.
            draw.text((x + 1, y + height + 1), labels[i][: max(1, width // 6)], fill="black")
    return sheet


def xt_slice(frames: np.ndarray, row: int | None = None, scale: int = 4) -> Image.Image:
    """Draw one image row over time: x runs right and time runs down, so that motion becomes curves and jumps steps.

    Args:
        frames: uint8 (t, h, w, 3).
        row: the image row; the middle one by default.
        scale: pixels per frame, downwards.
    """
    frames = np.asarray(frames)
    lines = frames[:, frames.shape[1] // 2 if row is None else row]  # (t, w, 3)
    return Image.fromarray(np.repeat(lines, scale, axis=0))


def save_picture(image: Image.Image, path: str | Path) -> None:
    """Write a PNG or JPEG without time or software, so that the same picture gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {"optimize": True}
    image.save(path, **options)
