"""Small videos for the tests of the evaluation, and folders of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.video_io import read_video, write_video

RAW = Path(__file__).parents[2] / "data" / "raw"
FPS = 8


def drifting(seed: int, num_frames: int = 4, height: int = 24, width: int = 24) -> np.ndarray:
    """Blocks of random colours that move to the right, a pixel a frame: uint8 (t, h, w, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    scene = blocks.repeat(6, axis=0).repeat(6, axis=1)
    frames = [np.roll(scene, k, axis=1)[:height, :width] for k in range(num_frames)]
    return np.stack(frames)


@cache
def real_clip(name: str, num_frames: int, start: int = 0, side: int = 40) -> np.ndarray:
    """Frames of a video of the sample data, small: uint8 (t, side, side, 3)."""
    frames = read_video(RAW / f"{name}.mp4")[start : start + num_frames, ::4, ::4][:, :side, :side]
    frames.setflags(write=False)
    return frames


def write_folder(folder: Path, videos: Mapping[str, np.ndarray], fps: int = FPS) -> Path:
    """Write videos by their file names."""
    for name, frames in videos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            pictures = [Image.fromarray(frame) for frame in frames]
            pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 / fps)
        else:
            write_video(path, frames, fps)
    return folder
