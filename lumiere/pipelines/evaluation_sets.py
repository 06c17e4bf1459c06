"""Makes the videos that the evaluation needs besides those of the prompts file, in the
`generate` stage: the sets of `lumiere.sample_files`.

Entries say how each clip is made; the functions that make clips give one batch after the other, so
that memory does not grow with the size of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.pixel_values import from_unit_range
from lumiere.data.shards import read_info
from lumiere.pipelines.input_files import Clips
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, LumiereUpscalePipelineOutput
from lumiere.pipelines.styles import StyleBook
from lumiere.sample_files import (
    HELD_OUT,
    IMAGE_TO_VIDEO,
    SEAMS,
    STYLES,
    TEXT_TO_VIDEO,
    ClipSet,
    SetEntry,
    read_set,
    write_set,
)


@dataclass(frozen=True)
class Caption:
    """The first sentence of a real clip, with that clip's id and its source video."""

    text: str
    clip_id: str
    subject: str


def write_sets(
    pipe: LumierePipeline, clips: Clips, config: GenerateConfig, folder: Path
) -> dict[str, int]:
    """Make and write all sets.

    Returns:
        The number of clips of each.
    """
    training, validation = clips.stores
    captions = draw_captions(training, config.set_size, config.seed)
    unseen = draw_captions(validation, config.held_out_set_size, config.seed)
    styled = plan_clips(captions[: config.style_prompts], "text_to_video", config)
    planned = {
        TEXT_TO_VIDEO: plan_clips(captions, "text_to_video", config),
        HELD_OUT: plan_clips(unseen, "text_to_video", config, held_out=True),
        IMAGE_TO_VIDEO: plan_clips(captions[: config.image_set_size], "image_to_video", config),
        STYLES: plan_styles(styled, pipe.styles),
    }

    def first_frame(entry: SetEntry) -> np.ndarray:
        return clips.frames(entry.clip_id)[0]

    sizes = {}
    for name, entries in planned.items():
        image = first_frame if name == IMAGE_TO_VIDEO else None
        made = make_clips(pipe, entries, config.batch_size, name.replace("_", " "), image)
        sizes[name] = write_set(folder, name, made)
    low = read_set(folder, TEXT_TO_VIDEO)
    sizes[SEAMS] = write_set(folder, SEAMS, upscale_both_ways(pipe, low, config))
    return sizes


def draw_captions(store: ClipStore, count: int, seed: int) -> list[Caption]:
    """Draw at most `count` different captions by `seed`, each from another source video."""
    drawn: list[Caption] = []
    subjects: set[str] = set()
    texts: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(store)):
        if len(drawn) == count:
            break
        info = read_info(store.folder, store.entries[int(index)])
        text, subject = info["captions"][0], info["video"]
        if subject not in subjects and text not in texts:
            subjects.add(subject)
            texts.add(text)
            drawn.append(Caption(text, info["clip_id"], subject))
    return drawn


def plan_clips(
    captions: Sequence[Caption], mode: str, config: GenerateConfig, held_out: bool = False
) -> list[SetEntry]:
    """Plan one clip per caption, each with a seed of its own."""
    return [
        SetEntry(
            prompt=caption.text,
            mode=mode,
            seed=config.seed + number,
            fps=config.fps,
            clip_id=caption.clip_id,
            subject=caption.subject,
            held_out=held_out,
        )
        for number, caption in enumerate(captions)
    ]


def plan_styles(entries: Sequence[SetEntry], styles: StyleBook) -> list[SetEntry]:
    """Plan every entry in every style, at alpha 0 and at the alphas that were blended."""
    planned = []
    for style in styles:
        for alpha in sorted({0.0, *styles.alphas(style)}):
            planned += [replace(entry, style=style, alpha=alpha) for entry in entries]
    return planned


def make_clips(
    pipe: LumierePipeline,
    entries: Sequence[SetEntry],
    batch_size: int,
    description: str,
    image: Callable[[SetEntry], np.ndarray] | None = None,
) -> Iterator[tuple[SetEntry, np.ndarray]]:
    """Make clips at base size, uint8 (t, h, w, 3).

    At alpha 0 a style has no part in its clips, so all styles share them. They stay in memory:
    there are as many as a style has prompts.

    Args:
        pipe: the model.
        entries: how to make each; neighbours of one mode, style and alpha share forward passes.
        batch_size: clips in one forward pass.
        description: of the progress bar.
        image: loads the first frame of an entry, uint8 (h, w, 3), for image to video.
    """
    shared: dict[tuple[SetEntry, ...], list[np.ndarray]] = {}
    with tqdm(total=len(entries), desc=description, unit="clip") as progress:
        for _, alike in groupby(entries, lambda entry: (entry.mode, entry.style, entry.alpha)):
            for batch in _batches(list(alike), batch_size):
                key = tuple(replace(entry, style="") for entry in batch)
                frames = shared.get(key) or _make_batch(pipe, batch, image)
                if batch[0].style and batch[0].alpha == 0:
                    shared[key] = frames
                for clip in zip(batch, frames, strict=True):
                    yield clip
                    progress.update()


def upscale_both_ways(
    pipe: LumierePipeline, clips: ClipSet, config: GenerateConfig
) -> Iterator[tuple[SetEntry, np.ndarray]]:
    """Super-resolve the middles of the first clips with MultiDiffusion, then in independent windows.

    Both start from the same noise. Frames are uint8 (t, h, w, 3), in and out.
    """
    upscale = pipe.upscaler()
    upscale.set_progress_bar_config(leave=False)
    count = min(config.seam_videos, len(clips))
    for entry, frames in tqdm(islice(clips, count), desc="seams", unit="clip", total=count):
        scale = upscale.enlarged_size(frames.shape[1:3])[0] / frames.shape[1]
        for multidiffusion in (True, False):
            output = upscale(
                _middle(frames, config.seam_crop),
                num_inference_steps=config.ssr_steps,
                scale=scale,
                window_size=config.seam_window_size,
                overlap=config.seam_overlap,
                multidiffusion=multidiffusion,
                generator=torch.Generator().manual_seed(entry.seed),
                output_type="pt",
            )
            made = from_unit_range(cast(LumiereUpscalePipelineOutput, output).frames[0])
            planned = replace(
                entry,
                window_size=config.seam_window_size,
                overlap=config.seam_overlap if multidiffusion else 0,
                multidiffusion=multidiffusion,
            )
            yield planned, made


def _make_batch(
    pipe: LumierePipeline,
    batch: Sequence[SetEntry],
    image: Callable[[SetEntry], np.ndarray] | None,
) -> list[np.ndarray]:
    options: dict[str, Any] = {}
    if image is not None:
        options["image"] = [image(entry) for entry in batch]
    if batch[0].alpha > 0:  # at 0 the blend is the model itself
        options |= {"style": batch[0].style, "alpha": batch[0].alpha}
    output = pipe(
        [entry.prompt for entry in batch],
        mode=batch[0].mode,
        generator=[torch.Generator().manual_seed(entry.seed) for entry in batch],
        upscale=False,
        output_type="pt",
        **options,
    )
    return [from_unit_range(clip) for clip in cast(LumierePipelineOutput, output).frames]


def _batches(entries: Sequence[SetEntry], size: int) -> Iterator[Sequence[SetEntry]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _middle(frames: np.ndarray, side: int) -> np.ndarray:
    """Return the middle of frames (t, h, w, c), at most `side` pixels high and wide."""
    height, width = frames.shape[1:3]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return frames[:, top : top + side, left : left + side]
