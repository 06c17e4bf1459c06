"""Gives random access to training clips, sets their order in an epoch, and resizes videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lumiere.data.clip_index import MappedEntries
from lumiere.data.shards import (
    ALL,
    check_shards,
    entries_of,
    read_frames,
    read_index,
    read_info,
    read_null_text,
    read_text,
)


@dataclass(frozen=True)
class Clip:
    """A training clip.

    Attributes:
        clip_id: stem of the video, shot and window, such as `horse@1`.
        frames: uint8 (t, h, w, c).
        captions: k sentences.
        prompt_embeds: float16 (k, n, d); row i belongs to captions[i].
        prompt_mask: uint8 (k, n), 1 = attend.
        video: path of the source video, relative to the raw folder.
        start: where the clip begins in the source, in seconds.
    """

    clip_id: str
    frames: np.ndarray
    captions: list[str]
    prompt_embeds: np.ndarray
    prompt_mask: np.ndarray
    video: str
    start: float


class ClipStore:
    """The clips of one split, read one at a time. It keeps no file open, so it can be forked and
    pickled.

    Args:
        folder: the output of the decode stage.
        split: "train" or "validation".

    Raises:
        DataError: if the folder holds no finished shards, or shards in an older format, or one is
            incomplete.
        ValueError: if there is no such split.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder)
        index = read_index(folder)
        if split not in index["splits"]:
            raise ValueError(f"split is {split!r}; allowed: {', '.join(sorted(index['splits']))}")
        self.split = split
        self.entries = entries_of(self.folder, index, split)
        self.fps: int = index["fps"]
        self.num_frames: int = index["num_frames"]
        self.size: int = index["size"]
        self.text_encoder: str = index["text_encoder"]
        self.embed_dim: int = index["embed_dim"]
        self.max_text_tokens: int = index["max_text_tokens"]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def shards(self) -> list[str]:
        """The shard of each clip."""
        if isinstance(self.entries, MappedEntries):
            return self.entries.tars()
        return [entry["tar"] for entry in self.entries]

    @property
    def text_bytes(self) -> int:
        """The size of all captions' embeddings as stored."""
        if isinstance(self.entries, MappedEntries):
            return self.entries.text_bytes()
        return sum(entry["members"]["text.npz"][1] for entry in self.entries)

    def null_text(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the empty sentence: states float16 (n, d) and mask uint8 (n,)."""
        return read_null_text(self.folder)

    def frames(self, i: int, frames: slice = ALL) -> np.ndarray:
        """Read the frames of a clip, or only those of a slice, uint8 (t, h, w, c)."""
        return read_frames(self.folder, self._entry(i), frames)

    def text(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the captions of a clip: states float16 (k, n, d) and masks uint8 (k, n)."""
        return read_text(self.folder, self._entry(i))

    def _entry(self, i: int) -> dict[str, Any]:
        """Return the entry of a clip. Of many clips, a shard is checked when it is first read."""
        if isinstance(self.entries, MappedEntries):
            check_shards(self.folder, self.entries.shard_of(i))
        return self.entries[i]

    def __getitem__(self, i: int) -> Clip:
        entry = self._entry(i)
        info = read_info(self.folder, entry)
        assert info["clip_id"] == entry["clip_id"], "the index and its shards are of different runs"
        embeds, mask = self.text(i)
        return Clip(
            clip_id=info["clip_id"],
            frames=self.frames(i),
            captions=info["captions"],
            prompt_embeds=embeds,
            prompt_mask=mask,
            video=info["video"],
            start=info["start"],
        )


def clip_order(shards: Sequence[str], seed: int, epoch: int, buffer: int) -> np.ndarray:
    """Return the order of one epoch: shards in random order, then clips shuffled in blocks of
    `buffer`.

    Clips that are read one after the other lie in few shards, so that reading stays nearly
    sequential. The function is pure, so a resumed run and any number of processes see the same
    data.

    Args:
        shards: the shard of each clip; clips of a shard follow each other.
        seed, epoch: determine the order.
        buffer: how many clips are shuffled among each other; if it is the number of all clips, any
            order is possible.
    """
    random = np.random.default_rng([seed, epoch])
    first = np.flatnonzero([i == 0 or shards[i] != shards[i - 1] for i in range(len(shards))])
    groups = np.split(np.arange(len(shards)), first[1:])
    order = np.concatenate([groups[i] for i in random.permutation(len(groups))])
    # The blocks start at another position in each epoch, so that neighbours do not stay neighbours.
    start = int(random.integers(buffer)) if buffer < len(order) else 0
    for block in np.split(order, range(start, len(order), buffer)):
        random.shuffle(block)
    return order


def resize_video(video: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Resize each frame without aliasing.

    Downscaling by a whole factor averages over boxes; any other factor uses bilinear interpolation
    with antialiasing.

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
        frames = F.interpolate(
            frames, size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
    return frames.reshape(b, t, c, height, width).transpose(1, 2)
