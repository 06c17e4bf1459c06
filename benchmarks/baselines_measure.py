"""Samples, measures and draws for `benchmarks/baselines.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lumiere.baselines.keyframe_cascade import KeyframeCascade
from lumiere.data.clips import ClipStore
from lumiere.data.pixel_values import from_model_range
from lumiere.evaluation import motion_magnitude, seam_ratio, temporal_flicker
from lumiere.evaluation.backbones import EMBEDDED, load_backbone
from lumiere.evaluation.clip_sets import subject_of
from lumiere.evaluation.distances.feature_sets import OTHER_TIMES, REFERENCE, FeatureSet
from lumiere.evaluation.distances.floors import distances
from lumiere.evaluation.measure_videos import (
    DISTANCE_FRAMES,
    distance_frames,
    other_times,
)
from lumiere.evaluation.videos import evenly
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from lumiere.training.examples import StoredClips

Videos = dict[str, np.ndarray]  # uint8 (n, t, h, w, 3) by contender
# image_strength of the cascade that starts from faded keyframes, as in the demo.
BLEND_STRENGTH = 0.7
SLICES = 4


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the sampling and the measuring."""

    videos: int = 24  # held-out captions
    sampling_steps: int = 12
    guidance_scale: float = 1.5
    seed: int = 0


def sample(
    ours: SpaceTimeUNet,
    cascade: tuple[SpaceTimeUNet, SpaceTimeUNet],
    stride: int,
    scheduler: SchedulerMixin,
    held_out: StoredClips,
    settings: MeasureSettings,
    scratch: Path,
) -> Videos:
    """Videos for held-out sentences, evenly spread, and the real clips of these sentences.

    All have the frames that the keyframes enclose: 13 of 16 with keyframes 0, 4, 8 and 12. Videos
    that `scratch` has from an earlier run are read.
    """
    about = f"{settings.videos}-videos-{settings.sampling_steps}-steps-{settings.guidance_scale}"
    folder = scratch / about
    folder.mkdir(parents=True, exist_ok=True)
    picks = evenly(len(held_out), settings.videos)
    texts = [held_out.text(int(i)) for i in picks]
    null, null_mask = held_out.null_text
    prompt_embeds = torch.stack([embeds[0] for embeds, _ in texts]).float()
    prompt_mask = torch.stack([mask[0] for _, mask in texts]).long()
    options: dict[str, Any] = {
        "negative_prompt_embeds": null[None].float(),
        "negative_prompt_attention_mask": null_mask[None].long(),
        "num_inference_steps": settings.sampling_steps,
        "guidance_scale": settings.guidance_scale,
    }
    num_keyframes = (held_out.num_frames - 1) // stride + 1

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(settings.seed + i) for i in range(len(picks))]

    def pipeline(network: SpaceTimeUNet, num_frames: int) -> LumierePipeline:
        return LumierePipeline(network, scheduler, num_frames=num_frames)  # one window

    def whole_clips(network: SpaceTimeUNet, num_frames: int) -> torch.Tensor:
        output = pipeline(network, num_frames)(
            num_frames=num_frames,
            generator=generators(),
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_mask,
            upscale=False,
            output_type="pt",
            **options,
        )
        return output.frames  # type: ignore[union-attr]

    def filled_in(image_strength: float) -> torch.Tensor:
        made = _stored(folder / "keyframes.npy", lambda: whole_clips(cascade[0], num_keyframes))
        keyframes = torch.from_numpy(made).permute(0, 1, 4, 2, 3) / 255
        sampler = KeyframeCascade(
            pipeline(cascade[0], num_keyframes), pipeline(cascade[1], stride + 1), stride
        )
        text = prompt_embeds, prompt_mask
        return sampler.fill_in(keyframes, text, generators(), image_strength, **options)

    num_frames = (num_keyframes - 1) * stride + 1
    our_clips = _stored(folder / "ours.npy", lambda: whole_clips(ours, held_out.num_frames))
    real = [held_out.video(int(i), slice(num_frames)).permute(1, 2, 3, 0).numpy() for i in picks]
    return {
        "ours": our_clips[:, :num_frames],
        "cascade": _stored(folder / "cascade.npy", lambda: filled_in(1.0)),
        "cascade, from a blend": _stored(folder / "blend.npy", lambda: filled_in(BLEND_STRENGTH)),
        "real": np.stack(real),
    }


def _stored(path: Path, make: Callable[[], torch.Tensor]) -> np.ndarray:
    """Videos (n, t, 3, h, w) in [0, 1] as uint8 (n, t, h, w, 3), read if `path` exists."""
    if not path.is_file():
        frames = np.stack([from_model_range(2 * video.transpose(0, 1) - 1) for video in make()])
        aside = path.with_suffix(".writing.npy")
        np.save(aside, frames)
        aside.replace(path)
    return np.load(path, allow_pickle=False)


