"""Videos as animated WebP, which every browser plays in a loop without a codec or a script.

H.264 is missing from some builds of Chromium, and a <video> needs a script to loop in step with its
neighbour.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

SHOWN_SIDE = 128  # pixels; smaller videos are enlarged by the browser, without smoothing
MAX_SIDE = 256  # pixels of the longer side; larger videos are made smaller
LOSSLESS_SIDE = 64  # pixels; larger videos are compressed with loss
QUALITY = 80
MIN_MILLISECONDS = 11  # browsers slow down pictures that change faster


@dataclass(frozen=True)
class Picture:
    """An encoded picture.

    Attributes:
        data: the file.
        kind: "webp" or "png".
        width, height: its size in pixels.
    """

    data: bytes
    kind: str
    width: int
    height: int

    def uri(self) -> str:
        """Return the picture as a data: URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"

    def shown_width(self, side: int = SHOWN_SIDE) -> int:
        """Return the width on the page: a whole multiple of the picture's, near `side` if it is small."""
        return self.width * max(1, side // max(self.width, self.height))


def animation(frames: np.ndarray, fps: float) -> Picture:
    """Encode a video as animated WebP: without loss if it is small, at most MAX_SIDE pixels large.

    Args:
        frames: uint8 (t, h, w, 3), RGB.
        fps: frames per second.
    """
    _check(frames)
    if not fps > 0:
        raise ValueError(f"fps is {fps}; expected more than 0")
    images = [Image.fromarray(frame) for frame in _fitted(frames)]
    ends = [round(1000 * (k + 1) / fps) for k in range(len(images))]
    # Round the times rather than the durations, so that the video keeps its length.
    durations = np.maximum(np.diff([0, *ends]), MIN_MILLISECONDS).tolist()
    return _encoded(images, duration=durations, loop=0)


def still(frames: np.ndarray) -> Picture:
    """Encode the middle frame, for readers who stop the videos."""
    _check(frames)
    return _encoded([Image.fromarray(frame) for frame in _fitted(frames[len(frames) // 2][None])])


def png(image: np.ndarray) -> Picture:
    """Encode one picture, uint8 (h, w, 3), without loss."""
    image = np.ascontiguousarray(image)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return Picture(stream.getvalue(), "png", image.shape[1], image.shape[0])


def _encoded(images: list[Image.Image], **options: object) -> Picture:
    width, height = images[0].size
    lossless = max(width, height) <= LOSSLESS_SIDE
    stream = io.BytesIO()
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    else:
        options = {}
    images[0].save(
        stream, "WEBP", lossless=lossless, quality=QUALITY, method=4, exact=True, **options
    )
    return Picture(stream.getvalue(), "webp", width, height)


def _fitted(frames: np.ndarray) -> np.ndarray:
    """Make frames smaller until the longer side fits, by area."""
    height, width = frames.shape[1:3]
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(frames)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; expected uint8 (t, h, w, 3) with t of at "
            "least 1"
        )
