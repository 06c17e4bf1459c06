"""Captioned clips and pictures for training. Clips are read from disk when an example needs them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lumiere.data.clips import ClipStore, resize_video
from lumiere.data.frame_sizes import at_side
from lumiere.data.pixel_values import model_to_bytes, to_model_range
from lumiere.data.shards import ALL
from lumiere.errors import DataError
from lumiere.training.seeding import draw_below

Text = tuple[Tensor, Tensor]  # states (n, d) and mask (n,); of k captions (k, n, d) and (k, n)


class Clips(Protocol):
    """Clips by number, each with one or more captions; a picture is a clip of one frame."""

    @property
    def shards(self) -> Sequence[str]:
        """The shard of each clip; clips of one shard are read together."""

    @property
    def buckets(self) -> Sequence[int]:
        """The number of the size of each clip; all 0 if all clips have one size."""

    @property
    def num_frames(self) -> int:
        """The number of frames of each clip."""

    @property
    def null_text(self) -> Text:
        """The text states and mask of the empty sentence, (n, d) and (n,)."""

    def __len__(self) -> int:
        """Return the number of clips."""

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        """Return the frames of a clip, or those of a slice, uint8 (3, t, h, w)."""

    def text(self, i: int) -> Text:
        """Return a clip's captions: states (k, n, d), float16 or float32, and masks (k, n),
        integers.
        """


class StoredClips:
    """The clips of a store, at training size.

    If all clips fit into `cache_mb`, each is read once, completely, and kept in memory. Otherwise
    none is kept, because a shuffled epoch seldom needs a clip again soon, and only the requested
    frames are read.
    """

    def __init__(self, store: ClipStore, size: int, cache_mb: float = 512) -> None:
        """
        Args:
            store: the clips.
            size: pixels of the shorter side of the main size, see `frame_sizes`.
            cache_mb: pixels and texts that a process may keep, in MB of 10^6 bytes.

        Raises:
            DataError: if a side of a clip would not be a whole number of pixels.
        """
        self.store, self.size, self.shards = store, size, store.shards
        try:
            self.sizes = at_side(store.sizes, size)
        except ValueError as error:
            raise DataError(f"{store.folder}: {error}") from None
        self.buckets = store.buckets
        self.num_frames = store.num_frames
        embeds, mask = store.null_text()
        self.null_text = torch.from_numpy(embeds), torch.from_numpy(mask)
        # As stored; padding takes more.
        texts = store.text_bytes
        pixels = sum(height * width for height, width in map(self.sizes.__getitem__, self.buckets))
        self._keeps = 3 * store.num_frames * pixels + texts <= cache_mb * 1e6
        self._kept: dict[int, tuple[Tensor, Text]] = {}

    def __len__(self) -> int:
        return len(self.store)

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        """Return the frames of a clip, or those of a slice, uint8 (3, t, h, w)."""
        return self._whole(i)[0][:, frames] if self._keeps else self._read_video(i, frames)

    def text(self, i: int) -> Text:
        """Return a clip's captions: states float16 (k, n, d) and masks uint8 (k, n)."""
        return self._whole(i)[1] if self._keeps else self._read_text(i)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": {}}

    def _whole(self, i: int) -> tuple[Tensor, Text]:
        if i not in self._kept:
            self._kept[i] = self._read_video(i, ALL), self._read_text(i)
        return self._kept[i]

    def _read_video(self, i: int, frames: slice) -> Tensor:
        stored = self.store.frames(i, frames)
        size = self.sizes[self.buckets[i]]
        if stored.shape[1:3] == size:
            return torch.from_numpy(stored).permute(3, 0, 1, 2)
        small = resize_video(to_model_range(stored).unsqueeze(0), size)[0]
        return model_to_bytes(small)

    def _read_text(self, i: int) -> Text:
        embeds, mask = self.store.text(i)
        return torch.from_numpy(embeds), torch.from_numpy(mask)


def open_clips(folder: Path, size: int, cache_mb: float) -> tuple[StoredClips, StoredClips]:
    """Open the training clips and the held-out clips of a folder.

    Args:
        folder: the output of the decode stage.
        size, cache_mb: as in `StoredClips`.

    Raises:
        DataError: if the decode stage did not write the folder.
    """
    stores = ClipStore(folder), ClipStore(folder, "validation")
    return StoredClips(stores[0], size, cache_mb), StoredClips(stores[1], size, cache_mb)


class Pictures:
    """Pictures in memory, each with one caption."""

    def __init__(self, pictures: np.ndarray, prompts: Text, null_text: Text) -> None:
        """
        Args:
            pictures: uint8 (n, h, w, 3).
            prompts: text states (n, l, d) and masks (n, l).
            null_text: as in `Clips`.
        """
        self.videos = torch.from_numpy(pictures).permute(0, 3, 1, 2).unsqueeze(2)  # (n, 3, 1, h, w)
        self.prompts, self.null_text = prompts, null_text
        self.shards, self.num_frames = [""] * len(pictures), 1
        self.buckets = [0] * len(pictures)

    def __len__(self) -> int:
        return len(self.videos)

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        """Return a picture, uint8 (3, 1, h, w)."""
        return self.videos[i][:, frames]

    def text(self, i: int) -> Text:
        """Return the picture's caption: states (1, n, d) and mask (1, n)."""
        embeds, mask = self.prompts
        return embeds[i : i + 1], mask[i : i + 1]


def draw_captioned(
    clips: Clips,
    i: int,
    generator: torch.Generator,
    text_dropout: float = 0.0,
    one_frame: bool = False,
) -> dict[str, Tensor]:
    """Draw a training example: a clip with one of its captions. With probability `text_dropout`,
    the empty sentence replaces the caption.

    Args:
        clips, i: the clip.
        generator: the source of all randomness.
        text_dropout: teaches the network to work without text, as classifier-free guidance needs.
        one_frame: draw a single frame of the clip.

    Returns:
        `video` uint8 (3, t, h, w), where t = 1 for a single frame; `prompt_embeds` (n, d);
        `prompt_mask` (n,).
    """

    below = functools.partial(draw_below, generator)
    frame = below(clips.num_frames)
    embeds, mask = clips.text(i)
    caption = below(len(embeds))
    prompt_embeds, prompt_mask = embeds[caption], mask[caption]
    if torch.rand((), generator=generator, dtype=torch.float32) < text_dropout:
        prompt_embeds, prompt_mask = clips.null_text
    frames = slice(frame, frame + 1) if one_frame else ALL
    video = clips.video(i, frames)
    return {
        "video": video,
        "prompt_embeds": prompt_embeds.float(),
        "prompt_mask": prompt_mask.long(),
    }
