"""Captioned clips and pictures as the trainings draw them, read when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lumiere.data.clips import ClipStore, resize_video, to_model_range

Text = tuple[Tensor, Tensor]  # states (n, d) and mask (n,)


@dataclass(frozen=True)
class CaptionedClip:
    """A clip with one or more captions; a picture is a clip of one frame."""

    video: Tensor  # uint8 (3, t, h, w)
    prompt_embeds: Tensor  # float16 or float32 (k, n, d)
    prompt_mask: Tensor  # uint8 or int64 (k, n)


class Clips(Protocol):
    """Clips by number."""

    @property
    def shards(self) -> Sequence[str]:
        """The shard of each clip: what is read in one go."""

    @property
    def null_text(self) -> Text:
        """The empty sentence."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, i: int) -> CaptionedClip:
        """One of them."""


class StoredClips:
    """A store's clips at training size; the latest stay in memory, for whom all of them fit."""

    def __init__(self, store: ClipStore, size: int, cache_mb: float = 512) -> None:
        """`size`: pixels, height = width; `cache_mb`: decoded pixels that a process keeps, in MB of 10^6 bytes."""
        self.store, self.size, self.shards = store, size, store.shards
        self.num_frames = store.num_frames
        embeds, mask = store.null_text()
        self.null_text = torch.from_numpy(embeds), torch.from_numpy(mask)
        clip_bytes = 3 * store.num_frames * size * size
        self._kept = int(cache_mb * 1e6 / clip_bytes)
        self._cache: OrderedDict[int, CaptionedClip] = OrderedDict()

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> CaptionedClip:
        if i in self._cache:
            self._cache.move_to_end(i)
            return self._cache[i]
        clip = self.store[i]
        small = resize_video(to_model_range(clip.frames).unsqueeze(0), self.size)[0]
        video = ((small + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        read = CaptionedClip(video, torch.from_numpy(clip.prompt_embeds), torch.from_numpy(clip.prompt_mask))
        self._cache[i] = read
        if len(self._cache) > self._kept:
            self._cache.popitem(last=False)
        return read

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_cache": OrderedDict()}


def open_clips(folder: Path, size: int, cache_mb: float) -> tuple[StoredClips, StoredClips]:
    """The clips to train on and those held out.

    Raises:
        OSError, ValueError: there are none, or not such as the decode stage writes.
    """
    stores = ClipStore(folder), ClipStore(folder, "validation")
    return StoredClips(stores[0], size, cache_mb), StoredClips(stores[1], size, cache_mb)


class Pictures:
    """Pictures in memory, each with its caption."""

    def __init__(self, pictures: np.ndarray, prompts: Text, null_text: Text) -> None:
        """`pictures` uint8 (n, h, w, 3); `prompts`: states (n, l, d) and mask (n, l); `null_text` as `Clips` has it."""
        self.videos = torch.from_numpy(pictures).permute(0, 3, 1, 2).unsqueeze(2)  # (n, 3, 1, h, w)
        self.prompts, self.null_text = prompts, null_text
        self.shards = [""] * len(pictures)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> CaptionedClip:
        embeds, mask = self.prompts
        return CaptionedClip(self.videos[i], embeds[i : i + 1], mask[i : i + 1])


def draw_captioned(
    clips: Clips, i: int, generator: torch.Generator, text_dropout: float = 0.0, one_frame: bool = False
) -> dict[str, Tensor]:
    """A clip with one of its captions, or, with probability `text_dropout`, with the empty sentence.

    Args:
        clips, i: the clip.
        generator: what is drawn comes from it alone.
        text_dropout: for classifier-free guidance.
        one_frame: draw a frame of the clip.

    Returns:
        `video` uint8 (3, t, h, w), t = 1 for a frame; `prompt_embeds` (n, d); `prompt_mask` (n,).
    """
    clip = clips[i]

    def below(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    frame, caption = below(clip.video.shape[1]), below(len(clip.prompt_embeds))
    dropped = bool(torch.rand((), generator=generator) < text_dropout)
    embeds, mask = clips.null_text if dropped else (clip.prompt_embeds[caption], clip.prompt_mask[caption])
    video = clip.video[:, frame : frame + 1] if one_frame else clip.video
    return {"video": video, "prompt_embeds": embeds.float(), "prompt_mask": mask.long()}


def pixels(video: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return video.float() / 127.5 - 1
