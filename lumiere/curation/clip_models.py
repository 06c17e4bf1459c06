"""The models that may look at clips, by what curation needs of each, and their answers on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lumiere.curation.caption_cache import CaptionCache


class Captioner(Protocol):
    """Describes a clip in a sentence.

    Attributes:
        name: what the manifest calls it.
        identity: a hash over all that decides the captions.
    """

    name: str
    identity: str

    def caption(self, frames: np.ndarray) -> str:
        """Describe a clip, uint8 (n, h, w, 3); empty if there is nothing to say."""
        ...


@dataclass(frozen=True)
class ClipModels:
    """The models that are asked; None for each that the params do not name."""

    captioner: Captioner | None = None

    def __bool__(self) -> bool:
        return self.captioner is not None


class Captions:
    """A captioner, and what it has said."""

    def __init__(self, captioner: Captioner, scratch: Path) -> None:
        self.captioner = captioner
        self._cache = CaptionCache(scratch / "clip_captions.jsonl")

    def knows(self, clip: str) -> bool:
        return self._key(clip) in self._cache

    def ask(self, clip: str, frames: np.ndarray) -> None:
        self._cache.add(self._key(clip), self.captioner.caption(frames))

    def of(self, clip: str) -> str:
        return self._cache[self._key(clip)]

    def _key(self, clip: str) -> str:
        return f"{self.captioner.identity[:32]}:{clip}"
