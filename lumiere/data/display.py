"""Turns decoded frames into pictures as a player shows them.

A stored frame is not yet the picture. The file may ask for a rotation or a mirroring (display
matrix), for pixels that are not square (sample aspect ratio), and for transparency (alpha), under
which stored colours are arbitrary. Its brightness may be coded for HDR screens, and its rows may
belong to two fields of different times. Every reader of videos goes through `Display`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from lumiere.errors import VideoError

BACKGROUND = 255  # transparent pixels show white, as in pictures of styles
ONE = 1 << 16  # the display matrix has 16 fractional bits
IDENTITY = ((1, 0), (0, 1))
# Transfer characteristics of HDR, by their numbers in ITU-T H.273.
HDR = {16: "PQ", 18: "HLG"}
UNSPECIFIED, BT2020 = 2, 9  # of primaries and of the matrix, in H.273
# FFmpeg's scaler maps the tones so that highlights keep their detail.
TONE_MAPPING = "out_transfer=bt709:out_primaries=bt709:intent=perceptual"
SMALL_PICTURE = 256 * 256  # pixels; up to there, areas are shrunk exactly, in any proportion
INTERLACED = "interlaced"  # the note
MOST_STRETCHED = 8  # a pixel's longer side by its shorter one; real videos go up to 3
ALPHA_CODECS = frozenset({"vp8", "vp9"})  # store alpha beside the picture and not in its format

Matrix = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Display:
    """Describes how the frames of a stream are shown.

    Attributes:
        matrix: ((a, b), (c, d)) of zeros and signed ones: a stored pixel (x, y) is shown at
            (a x + c y, b x + d y), with x to the right and y down.
        pixel_aspect: width of a pixel divided by its height.
        has_alpha: whether pixels may be transparent.
        hdr: "PQ" or "HLG"; empty for standard dynamic range.
        is_interlaced: whether even and odd rows show different times in the first frames.
    """

    matrix: Matrix = IDENTITY
    pixel_aspect: Fraction = Fraction(1)
    has_alpha: bool = False
    hdr: str = ""
    is_interlaced: bool = False

    @property
    def notes(self) -> list[str]:
        """The differences from the stored frames, in words."""
        notes = []
        if self.matrix != IDENTITY:
            notes.append("rotated or mirrored")
        if self.pixel_aspect != 1:
            notes.append(f"pixels of {self.pixel_aspect.numerator}:{self.pixel_aspect.denominator}")
        if self.has_alpha:
            notes.append("transparent")
        if self.hdr:
            notes.append(f"HDR ({self.hdr})")
        if self.is_interlaced:
            notes.append(INTERLACED)
        return notes

    @property
    def are_rows_shown(self) -> bool:
        """Return whether the rows of a stored frame are shown as rows, and not as columns."""
        return self.matrix[0][0] != 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) at which stored frames of a size are shown."""
        width, height = square_pixels(width, height, self.pixel_aspect)
        return (width, height) if self.are_rows_shown else (height, width)

    def picture(self, frame: av.VideoFrame, converter: Converter) -> np.ndarray:
        """Convert a decoded frame to uint8 (h, w, 3), RGB, as shown.

        Args:
            frame: of the stream that this describes, without interlacing.
            converter: shared by all frames of a stream.
        """
        if self.hdr:
            frame = converter.tone_mapped(frame)
        reformatter = converter.reformatter
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

    def thumbnail(self, frame: av.VideoFrame, converter: Converter, side: int) -> np.ndarray:
        """Convert a decoded frame to a small square, uint8 (side, side, 3), RGB, as shown but
        squashed.

        FFmpeg's scaler averages the areas of pixels before it converts their colours, which costs a
        fifteenth of converting a large picture and shrinking it. Where that order would be wrong,
        with alpha and HDR, and where a picture is small, it is converted first.

        Args:
            frame, converter: see `picture`.
            side: pixels.
        """
        is_small = frame.width * frame.height <= SMALL_PICTURE
        is_small = is_small or min(frame.width, frame.height) < side
        if is_small or self.has_alpha or self.hdr:
            picture = self.picture(frame, converter)
            return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        # Planar RGB, because the scaler halves the colours' resolution of packed RGB.
        small = converter.thumbnails.reformat(frame, side, side, "gbrp", interpolation="AREA")
        return np.ascontiguousarray(turned(small.to_ndarray(), self.matrix))


