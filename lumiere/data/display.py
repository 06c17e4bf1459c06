"""Turns decoded frames into pictures as a player shows them.

A stored frame is not yet the picture. The file may ask for a rotation or a mirroring (display
matrix), for pixels that are not square (sample aspect ratio), and for transparency (alpha), under
which stored colours are arbitrary. Every reader of videos goes through `Display`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

BACKGROUND = 255  # transparent pixels show white, as in pictures of styles
ONE = 1 << 16  # the display matrix has 16 fractional bits
IDENTITY = ((1, 0), (0, 1))
ALPHA_CODECS = frozenset({"vp8", "vp9"})  # store alpha beside the picture and not in its format

Matrix = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Display:
    """How the frames of a stream are shown.

    Attributes:
        matrix: ((a, b), (c, d)) of zeros and signed ones: a stored pixel (x, y) is shown at
            (a x + c y, b x + d y), with x to the right and y down.
        pixel_aspect: width of a pixel divided by its height.
        has_alpha: whether pixels may be transparent.
    """

    matrix: Matrix = IDENTITY
    pixel_aspect: Fraction = Fraction(1)
    has_alpha: bool = False

    @property
    def notes(self) -> list[str]:
        """What differs from the stored frames, in words."""
        notes = []
        if self.matrix != IDENTITY:
            notes.append("rotated or mirrored")
        if self.pixel_aspect != 1:
            notes.append(f"pixels of {self.pixel_aspect.numerator}:{self.pixel_aspect.denominator}")
        if self.has_alpha:
            notes.append("transparent")
        return notes

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) at which stored frames of a size are shown."""
        width, height = square_pixels(width, height, self.pixel_aspect)
        return (height, width) if self.matrix[0][0] == 0 else (width, height)

    def picture(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        """Convert a decoded frame to uint8 (h, w, 3), RGB, as shown.

        Args:
            frame: of the stream that this describes.
            reformatter: shared by all frames of a stream, because one per frame is half as fast.
        """
        width, height = square_pixels(frame.width, frame.height, self.pixel_aspect)
        kind = "rgba" if self.has_alpha else "rgb24"
        if (width, height) == (frame.width, frame.height):
            converted = reformatter.reformat(frame, format=kind)
        else:
            converted = reformatter.reformat(frame, width, height, kind, interpolation="BICUBIC")
        pixels = converted.to_ndarray()
        if self.has_alpha:
            pixels = on_background(pixels)
        return turned(pixels, self.matrix)


def display_of(stream: av.VideoStream, frame: av.VideoFrame) -> Display:
    """Read how a stream is shown, from its header and its first frame."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    # Only the header says so: the native decoders of these codecs leave alpha out.
    if stream.codec_context.codec.canonical_name in ALPHA_CODECS:
        has_alpha = has_alpha or stream.metadata.get("alpha_mode") == "1"
    return Display(_matrix_of(frame), aspect if aspect > 0 else Fraction(1), has_alpha)


def square_pixels(width: int, height: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """Return the (width, height) that show a frame with square pixels; neither side shrinks."""
    if pixel_aspect >= 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def on_background(pixels: np.ndarray) -> np.ndarray:
    """Put uint8 (h, w, 4) with straight alpha on white: uint8 (h, w, 3)."""
    alpha = pixels[..., 3:].astype(np.uint16)
    blend = pixels[..., :3] * alpha + BACKGROUND * (255 - alpha) + 127
    return (blend // 255).astype(np.uint8)


def turned(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Apply a display matrix to (h, w, c)."""
    (a, b), (c, d) = matrix
    if a == 0:  # x is shown along y: transposing shows stored x at y, and stored y at x
        pixels = pixels.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    if flip_x:
        pixels = pixels[:, ::-1]
    if flip_y:
        pixels = pixels[::-1]
    return pixels


def _matrix_of(frame: av.VideoFrame) -> Matrix:
    """Return the display matrix without its scale; the identity if it is oblique or absent."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return IDENTITY
    numbers = np.frombuffer(bytes(data), "<i4", count=9).reshape(3, 3)[:2, :2] / ONE
    a, b, c, d = (int(number) for number in np.sign(numbers).ravel())
    straight = abs(numbers[0, 1]) + abs(numbers[1, 0]) < 0.01
    quarter = abs(numbers[0, 0]) + abs(numbers[1, 1]) < 0.01
    if straight and a and d:
        return (a, 0), (0, d)
    if quarter and b and c:
        return (0, b), (c, 0)
    return IDENTITY
