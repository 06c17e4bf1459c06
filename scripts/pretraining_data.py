"""Prepares the pictures and text states for the pretraining of the text-to-image model.

Everything that a step needs is computed once and kept in one file, so that a step only runs the
network.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from lumiere.errors import DataError
from lumiere.files import content_hash, write_atomically
from lumiere.tensor_files import read_tensors
from lumiere.text import load_text_encoder

ROOT = Path(__file__).resolve().parent.parent
SIZE, PER_ROW = 32, 64
MAX_TOKENS = 32
BACKGROUND = (236, 239, 244)
SENTENCE_SHARE = 0.5  # of a video's draws show one of its sentences
VIDEO_FOLDERS = "raw", "pretraining/raw"  # in data/; the sentences are in captions.csv beside them

# How often a subject is drawn, relative to 1: one of the demo's videos, or one of a group.
DEMO_VIDEO_WEIGHT = 5.0
GROUP_WEIGHTS = {
    "animal-": 2.0, "transport-": 2.0, "face-": 1.0, "food-": 1.0, "heart": 1.0, "plant-": 1.5, "geometric": 0.3,
    "person": 0.35, "hand": 0.35, "body-parts": 0.4, "place-": 0.8, "office": 0.5, "mail": 0.4, "clothing": 0.7,
}  # fmt: skip


# Subjects that read wrong in a mirror: letters and digits, notes, maps, flags, dials, phases of the
# moon, and what points to a side. Subjects with "left" or "right" in their names are added.
NEVER_MIRRORED = {
    "mahjong", "black_joker", "flower_playing_cards", "chess_pawn", "earth_africa", "earth_americas", "earth_asia",
    "world_map", "japan", "waxing_crescent_moon", "first_quarter_moon", "moon", "waning_gibbous_moon",
    "last_quarter_moon", "waning_crescent_moon", "crescent_moon", "first_quarter_moon_with_face",
    "last_quarter_moon_with_face", "crossed_flags", "flags", "admission_tickets", "ticket", "slot_machine", "8ball",
    "musical_note", "notes", "musical_score", "saxophone", "violin", "guitar", "hospital", "hotel", "bank", "school",
    "post_office", "convenience_store", "department_store", "busstop", "point_left", "point_right", "zzz",
    "sleeping", "sleepy", "100", "moneybag", "credit_card", "yen", "dollar", "euro", "pound", "money_with_wings",
    "chart", "chart_with_upwards_trend", "chart_with_downwards_trend", "date", "calendar", "spiral_calendar_pad",
    "card_index", "newspaper", "rolled_up_newspaper", "e_mail", "identification_card", "receipt", "placard",
    "clock3", "clock6", "clock12", "watch", "alarm_clock", "stopwatch", "timer_clock", "mantelpiece_clock", "compass",
    "keyboard", "speedboat", "first_place_medal", "second_place_medal", "third_place_medal", "octagonal_sign",
    "fuelpump", "taxi", "oncoming_taxi", "ambulance", "police_car", "oncoming_police_car", "canned_food",
    "face_with_symbols_on_mouth", "money_mouth_face", "coin", "x_ray", "hindu_temple", "tanabata_tree",
}  # fmt: skip


@dataclass
class PretrainingData:
    """The pictures and captions of s subjects.

    Attributes:
        pictures: uint8 (n, 3, 32, 32).
        picture_starts: (s + 1,); the pictures of subject i begin at entry i and end before
            entry i + 1.
        caption_starts: (s + 1,), the same for the captions. The last caption is the empty sentence,
            which belongs to no subject.
        caption_weights: (k,), how often a caption is drawn among those of its subject; they sum to
            1 for each subject.
        prompt_embeds: float16 (k + 1, 32, 384).
        prompt_mask: uint8 (k + 1, 32).
        weights: (s,), how often a subject is drawn; 0 if it is held out.
        held_out: uint8 (s,), 1 if the subject is held out.
        may_shift: uint8 (n,), 1 if the picture may be moved by a pixel or two, and mirrored with a
            caption that allows it. Frames of videos move anyway.
        may_mirror: uint8 (k + 1,), 1 if the caption holds for the mirrored picture too. Sentences
            of videos often name directions, so they do not.
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
    may_mirror: Tensor

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        write_atomically(path, save({name: t.contiguous() for name, t in vars(self).items()}))

    @classmethod
    def load(cls, path: Path) -> PretrainingData:
        """Read a file that `save` wrote.

        Raises:
            DataError: if the file is damaged, or something else wrote it.
        """
        tensors = read_tensors(path)
        names = [item.name for item in fields(cls)]
        if set(tensors) != set(names):
            problem = f"{path}: expected the tensors {', '.join(names)}"
            raise DataError(problem, cure="delete it, and the next call prepares it again")
        return cls(**tensors)


