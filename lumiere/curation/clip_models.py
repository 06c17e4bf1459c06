"""Defines the models that may look at clips, and keeps their answers on the disk."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from lumiere.curation.caption_cache import CaptionCache
from lumiere.curation.embedding_cache import EmbeddingCache
from lumiere.data.video_io import code_version

SAVE_EVERY = 256  # answers that a killed run loses at most


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


class ImageTextNetwork(Protocol):
    """Embeds pictures and sentences in one space; the part of a text backbone that is used here."""

    @property
    def identity(self) -> str:
        """A hash over all that decides the features; the key of the cache."""
        ...

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Compute float32 features (n, d) of uint8 frames (n, h, w, 3)."""
        ...

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Compute float32 features (n, d) of sentences."""
        ...


class AestheticHead(Protocol):
    """A linear layer on image features of length 1: weight (d,) and bias."""

    @property
    def weight(self) -> np.ndarray:
        """The factors (d,) of the features."""
        ...

    @property
    def bias(self) -> float:
        """The number added to the product."""
        ...


class TextReader(Protocol):
    """Finds text in pictures.

    Attributes:
        identity: a hash over all that decides the boxes; the key of the cache.
    """

    identity: str

    def boxes(self, picture: np.ndarray) -> Sequence[np.ndarray]:
        """Return the corners (n, 2), in pixels from the left and the top, of each piece of text in
        a picture, uint8 (h, w, 3).
        """
        ...


@dataclass(frozen=True)
class ClipModels:
    """Holds the models that look at clips; None for each that the params do not name."""

    captioner: Captioner | None = None
    network: ImageTextNetwork | None = None
    head: AestheticHead | None = None
    reader: TextReader | None = None

    def __bool__(self) -> bool:
        return any(model is not None for model in (self.captioner, self.network, self.reader))


def check_head(head: AestheticHead, network: ImageTextNetwork) -> None:
    """Raise ValueError unless a head fits the image features of a network."""
    size = network.embed(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    if len(head.weight) != size:
        raise ValueError(
            f"a head for {len(head.weight)} features, but curate.clip_model gives {size}; give the "
            "head that was trained on that model"
        )


class Captions:
    """Asks a captioner for sentences about clips, and stores them."""

    def __init__(self, captioner: Captioner, scratch: Path) -> None:
        self.captioner = captioner
        self._cache = CaptionCache(scratch / "clip_captions.jsonl")

    def knows(self, clip: str) -> bool:
        """Return whether there is a sentence for a clip."""
        return self._key(clip) in self._cache

    def ask(self, clip: str, frames: np.ndarray) -> None:
        """Let the captioner describe a clip, uint8 (n, h, w, 3), and store the sentence."""
        self._cache.add(self._key(clip), self.captioner.caption(frames))

    def of(self, clip: str) -> str:
        """Return the sentence for a clip; empty if the captioner wrote nothing."""
        return self._cache[self._key(clip)]

    def _key(self, clip: str) -> str:
        return f"{self.captioner.identity[:32]}:{clip}"


class Vectors:
    """Stores the answers of a model about clips or sentences as vectors of one length.

    Args:
        folder: holds the earlier answers, a file for each model, because the lengths differ.
        name: the start of the file's name.
        identity: the hash of the model.
    """

    def __init__(self, folder: Path, name: str, identity: str) -> None:
        # `covered` and the means are code of this module.
        facts = json.dumps([identity, code_version(__name__)])
        model = hashlib.sha256(facts.encode()).hexdigest()[:32]
        self._cache, self._num_new = EmbeddingCache(folder / f"{name}_{model}.bin"), 0

    def knows(self, key: str) -> bool:
        """Return whether there is a vector under a key."""
        return key in self._cache

    def add(self, key: str, vector: np.ndarray) -> None:
        """Store a vector (d,) under a new key."""
        self._cache.add([key], np.asarray(vector, np.float32)[None])
        self._num_new += 1
        if self._num_new % SAVE_EVERY == 0:
            self._cache.save()

    def save(self) -> None:
        """Write the keys, so that the next run finds all vectors."""
        if self._num_new:
            self._cache.save()

    def of(self, key: str) -> np.ndarray:
        """Return the vector under a key, float32 (d,)."""
        vectors = np.empty((1, self._cache.size), np.float32)
        self._cache.copy_to([key], vectors)
        return vectors[0]


class Scores:
    """Scores clips by a network that compares pictures with sentences, and by an aesthetic head."""

    def __init__(
        self, network: ImageTextNetwork, head: AestheticHead | None, scratch: Path
    ) -> None:
        self._network, self._head = network, head
        self._clips = Vectors(scratch, "clip_vectors", network.identity)
        self._texts = Vectors(scratch, "caption_vectors", network.identity)

    def knows(self, clip: str) -> bool:
        """Return whether the network has seen a clip."""
        return self._clips.knows(clip)

    def ask(self, clip: str, frames: np.ndarray) -> None:
        """Store the frames' unit vectors, and their mean, from which all scores follow."""
        vectors = _unit(self._network.embed(frames))
        for i, vector in enumerate(vectors):
            if not self._clips.knows(f"{clip}:{i}"):  # a run was killed between them
                self._clips.add(f"{clip}:{i}", vector)
        self._clips.add(clip, vectors.mean(axis=0))

    def save(self) -> None:
        """Write the keys of all vectors, so that the next run finds them."""
        self._clips.save()
        self._texts.save()

    def columns(self, clip: str, captions: Sequence[str]) -> dict[str, Any]:
        """Return the cells of a clip: means over its frames, and a curve; the caption that fits worst
        counts.
        """
        picture = self._clips.of(clip).astype(np.float64)
        sentences = [self._sentence(text) for text in captions]
        match = min((float(sentence @ picture) for sentence in sentences), default=0.0)
        cells: dict[str, Any] = {"caption_match": round(match, 5), "match_curve": []}
        if sentences:
            fits = np.stack(sentences) @ self._frames(clip).T
            cells["match_curve"] = [round(fit, 4) for fit in fits.min(axis=0).tolist()]
        if self._head is not None:
            beauty = float(self._head.weight @ picture) + self._head.bias
            cells["aesthetic"] = round(beauty, 5)
        return cells

    def _frames(self, clip: str) -> np.ndarray:
        """Return the vectors (n, d) of a clip's frames."""
        keys = itertools.takewhile(self._clips.knows, (f"{clip}:{i}" for i in itertools.count()))
        return np.stack([self._clips.of(key) for key in keys]).astype(np.float64)

    def _sentence(self, text: str) -> np.ndarray:
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if not self._texts.knows(key):
            self._texts.add(key, _unit(self._network.embed_texts([text]))[0])
        return self._texts.of(key).astype(np.float64)


