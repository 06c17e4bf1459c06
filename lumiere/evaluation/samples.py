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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lumiere.data.clips import ClipStore, from_model_range, resize_video, to_model_range
from lumiere.data.video_io import read_video
from lumiere.diffusion.windows import independent_windows
from lumiere.evaluation.seams import consecutive_mse, window_borders


class SamplesError(ValueError):
    """What generate wrote is absent or does not fit together."""


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        info: its sidecar, with at least name, mode and prompt.
        frames: uint8 (t, h, w, 3), as read back from the mp4.
        known: for modes that were given pixels: generated, known, known_mask at base size.
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
        raise SamplesError(f"{path}: no such file; run the generate stage first") from None
    if frames.ndim != 5 or frames.dtype != np.uint8 or len(frames) != len(prompts):
        found = f"{frames.dtype} {frames.shape} for {len(prompts)} prompts"
        raise SamplesError(f"{path}: {found}; expected uint8 (n, t, h, w, 3)")
    first = sorted({prompt: i for i, prompt in reversed(list(enumerate(prompts)))}.values())[:num_videos]
    return VideoSet(frames[first, :num_frames], [prompts[i] for i in first], [str(i) for i in first])


def read_real_set(clips: Path, size: tuple[int, int], num_frames: int, max_videos: int = 256) -> VideoSet:
    """One real clip of each source video, both splits, at the generated clips' size and length.

    Frames are resized by the rule that made the training clips (`resize_video`: area), so that both sides of a
    distance went the same way.
    """
    chosen: dict[str, tuple[ClipStore, int]] = {}
    for split in ("train", "validation"):
        store = ClipStore(clips, split)
        for i, entry in enumerate(store.entries):
            chosen.setdefault(entry["clip_id"].rpartition("@")[0] or entry["clip_id"], (store, i))
    names = sorted(chosen)
    picks = np.unique(np.linspace(0, len(names) - 1, min(max_videos, len(names))).round().astype(int))
    videos, prompts, groups = [], [], []
    for name in (names[k] for k in picks):
        store, i = chosen[name]
        clip = store[i]
        if len(clip.frames) < num_frames or not clip.captions:
            continue
        video = resize_video(to_model_range(clip.frames[:num_frames])[None], size)[0]
        videos.append(from_model_range(video))
        prompts.append(clip.captions[0])
        groups.append(clip.video)
    if not videos:
        raise SamplesError(f"{clips}: no clip of at least {num_frames} frames")
    return VideoSet(np.stack(videos), prompts, groups)


def read_seams(folder: Path) -> dict[str, Any]:
    """Errors of consecutive frames with and without MultiDiffusion, and where the independent windows meet.

    Both are measured at the same places, as in the paper's figure: the borders of the windows that share no frame.
    """
    settings, path = _read_json(folder / "seams.json"), folder / "seams.npz"
    if not path.is_file():
        raise SamplesError(f"{path}: no such file; run the generate stage first")
    with np.load(path, allow_pickle=False) as arrays:
        videos = {key: arrays[key] for key in ("multidiffusion", "independent")}
    errors = {key: np.stack([consecutive_mse(clip) for clip in clips]) for key, clips in videos.items()}
    num_frames = videos["independent"].shape[1]
    borders = window_borders(independent_windows(num_frames, settings["window_size"]), num_frames)
    if not borders:
        raise SamplesError(f"{path}: {num_frames} frames make one window, so there is no border to look at")
    return {**settings, "borders": borders, **errors}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SamplesError(f"{path}: no such file; run the generate stage first") from None
    except json.JSONDecodeError as error:
        raise SamplesError(f"{path}: not valid JSON: {error}") from None