def second_difference(frames: np.ndarray) -> np.ndarray:
    """Mean squared change of the change, uint8 (t, h, w, c) -> (t - 2,) on the scale of [0, 1].

    Entry i belongs to frame i + 1. It is small where something smooth moves steadily, and large at
    a jolt.
    """
    values = frames.astype(np.float64) / 255
    return ((values[2:] - 2 * values[1:-1] + values[:-2]) ** 2).mean(axis=(1, 2, 3))


def borders(num_frames: int, stride: int) -> list[int]:
    """Entries of `second_difference` where one segment ends and the next begins."""
    return [frame - 1 for frame in range(stride, num_frames - 1, stride)]


def fast_share(frames: np.ndarray, stride: int) -> float:
    """Share of the change that keyframes cannot hold: above 1 / (2 stride) cycles per frame."""
    values = frames.astype(np.float64)
    power = np.abs(np.fft.rfft(values - values.mean(axis=0), axis=0)) ** 2
    fast = np.fft.rfftfreq(len(frames)) > 1 / (2 * stride)
    return float(power[fast].sum() / max(power.sum(), 1e-12))


def measure_distances(
    videos: Videos, clips: Path, settings: MeasureSettings
) -> dict[str, dict[str, float]]:
    """Distances of each contender from the real clips of the same sentences.

    The features are those of the embedded independent network. Those of "real" are the floors:
    other frames of the same real clips.
    """
    backbone = load_backbone(EMBEDDED)
    store = ClipStore(clips, "validation")
    picks = evenly(len(store), settings.videos)
    subjects = [subject_of(store.entries[int(i)]["clip_id"]) for i in picks]

    def embed(frames: np.ndarray) -> np.ndarray:
        return backbone.embed(frames[evenly(len(frames), 2 * DISTANCE_FRAMES)])

    embedded = [embed(frames) for frames in videos["real"]]
    real = FeatureSet(
        [distance_frames(rows, False) for rows in embedded]
        + [other_times(rows) for rows in embedded],
        subjects * 2,
        [REFERENCE] * len(embedded) + [OTHER_TIMES] * len(embedded),
    )
    found: dict[str, dict[str, float]] = {"real": {}}
    for name, clips_of_one in videos.items():
        if name == "real":
            continue
        rows = [distance_frames(embed(frames), False) for frames in clips_of_one]
        generated = FeatureSet(rows, subjects)
        scores, _ = distances(generated, real, measures=("frechet", "kernel"), seed=settings.seed)
        found[name] = {score.label: score.value for score in scores}
        found["real"] = {score.label: score.floor.value for score in scores if score.floor}
    return found


def measure(
    videos: Videos, stride: int, clips: Path, settings: MeasureSettings
) -> dict[str, dict[str, float]]:
    """Scores of each contender; the distances of "real" are between real clips: the floors."""
    num_frames = videos["real"].shape[1]
    scores = measure_distances(videos, clips, settings)
    jerks = {
        name: np.stack([second_difference(video) for video in frames])
        for name, frames in videos.items()
    }
    for name, frames in videos.items():
        jerk = jerks[name]
        scores[name] |= {
            "motion, px per frame": float(np.mean([motion_magnitude(video) for video in frames])),
            "temporal flicker": float(np.mean([temporal_flicker(video) for video in frames])),
            "second difference ×1000": 1e3 * float(jerk.mean()),
            "share of videos with less than ours": float(
                np.mean(jerk.mean(1) < jerks["ours"].mean(1))
            ),
            "second difference, borders / inside": seam_ratio(jerk, borders(num_frames, stride)),
            "fast share of the change": float(
                np.mean([fast_share(video, stride) for video in frames])
            ),
        }
    return scores


def draw(
    path: Path, losses: dict[str, list[tuple[int, float]]], videos: Videos, stride: int
) -> None:
    """Loss curves, second differences by frame, and x-t slices."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    left, right = top.subplots(1, 2)
    for name, series in losses.items():
        left.plot(
            [step for step, _ in series],
            [loss for _, loss in series],
            label=name,
            marker="o",
            markersize=3,
        )
    left.set(title="held-out loss, the same clips and noise", xlabel="step", ylabel="loss")
    num_frames = videos["ours"].shape[1]
    for name, frames in videos.items():
        jerk = np.stack([second_difference(video) for video in frames]).mean(axis=0)
        right.plot(range(1, num_frames - 1), jerk, label=name, marker="o", markersize=3)
    for border in borders(num_frames, stride):
        right.axvline(border + 1, color="#cccccc", linestyle="--", zorder=0)
    right.set(
        title="second difference by frame; dashed: segment borders", xlabel="frame", yscale="log"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels = bottom.subplots(len(videos), SLICES, squeeze=False)
    bottom.suptitle(
        "x-t slices (x right, time down), each at its video's row of most change", fontsize=10
    )
    for line, (name, frames) in zip(panels, videos.items(), strict=True):
        picks = np.linspace(0, len(frames) - 1, SLICES).round().astype(int)
        for axes, video in zip(line, frames[picks], strict=True):
            row = int(video.astype(np.float64).var(axis=0).mean(axis=(1, 2)).argmax())
            axes.imshow(video[:, row], interpolation="nearest", aspect="auto")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=80, metadata={"Software": None})
