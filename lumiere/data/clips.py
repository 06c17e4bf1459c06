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
from lumiere.data.frame_sizes import as_sizes
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

    Attributes:
        sizes: (height, width) of the clips in pixels; the main size first, see `frame_sizes`.

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
        self.sizes = as_sizes(index["size"])
        self._shard_facts: dict[str, Any] = index.get("shards", {})
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
    def buckets(self) -> list[int]:
        """The place of each clip's size in `sizes`."""
        if len(self.sizes) == 1:
            return [0] * len(self)
        if isinstance(self.entries, MappedEntries):
            return self.entries.buckets()
        return [self._shard_facts[entry["tar"]]["bucket"] for entry in self.entries]

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


def epoch_length(buckets: Sequence[int], batch_size: int) -> int:
    """Return how many clips an epoch of `batch_order` has."""
    counts = np.unique(np.asarray(buckets, np.int64), return_counts=True)[1].tolist()
    if len(counts) < 2:
        return len(buckets)
    return sum(-(-count // batch_size) * batch_size for count in counts)


def batch_order(
    shards: Sequence[str],
    buckets: Sequence[int],
    seed: int,
    epoch: int,
    buffer: int,
    batch_size: int,
) -> np.ndarray:
    """Return the order of one epoch, in which every batch has clips of one size.

    With one size, it is `clip_order`. With several, the clips of each size are divided into batches
    in that order, and the batches follow each other as their first clips do. If the last batch of
    a size is not full, clips from the beginning of that size's order fill it.

    Args:
        shards, seed, epoch, buffer: as in `clip_order`.
        buckets: the size of each clip.
        batch_size: clips in a batch, over all processes.
    """
    order = clip_order(shards, seed, epoch, buffer)
    sizes = np.asarray(buckets, np.int64)
    if len(np.unique(sizes)) < 2:
        return order
    places = np.argsort(order)  # of each clip in the order
    batches: list[np.ndarray] = []
    for bucket in np.unique(sizes):
        own = order[sizes[order] == bucket]
        count = -(-len(own) // batch_size)
        batches += list(np.resize(own, count * batch_size).reshape(count, batch_size))
    return np.concatenate(sorted(batches, key=lambda batch: int(places[batch[0]])))


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