class Converter:
    """Converts the frames of a stream, which share it, because one per frame is half as fast."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self.thumbnails = VideoReformatter()
        self._tone_mapping: FilterChain | None = None

    def tone_mapped(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Map an HDR frame to the brightness and the colours of BT.709."""
        if frame.color_primaries == UNSPECIFIED:
            frame.color_primaries = BT2020
        if frame.colorspace == UNSPECIFIED:
            frame.colorspace = BT2020
        if self._tone_mapping is None:
            self._tone_mapping = FilterChain(frame, ("scale", TONE_MAPPING), ("format", "rgb24"))
        return next(self._tone_mapping.push(frame))


class FilterChain:
    """FFmpeg's filters in a row, for frames of one size and format.

    Attributes:
        time_base: seconds per tick of the frames that are pushed.
    """

    def __init__(self, example: av.VideoFrame, *filters: tuple[str, str]) -> None:
        self._graph = av.filter.Graph()
        self.time_base = Fraction(example.time_base or Fraction(1, 1000))
        node = self._graph.add_buffer(
            width=example.width,
            height=example.height,
            format=example.format,
            time_base=self.time_base,
        )
        for name, arguments in (*filters, ("buffersink", "")):
            following = self._graph.add(name, arguments or None)
            node.link_to(following)
            node = following
        self._graph.configure()

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Push a frame, or None at the end, and yield what comes out."""
        self._graph.push(frame)
        while True:
            try:
                shown = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(shown, av.VideoFrame)
            yield shown


def deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Fill the rows of one field from the other field's neighbours in space and time (bwdif).

    Frames that are not marked as interlaced pass unchanged.

    Yields:
        a frame, and whether it was marked as interlaced.

    Raises:
        VideoError: if the frames change their size.
    """
    before: av.VideoFrame | None = None
    for frame in frames:
        if frame.interlaced_frame:
            # The filter needs the frame before, which has been shown.
            earlier = [] if before is None else [before]
            rest = itertools.chain(earlier, [frame], frames)
            yield from itertools.islice(_filtered(rest), len(earlier), None)
            return
        yield frame, False
        before = frame


def _filtered(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Pass frames, at least one, through the deinterlacer, with times in the same ticks, and say
    whether each was marked as interlaced.
    """
    first = next(frames)
    chain = FilterChain(first, ("bwdif", "mode=send_frame:deint=interlaced"))
    marks: deque[bool] = deque()  # of the frames that are in the filter, which keeps their order
    for frame in itertools.chain([first], frames, [None]):
        if frame is not None:
            marks.append(bool(frame.interlaced_frame))
        if frame is not None and (frame.width, frame.height) != (first.width, first.height):
            raise VideoError("the pictures change their size; convert it to one size")
        for shown in chain.push(frame):
            assert shown.time_base is not None and shown.pts is not None
            ratio = shown.time_base / chain.time_base  # the filter counts in halves
            shown.pts, shown.duration = int(shown.pts * ratio), int((shown.duration or 0) * ratio)
            yield shown, marks.popleft() if marks else False


def display_of(stream: av.VideoStream, frames: Sequence[av.VideoFrame]) -> Display:
    """Read how a stream is shown, from its header and its first frames, at least one.

    Raises:
        VideoError: if its pixels have an absurd shape, which would need absurd memory.
    """
    frame = frames[0]
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if aspect > 0 and not 1 / MOST_STRETCHED <= aspect <= MOST_STRETCHED:
        raise VideoError(f"its pixels are {aspect.numerator}:{aspect.denominator} in shape")
    has_alpha = any(component.is_alpha for component in frame.format.components)
    # Only the header says so: the native decoders of these codecs leave alpha out.
    if stream.codec_context.codec.canonical_name in ALPHA_CODECS:
        has_alpha = has_alpha or stream.metadata.get("alpha_mode") == "1"
    return Display(
        matrix=_matrix_of(frame),
        pixel_aspect=aspect if aspect > 0 else Fraction(1),
        has_alpha=has_alpha,
        hdr=HDR.get(int(frame.color_trc), ""),
        is_interlaced=any(frame.interlaced_frame for frame in frames),
    )


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