@dataclass(frozen=True)
class Row:
    """A subject of `data/pretraining/subjects.csv`, with its pictures, uint8 (n, 32, 32, 3)."""

    name: str
    group: str
    held_out: bool
    video: str
    pictures: np.ndarray
    captions: list[str]


def read_subjects(folder: Path = ROOT / "data/pretraining") -> list[Row]:
    """Read the subjects and cut their pictures out of the atlas."""
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
    """Read up to `count` evenly spaced frames, reduced by box means: uint8 (n, 32, 32, 3)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picks = np.linspace(0, len(frames), min(count, len(frames)), endpoint=False).astype(int)
    side = frames[0].shape[0] // SIZE
    boxes = np.stack([frames[i] for i in picks]).reshape(len(picks), SIZE, side, SIZE, side, 3)
    return boxes.mean((2, 4), dtype=np.float32).round().astype(np.uint8)


def read_sentences(data: Path = ROOT / "data") -> dict[str, list[str]]:
    """Read the sentences of each video, by its path in `data`."""
    sentences = defaultdict(list)
    for folder in VIDEO_FOLDERS:
        captions = (data / folder).parent / "captions.csv"
        with open(captions, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sentences[f"{folder}/{row['video']}"].append(row["caption"])
    return sentences


def weigh(row: Row) -> float:
    """Return how often a subject is drawn; 0 if it is held out."""
    if row.held_out:
        return 0.0
    if row.video.startswith("raw/"):
        return DEMO_VIDEO_WEIGHT
    for group, weight in GROUP_WEIGHTS.items():
        if row.group.startswith(group):
            return weight
    return 1.0


def weigh_captions(sentences: int, shorts: int) -> list[float]:
    """Return the shares of a subject's captions: first the sentences, then the short captions.

    The first short caption is the most usual: it is drawn at least three times as often as each of
    the others, and in at least a fifth of all draws of short captions.
    """
    share = SENTENCE_SHARE if sentences else 0.0
    relative = [max(3.0, (shorts - 1) / 4), *[1.0] * (shorts - 1)]
    short_weights = [(1 - share) * weight / sum(relative) for weight in relative]
    return [share / max(1, sentences)] * sentences + short_weights


def holds_mirrored(name: str, caption: str) -> bool:
    """Return whether a short caption holds for the mirrored picture of a subject, too."""
    names_side = re.search(r"\b(left|right)", f"{name.replace('_', ' ')} {caption}") is not None
    return not names_side and name not in NEVER_MIRRORED


def prepare(frames_per_video: int, data: Path = ROOT / "data") -> PretrainingData:
    """Read all pictures and encode all captions. This takes a few minutes on a CPU."""
    rows, sentences = read_subjects(data / "pretraining"), read_sentences(data)
    pictures, captions, caption_weights, may_shift, may_mirror = [], [], [], [], []
    picture_starts, caption_starts = [0], [0]
    for row in rows:
        stills, frames = row.pictures, row.pictures[:0]
        if row.video:
            frames = read_video(data / row.video, frames_per_video)
        pictures += [stills, frames]
        may_shift += [1] * len(stills) + [0] * len(frames)
        picture_starts.append(picture_starts[-1] + len(stills) + len(frames))
        own = sentences[row.video] if row.video else []
        captions += own + row.captions
        may_mirror += [0] * len(own) + [
            int(holds_mirrored(row.name, each)) for each in row.captions
        ]
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
        may_mirror=torch.tensor([*may_mirror, 1], dtype=torch.uint8),
    )


def load_or_prepare(folder: Path, frames_per_video: int) -> PretrainingData:
    """Return the prepared data, which `folder` keeps under the hash of its sources."""
    data = ROOT / "data"
    names = "pretraining/pictures.webp", "pretraining/subjects.csv"
    sources = [Path(__file__), *(data / name for name in names)]
    for name in VIDEO_FOLDERS:
        sources += [(data / name).parent / "captions.csv", *sorted((data / name).glob("*.mp4"))]
    digest = hashlib.sha256("".join(map(content_hash, sources)).encode()).hexdigest()[:16]
    path = folder / f"data-{digest}-{frames_per_video}.safetensors"
    if not path.is_file():
        prepare(frames_per_video).save(path)
    return PretrainingData.load(path)
