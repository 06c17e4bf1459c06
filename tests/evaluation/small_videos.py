"""Small videos for the tests of the evaluation, and folders of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from lumiere.data.shards import Sample, pack_frames, write_index, write_shards
from lumiere.data.video_io import read_video, write_video

RAW = Path(__file__).parents[2] / "data" / "raw"
FPS = 8
Clip = tuple[str, np.ndarray, list[str]]
"""The id of a decoded clip, its frames and its captions."""


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


def write_clips(folder: Path, clips: Sequence[Clip], num_validation: int) -> None:
    """Write what the decode stage writes; the last `num_validation` clips are held out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    samples = [
        Sample(
            pack_frames(frames),
            np.zeros((1, 4, 8), np.float16),
            np.ones((1, 4), np.uint8),
            {
                "clip_id": clip_id,
                "video": f"{clip_id}.mp4",
                "start": 0.0,
                "captions": captions,
                "fps": 16,
            },
        )
        for clip_id, frames, captions in clips
    ]
    cut = len(samples) - num_validation
    splits = {"train": write_shards(folder, "train", samples[:cut], 64)}
    splits["validation"] = write_shards(folder, "validation", samples[cut:], 64)
    num_frames, size = clips[0][1].shape[:2]
    write_index(
        folder, splits, fps=16, num_frames=num_frames, size=size, text_encoder="minilm",
        embed_dim=8, max_text_tokens=4,
    )  # fmt: skip


class Patches:
    """A frame backbone without weights: the mean colours of 4 × 4 blocks."""

    name = "patches"
    preprocessing = "Mean colours of 4 × 4 blocks."
    weights = SimpleNamespace(describe=lambda: "No weights.")
    identity = "patches"

    def embed(self, frames: np.ndarray) -> np.ndarray:
        t, h, w, c = frames.shape
        blocks = frames.reshape(t, 4, h // 4, 4, w // 4, c).mean(axis=(2, 4))
        values: np.ndarray = blocks.reshape(t, -1).astype(np.float32) / 255
        return values
