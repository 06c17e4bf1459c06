"""Tiny videos whose frames carry their own number, in every shape that a decoder gets wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, BLOCK = 64, 96, 8
NUM_BITS = WIDTH // BLOCK  # the bottom row of blocks spells the number in binary


def numbered_frame(
    number: int, subject: int = 0, height: int = HEIGHT, width: int = WIDTH
) -> np.ndarray:
    """uint8 (h, w, 3): a disc that moves with `number`, on a background that depends on `subject`, over the number."""
    y, x = np.mgrid[:height, :width]
    generator = np.random.default_rng(subject)
    texture = generator.integers(60, 200, (height // 16, width // 16, 3), dtype=np.uint8)
    frame = np.repeat(np.repeat(texture, 16, axis=0), 16, axis=1)
    disc = (x - (20 + 3 * number) % width) ** 2 + (y - 24) ** 2 < 100
    frame[disc] = generator.integers(0, 255, 3)
    for bit in range(NUM_BITS):
        frame[-BLOCK:, bit * BLOCK : (bit + 1) * BLOCK] = 235 if number >> bit & 1 else 16
    return frame


def numbered(count: int, subject: int = 0, first: int = 0, **size: int) -> np.ndarray:
    """uint8 (t, h, w, 3) with the numbers first, first + 1, ..."""
    return np.stack([numbered_frame(first + number, subject, **size) for number in range(count)])


def read_number(frame: np.ndarray) -> int:
    """The number that a frame of the original size shows."""
    row = frame[-BLOCK + 2 : -2].mean(axis=(0, 2)).reshape(NUM_BITS, BLOCK)[:, 2:-2].mean(axis=1)
    return int(((row > 128) << np.arange(NUM_BITS)).sum())


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers of (t, h, w, 3)."""
    return [read_number(frame) for frame in frames]


def encode(
    path: Path,
    frames: np.ndarray,
    fps: Fraction | int = 16,
    codec: str = "libx264",
    times: Sequence[Fraction] | None = None,
    **options: str,
) -> Path:
    """A video file; `times` in seconds makes the frame rate vary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "12", **options} if codec in ("libx264", "libx265") else options
    if codec == "libx265":
        options["x265-params"] = options.pop("x265", "") + ":log-level=none:pools=1:frame-threads=1"
    base = Fraction(1, 90_000)
    # The table in front, so that a file cut short can still be opened.
    muxing = {"movflags": "+faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = base
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i] / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def open_gop(path: Path, frames: np.ndarray) -> Path:
    """x265's default kind of file: pictures shown before the keyframe that precedes them in the file."""
    return encode(
        path, frames, codec="libx265", x265="open-gop=1:keyint=12:min-keyint=6:scenecut=0:bframes=3"
    )


def cut_by_edit_list(path: Path, source: Path, num_frames: int, fps: int = 16) -> Path:
    """`source` with its edit list moved, so that players skip its first frames, as after `-ss -c copy`."""
    content = bytearray(source.read_bytes())
    entry = content.index(b"elst") + 4 + 4 + 4  # past the name, version and flags, and the count
    assert content[entry - 8] == 0, "only version 0 is known here"
    timescale = int.from_bytes(content[content.index(b"mdhd") + 16 :][:4], "big")
    media_time = (
        int.from_bytes(content[entry + 4 : entry + 8], "big") + num_frames * timescale // fps
    )
    content[entry + 4 : entry + 8] = media_time.to_bytes(4, "big")
    path.write_bytes(content)
    return path


def rotated(path: Path, source: Path) -> Path:
    """`source` with a display matrix of a quarter turn, as phones write it."""
    content = bytearray(source.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    values = (0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in values
    )
    path.write_bytes(content)
    return path


def truncated(path: Path, source: Path, share: float) -> Path:
    """The first part of a file whose table stands in front."""
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def audio_only(path: Path) -> Path:
    """An mp4 without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in itertools.count(0, 1024):
            if start > 16_000:
                break
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
