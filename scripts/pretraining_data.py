"""Pictures and text states for the pretraining of the text-to-image model, as a few tensors.

Everything that a step needs is computed once and kept in one file, so that a step is nothing but the network.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.files import content_hash
from lumiere.text import load_text_encoder

ROOT = Path(__file__).resolve().parent.parent
SIZE, PER_ROW = 32, 64
MAX_TOKENS = 32
BACKGROUND = (236, 239, 244)
SENTENCE_SHARE = 0.5  # of a sample video's draws show a sentence of data/captions.csv

# How often a group of subjects is drawn, relative to 1.
VIDEO_WEIGHT = 3.0
GROUP_WEIGHTS = {
    "animal-": 2.0, "transport-": 2.0, "face-": 1.0, "food-": 1.0, "heart": 1.0, "plant-": 1.5, "geometric": 0.3,
    "person": 0.35, "hand": 0.35, "body-parts": 0.4, "place-": 0.8, "office": 0.5, "mail": 0.4, "clothing": 0.7,
}  # fmt: skip


@dataclass
class PretrainingData:
    """Pictures by subject, and captions by subject.

    Attributes:
        pictures: uint8 (n, 3, 32, 32).
        picture_starts: (s + 1,); subject i has the pictures from picture_starts[i] to picture_starts[i + 1].
        caption_starts: (s + 1,), likewise; the empty sentence is the last caption and belongs to no subject.
        caption_weights: (k,), how often a caption is drawn among those of its subject; sums to 1 for each.
        prompt_embeds, prompt_mask: float16 (k, 32, 384) and uint8 (k, 32).
        weights: (s,), how often a subject is drawn; 0 where it is held out.
        held_out: (s,), uint8.
        may_shift: (n,), uint8: pictures that may be moved by a pixel or two; frames of videos move anyway.
    """

    pictures: Tensor
    picture_starts: Tensor
    caption_starts: Tensor
    caption_weights: Tensor
    prompt_embeds: Tensor
    prompt_mask: Tensor
    weights: Tensor
    held_out: Tensor
    may_shift: Tensor

    def save(self, path: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> PretrainingData:
        return cls(**load_file(path))


@dataclass(frozen=True)
class Row:
    """A subject of `data/pretraining/subjects.csv` with its pictures uint8 (n, 32, 32, 3)."""

    name: str
    group: str
    held_out: bool
    video: str
    pictures: np.ndarray
    captions: list[str]


def read_subjects(folder: Path = ROOT / "data/pretraining") -> list[Row]:
    """The subjects of the atlas."""
    atlas = np.asarray(Image.open(folder / "pictures.webp").convert("RGB"))
    tiles = atlas.reshape(-1, SIZE, PER_ROW, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    rows, start = [], 0
    with open(folder / "subjects.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            end = start + int(row["pictures"])
            held_out, captions = row["split"] == "validation", row["captions"].split("|")
            rows.append(
                Row(row["name"], row["group"], held_out, row["video"], tiles[start:end], captions)
            )
            start = end
    return rows


def read_video(path: Path, count: int) -> np.ndarray:
    """`count` frames, evenly spaced, reduced by the mean over boxes: uint8 (n, 32, 32, 3)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picks = np.linspace(0, len(frames), min(count, len(frames)), endpoint=False).astype(int)
    side = frames[0].shape[0] // SIZE
    boxes = np.stack([frames[i] for i in picks]).reshape(len(picks), SIZE, side, SIZE, side, 3)
    return boxes.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def read_sentences(path: Path = ROOT / "data/captions.csv") -> dict[str, list[str]]:
    """Video -> its sentences."""
    sentences = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sentences[row["video"]].append(row["caption"])
    return sentences


def weigh(row: Row) -> float:
    """How often a subject is drawn; 0 if it is held out."""
    if row.held_out:
        return 0.0
    if row.video:
        return VIDEO_WEIGHT
    return next(
        (weight for group, weight in GROUP_WEIGHTS.items() if row.group.startswith(group)), 1.0
    )


def weigh_captions(sentences: int, shorts: int) -> list[float]:
    """Shares of a subject's captions. The first, most usual of the short ones is drawn three times as often."""
    share = SENTENCE_SHARE if sentences else 0.0
    relative = [3.0, *[1.0] * (shorts - 1)]
    short_weights = [(1 - share) * weight / sum(relative) for weight in relative]
    return [share / max(1, sentences)] * sentences + short_weights


def prepare(frames_per_video: int, raw: Path = ROOT / "data/raw") -> PretrainingData:
    """Read all pictures and encode all captions; takes a few minutes on a CPU."""
    rows, sentences = read_subjects(), read_sentences()
    pictures, captions, caption_weights, may_shift = [], [], [], []
    picture_starts, caption_starts = [0], [0]
    for row in rows:
        found = [row.pictures]
        if row.video:
            found.append(read_video(raw / row.video, frames_per_video))
        pictures.extend(found)
        may_shift += [1] * len(row.pictures) + [0] * sum(len(more) for more in found[1:])
        picture_starts.append(picture_starts[-1] + sum(len(more) for more in found))
        own = sentences[row.video] if row.video else []
        captions += own + row.captions
        caption_weights += weigh_captions(len(own), len(row.captions))
        caption_starts.append(len(captions))
    embeds, mask = load_text_encoder("minilm", MAX_TOKENS).encode([*captions, ""])
    return PretrainingData(
        pictures=torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).contiguous(),
        picture_starts=torch.tensor(picture_starts),
        caption_starts=torch.tensor(caption_starts),
        caption_weights=torch.tensor(caption_weights),
        prompt_embeds=embeds.half(),
        prompt_mask=mask.to(torch.uint8),
        weights=torch.tensor([weigh(row) for row in rows]),
        held_out=torch.tensor([row.held_out for row in rows]).to(torch.uint8),
        may_shift=torch.tensor(may_shift, dtype=torch.uint8),
    )


def load_or_prepare(folder: Path, frames_per_video: int) -> PretrainingData:
    """The prepared data, kept in `folder` under a name that follows from its sources."""
    sources = "data/pretraining/pictures.webp", "data/pretraining/subjects.csv", "data/captions.csv"
    key = "-".join(
        content_hash(path)[:8] for path in [*(ROOT / source for source in sources), Path(__file__)]
    )
    path = folder / f"data-{key}-{frames_per_video}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        prepare(frames_per_video).save(path)
    return PretrainingData.load(path)
