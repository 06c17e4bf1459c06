"""Writes H.264 files that play everywhere."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: str | Path, frames: np.ndarray, fps: int | Fraction, crf: int = 16) -> None:
    """Write an H.264 file (yuv420p, faststart) that plays in browsers; the same frames give the same bytes.

    The file is written under a temporary name and renamed, so that `path` is never incomplete.
    Because yuv420p needs even sizes, the last row or column of an odd size is repeated.

    Args:
        frames: uint8 (t, h, w, c), RGB, with t of at least 1.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; expected uint8 (t, h, w, 3) with t of at least 1"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frames = np.pad(
        frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge"
    )
    try:
        with av.open(
            str(temporary),
            "w",
            format="mp4",
            options={"movflags": "+faststart", "fflags": "+bitexact"},
        ) as container:
            # Use one thread, because the bytes depend on the number of threads. Use no macroblock
            # tree, because its SIMD code reads uninitialised memory for small frames.
            parameters = "colormatrix=smpte170m:mbtree=0"
            options = {
                "crf": str(crf),
                "preset": "medium",
                "threads": "1",
                "x264-params": parameters,
            }
            stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
            stream.height, stream.width, stream.pix_fmt = (
                frames.shape[1],
                frames.shape[2],
                "yuv420p",
            )
            encode(container, stream, frames)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode(
    container: av.container.OutputContainer, stream: av.VideoStream, frames: np.ndarray
) -> None:
    """Encode all frames of a stream, uint8 (t, h, w, 3), RGB."""
    for frame in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        container.mux(stream.encode(picture))
    container.mux(stream.encode())
