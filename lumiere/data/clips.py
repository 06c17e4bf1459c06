"""Training clips by random access, the order in which to take them, and the way into model range."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lumiere.data.shards import read_index, read_sample


@dataclass(frozen=True)
class Clip:
    """A training clip.

    Attributes:
        clip_id: video's stem, shot and window, such as `horse@1`.
        frames: uint8 (t, h, w, c).
        captions: k sentences.
        prompt_embeds: float16 (k, n, d), row i belongs to captions[i].
        prompt_mask: uint8 (k, n), 1 = attend.
        video: path of its source, relative to the raw folder.
        start: where in the source it begins, seconds.
    """

    clip_id: str
    frames: np.ndarray
    captions: list[str]
    prompt_embeds: np.ndarray
    prompt_mask: np.ndarray
    video: str
    start: float


class ClipStore:
    """The clips of one split, read one at a time; holds no open file, so it may be forked and pickled.

    Args:
        folder: what the decode stage wrote.
        split: "train" or "validation".
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder)
        index = read_index(folder)
        if split not in index["splits"]:
            raise ValueError(f"split is {split!r}; allowed: {', '.join(sorted(index['splits']))}")
        self.split = split
        self.entries = index["splits"][split]
        self.fps: int = index["fps"]
        self.num_frames: int = index["num_frames"]
        self.size: int = index["size"]
        self.text_encoder: str = index["text_encoder"]
        self.embed_dim: int = index["embed_dim"]
        self.max_text_tokens: int = index["max_text_tokens"]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Clip:
        sample = read_sample(self.folder, self.entries[i])
        info = sample.info
        assert info["clip_id"] == self.entries[i]["clip_id"], "the index and its shards are of different runs"
        return Clip(
            clip_id=info["clip_id"],
            frames=sample.frames,
            captions=info["captions"],
            prompt_embeds=sample.prompt_embeds,
            prompt_mask=sample.prompt_mask,
            video=info["video"],
            start=info["start"],
        )


def batch_indices(
    num_items: int, batch_size: int, step: int, seed: int, rank: int = 0, world_size: int = 1
) -> list[int]:
    """The items of one rank's batch at one step: a pure function, so that a resumed run sees the same data.

    The ranks' batches follow each other in one endless stream of epochs; each epoch is a new permutation that
    holds every item once. A batch may span two epochs, so none is ever short.
    """
    if num_items < 1:
        raise ValueError("there are no clips to draw batches from")
    first = (step * world_size + rank) * batch_size
    positions = range(first, first + batch_size)
    return [int(_permutation(num_items, seed, p // num_items)[p % num_items]) for p in positions]


def to_model_range(frames: np.ndarray) -> torch.Tensor:
    """uint8 (t, h, w, c) in [0, 255] -> float32 (c, t, h, w) in [-1, 1]."""
    video = torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)  # a copy: the source may be read-only
    return video.float() / 127.5 - 1


def from_model_range(video: torch.Tensor) -> np.ndarray:
    """float (c, t, h, w) in [-1, 1] -> uint8 (t, h, w, c), the inverse of `to_model_range`; clamps."""
    video = ((video.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return video.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def resize_video(video: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Each frame resized, without aliasing.

    A whole factor down is the mean over boxes; any other factor is bilinear with antialias.

    Args:
        video: (b, c, t, h, w), any range.
        size: side in pixels, or (height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    b, c, t, h, w = video.shape
    if (h, w) == (height, width):
        return video
    frames = video.transpose(1, 2).reshape(b * t, c, h, w)
    if h % height == 0 and w % width == 0:
        frames = F.interpolate(frames, size=(height, width), mode="area")
    else:
        frames = F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return frames.reshape(b, t, c, height, width).transpose(1, 2)


@functools.lru_cache(maxsize=8)
def _permutation(num_items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_items)
