"""Writes videos in the format of the file's suffix: mp4, webm, gif or webp."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lumiere.data.video_io import write_video
from lumiere.data.video_writing import encode


def write_webm(path: Path, frames: np.ndarray, fps: int | float, crf: int = 20) -> None:
    """Write VP9 (yuv420p, constant quality). An odd size gets one more row or column, a copy of
    the last.
    """
    frames = np.pad(
        frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge"
    )
    with av.open(str(path), "w", format="webm", options={"fflags": "+bitexact"}) as container:
        # One thread, as in write_video: the same frames give the same bytes.
        options = {"crf": str(crf), "b": "0", "threads": "1", "row-mt": "0"}
        stream = container.add_stream(
            "libvpx-vp9", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        encode(container, stream, frames)


def write_gif(path: Path, frames: np.ndarray, fps: int | float) -> None:
    """Write an endless GIF, with one palette and no dithering, because either would make still
    parts flicker.
    """
    palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(
        256, dither=Image.Dither.NONE
    )
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    # GIF counts in hundredths of a second.
    pictures[0].save(
        path, "GIF", save_all=True, append_images=pictures[1:], duration=_durations(len(frames), fps, 10),
        loop=0, disposal=1, optimize=False,
    )  # fmt: skip


def write_webp(path: Path, frames: np.ndarray, fps: int | float) -> None:
    """Write an endless animated WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(
        path, "WEBP", save_all=True, append_images=pictures[1:], duration=_durations(len(frames), fps, 1),
        loop=0, quality=90, method=4,
    )  # fmt: skip


def _write_mp4(path: Path, frames: np.ndarray, fps: int | float) -> None:
    write_video(path, frames, Fraction(fps).limit_denominator(1001))


WRITERS: dict[str, Callable[[Path, np.ndarray, int | float], None]] = {
    ".mp4": _write_mp4,
    ".webm": write_webm,
    ".gif": write_gif,
    ".webp": write_webp,
}


def _durations(num_frames: int, fps: int | float, unit: int) -> list[int]:
    """Return the milliseconds per frame, in multiples of `unit`, so that the frames' starts do
    not drift.
    """
    ticks = [round(i * 1000 / fps / unit) for i in range(num_frames + 1)]
    return [max(1, after - before) * unit for before, after in itertools.pairwise(ticks)]