class TextAreas:
    """Measures the share of clips that is under text, and stores it."""

    def __init__(self, reader: TextReader, scratch: Path) -> None:
        self._reader = reader
        self._areas = Vectors(scratch, "text_areas", reader.identity)

    def knows(self, clip: str) -> bool:
        """Return whether the reader has seen a clip."""
        return self._areas.knows(clip)

    def ask(self, clip: str, frames: np.ndarray) -> None:
        """Store the mean share over the frames, uint8 (n, h, w, 3)."""
        shares = [covered(self._reader.boxes(frame), frame.shape[:2]) for frame in frames]
        self._areas.add(clip, np.array([np.mean(shares)]))

    def save(self) -> None:
        """Write the keys of all shares, so that the next run finds them."""
        self._areas.save()

    def columns(self, clip: str) -> dict[str, float]:
        """Return the cell of a clip."""
        return {"text_area": round(float(self._areas.of(clip)[0]), 5)}


def covered(boxes: Sequence[np.ndarray], size: tuple[int, ...]) -> float:
    """Return the share of a picture of (height, width) pixels that boxes cover; a pixel under
    several boxes counts once.
    """
    mask = np.zeros(size, np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.round(box).astype(np.int32).reshape(-1, 1, 2)], 1)
    return float(mask.mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale the rows of (n, d) to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
