"""What the evaluation reads: the videos that the generate stage wrote, and real clips at the same size.

index.json        list of names
<name>.mp4        the finished sample
<name>.json       name, mode, prompt, seed, fps, num_frames, and whatever else describes it
<name>.known.npz  where the mode was given pixels: generated and known uint8 (t, h, w, 3), known_mask (t, h, w)
t2v_set.npz       frames: uint8 (n, t, h, w, 3), text-to-video at base size, made for the distances
t2v_set.json      {"prompts": [n sentences], "fps": …}
seams.json        {"window_size", "overlap"} of the super-resolution that made seams.npz
seams.npz         multidiffusion and independent: uint8 (n, t, h, w, 3), the same clips with windows reconciled at
                  every step, and with windows that share no frame
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lumiere.data.clips import ClipStore, resize_video
from lumiere.data.pixel_values import from_model_range, to_model_range
from lumiere.data.video_io import read_video
from lumiere.diffusion.windows import independent_windows, temporal_windows
from lumiere.errors import DataError
from lumiere.evaluation.seams import consecutive_mse, window_borders

MAX_REAL = 256  # real clips that are measured; a few hundred are enough for a reference


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        info: its sidecar, with at least name, mode and prompt.
        frames: uint8 (t, h, w, 3), as read back from the mp4.
        known: for modes that were given pixels: generated, known, known_mask.
    """

    info: dict[str, Any]
    frames: np.ndarray
    known: dict[str, np.ndarray] | None


@dataclass(frozen=True)
class VideoSet:
    """Videos of one size with a sentence each.

    Attributes:
        frames: uint8 (n, t, h, w, 3).
        prompts: n sentences.
        groups: n names of source videos; for generated ones, their number.
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
        num_sources: source videos there are; more than clips where not all are measured.
    """

    captions: list[list[str]]
    held_out: list[bool]
    num_sources: int


def read_samples(folder: Path) -> list[Sample]:
    """All samples that index.json names, in its order."""
    samples = []
    for name in _read_json(folder / "index.json"):
        info = _read_json(folder / f"{name}.json")
        known_path = folder / f"{name}.known.npz"
        known = None
        if known_path.exists():
            with np.load(known_path, allow_pickle=False) as arrays:
                known = {key: arrays[key] for key in ("generated", "known", "known_mask")}
        samples.append(Sample(info, read_video(folder / f"{name}.mp4", fps=info["fps"]), known))
    return samples


def read_generated_set(folder: Path, num_videos: int, num_frames: int) -> VideoSet:
    """The first `num_videos` text-to-video clips with different prompts, their first `num_frames` frames.

    A prompt that came twice would be ranked against its own twin in retrieval, so only its first video counts.
    """
    path = folder / "t2v_set.npz"
    prompts = list(_read_json(folder / "t2v_set.json")["prompts"])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the generate stage first") from None
    if frames.ndim != 5 or frames.dtype != np.uint8 or len(frames) != len(prompts):
        found = f"{frames.dtype} {frames.shape} for {len(prompts)} prompts"
        raise DataError(f"{path}: {found}; expected uint8 (n, t, h, w, 3)")
    if frames.shape[1] < 2:
        raise DataError(
            f"{path}: clips of {frames.shape[1]} frame; what changes over time needs at least 2"
        )
    first = sorted({prompt: i for i, prompt in reversed(list(enumerate(prompts)))}.values())[
        :num_videos
    ]
    return VideoSet(
        frames[first, :num_frames], [prompts[i] for i in first], [str(i) for i in first]
    )


def read_real_set(
    clips: Path, size: tuple[int, int], num_frames: int, max_videos: int = MAX_REAL
) -> RealSet:
    """One real clip of each source video, both splits, at the generated clips' size and length.

    Where there are more source videos than `max_videos`, those taken are evenly spread over their sorted names.
    Frames are resized by the rule that made the training clips (`resize_video`: area), so that both sides of a
    distance went the same way.
    """
    chosen: dict[str, tuple[ClipStore, int]] = {}
    for split in ("train", "validation"):
        store = ClipStore(clips, split)
        if len(store) and store.num_frames < num_frames:
            raise DataError(
                f"{clips}: clips of {store.num_frames} frames; generated ones have {num_frames}"
            )
        for i, entry in enumerate(store.entries):
            chosen.setdefault(_source(entry["clip_id"]), (store, i))
    if not chosen:
        raise DataError(f"{clips}: no clips; run the decode stage first")
    names = sorted(chosen)
    picks = np.unique(
        np.linspace(0, len(names) - 1, min(max_videos, len(names))).round().astype(int)
    )
    videos, found, held_out = [], [], []
    for store, i in (chosen[names[k]] for k in picks):
        clip = store[i]
        video = resize_video(to_model_range(clip.frames[:num_frames])[None], size)[0]
        videos.append(from_model_range(video))
        found.append(clip)
        held_out.append(store.split == "validation")
    return RealSet(
        frames=np.stack(videos),
        prompts=[clip.captions[0] for clip in found],
        groups=[clip.video for clip in found],
        captions=[clip.captions for clip in found],
        held_out=held_out,
        num_sources=len(names),
    )


def read_seams(folder: Path) -> dict[str, Any]:
    """Errors of consecutive frames with and without MultiDiffusion, and where windows meet.

    `borders` are those of the windows that share no frame, where both are measured, as in the paper's figure;
    `own_borders` are those of MultiDiffusion's overlapping windows.
    """
    settings, path = _read_json(folder / "seams.json"), folder / "seams.npz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the generate stage first")
    with np.load(path, allow_pickle=False) as arrays:
        videos = {key: arrays[key] for key in ("multidiffusion", "independent")}
    errors = {
        key: np.stack([consecutive_mse(clip) for clip in clips]) for key, clips in videos.items()
    }
    num_frames, window_size = videos["independent"].shape[1], settings["window_size"]
    apart = independent_windows(num_frames, window_size)
    overlapping = temporal_windows(num_frames, window_size, settings["overlap"])
    return {
        **settings,
        **errors,
        "borders": window_borders(apart, num_frames),
        "own_borders": window_borders(overlapping, num_frames),
    }


def _source(clip_id: str) -> str:
    """The source video of a clip: its id without the number of the part and of the window, `trip` of `trip#1@0`."""
    return re.sub(r"(#\d+)?(@\d+)?$", "", clip_id)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the generate stage first") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
