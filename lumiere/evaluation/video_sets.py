"""Sets of videos to compare: generated ones, and real clips at the same size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lumiere import sample_files
from lumiere.data.clips import Clip, ClipStore, resize_video
from lumiere.data.pixel_values import from_model_range, to_model_range
from lumiere.errors import DataError
from lumiere.evaluation import seams

MAX_REAL = 256  # real clips that are measured; a few hundred are enough for a reference


@dataclass(frozen=True)
class VideoSet:
    """Videos of one size with a sentence each.

    Attributes:
        frames: uint8 (n, t, h, w, 3).
        prompts: n sentences.
        groups: n names of source videos; generated videos have their number instead.
    """

    frames: np.ndarray
    prompts: list[str]
    groups: list[str]


@dataclass(frozen=True)
class RealSet(VideoSet):
    """Real clips, each of another source video.

    Attributes:
        captions: all sentences of each clip; `prompts` holds the first.
        held_out: whether each belongs to the validation split.
        num_sources: the number of source videos; larger than the number of clips if not all are
            measured.
    """

    captions: list[list[str]]
    held_out: list[bool]
    num_sources: int


def read_generated_set(folder: Path, num_videos: int, num_frames: int) -> VideoSet:
    """Read the first `num_videos` text-to-video clips with different prompts, and their first
    `num_frames` frames.

    A repeated prompt would compete with itself in retrieval, so only its first video counts.

    Raises:
        DataError: if the generate stage has not written the clips, or they are single frames.
    """
    clips = sample_files.read_set(folder, sample_files.TEXT_TO_VIDEO)
    first: dict[str, int] = {}
    for index, entry in enumerate(clips.entries):
        first.setdefault(entry.prompt, index)
    kept = list(first.values())[:num_videos]
    if not kept:
        raise DataError(f"{clips.path}: no clips; run the generate stage again")
    frames = np.stack([clips.frames(index)[:num_frames] for index in kept])
    if frames.shape[1] < 2:
        raise DataError(
            f"{clips.path}: clips of {frames.shape[1]} frame; changes over time need at "
            "least 2; make generate.num_frames larger"
        )
    return VideoSet(frames, [clips.entries[i].prompt for i in kept], [str(i) for i in kept])


def read_real_set(
    clips: Path, size: tuple[int, int], num_frames: int, max_videos: int = MAX_REAL
) -> RealSet:
    """Read one real clip of each source video of both splits, at the size and length of the
    generated clips.

    If there are more source videos than `max_videos`, the clips are spread evenly over their sorted names. Frames are
    resized by the rule that made the training clips (`resize_video`: area), so that both sides of a distance are
    treated alike.

    Raises:
        DataError: if there are no clips, or they are too short.
    """
    first_clips: dict[str, tuple[ClipStore, int]] = {}
    for split in ("train", "validation"):
        store = ClipStore(clips, split)
        if len(store) and store.num_frames < num_frames:
            raise DataError(
                f"{clips}: clips of {store.num_frames} frames; generated ones have {num_frames}; "
                "make generate.num_frames smaller"
            )
        for index, entry in enumerate(store.entries):
            first_clips.setdefault(_source(entry["clip_id"]), (store, index))
    if not first_clips:
        raise DataError(f"{clips}: no clips; run the decode stage first")
    names = sorted(first_clips)
    count = min(max_videos, len(names))
    picks = np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))
    picked: list[Clip] = []
    held_out: list[bool] = []
    for pick in picks:
        store, index = first_clips[names[pick]]
        picked.append(store[index])
        held_out.append(store.split == "validation")
    videos = []
    for clip in picked:
        video = resize_video(to_model_range(clip.frames[:num_frames])[None], size)[0]
        videos.append(from_model_range(video))
    return RealSet(
        frames=np.stack(videos),
        prompts=[clip.captions[0] for clip in picked],
        groups=[clip.video for clip in picked],
        captions=[clip.captions for clip in picked],
        held_out=held_out,
        num_sources=len(names),
    )


def measure_seams(folder: Path) -> dict[str, Any]:
    """Measure the errors of consecutive frames with and without MultiDiffusion.

    Returns:
        The fields of `lumiere.evaluation.seams.SeamRecord`.

    Raises:
        DataError: if the generate stage has not written the clips.
    """
    clips = sample_files.read_set(folder, sample_files.SEAMS)
    try:
        return vars(seams.measure_seams(clips))
    except ValueError as error:
        raise DataError(f"{clips.path}: {error}; run the generate stage again") from None


def _source(clip_id: str) -> str:
    """Return the source video of a clip: its id without the number of the part and of the
    window, `trip` of `trip#1@0`.
    """
    return re.sub(r"(#\d+)?(@\d+)?$", "", clip_id)
