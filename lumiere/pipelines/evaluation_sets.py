"""Makes the videos that the evaluation needs besides those of the prompts file, in the
`generate` stage.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from tqdm import tqdm

from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.pixel_values import from_unit_range
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, LumiereUpscalePipelineOutput


def draw_captions(store: ClipStore, count: int, seed: int) -> list[str]:
    """Draw at most `count` different captions of training clips by `seed`, each from another
    source video.
    """
    captions: dict[str, str] = {}
    for index in np.random.default_rng(seed).permutation(len(store)):
        clip = store[int(index)]
        captions.setdefault(clip.video, clip.captions[0])
        if len(captions) == count:
            break
    return list(dict.fromkeys(captions.values()))


def make_text_to_video_set(
    pipe: LumierePipeline, prompts: list[str], config: GenerateConfig
) -> np.ndarray:
    """Make one clip per prompt at base size, uint8 (n, t, h, w, c), each with a seed of its own."""
    clips: list[np.ndarray] = []
    starts = range(0, len(prompts), config.batch_size)
    for start in tqdm(starts, desc="text-to-video set", unit="batch"):
        batch = prompts[start : start + config.batch_size]
        seeds = range(config.seed + start, config.seed + start + len(batch))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        output = cast(LumierePipelineOutput, pipe(batch, generator=generators, upscale=False))
        clips.extend(from_unit_range(clip) for clip in output.frames)
    return np.stack(clips)


def upscale_both_ways(
    pipe: LumierePipeline, clips: np.ndarray, config: GenerateConfig
) -> dict[str, np.ndarray]:
    """Super-resolve clips with MultiDiffusion and in independent windows; uint8 (n, t, h, w, c),
    in and out.
    """
    upscale = pipe.upscaler()
    upscale.set_progress_bar_config(leave=False)
    videos: dict[str, list[np.ndarray]] = {"multidiffusion": [], "independent": []}
    for clip in clips:
        for name, made in videos.items():
            output = upscale(
                clip,
                num_inference_steps=config.ssr_steps,
                window_size=config.window_size,
                overlap=config.overlap,
                multidiffusion=name == "multidiffusion",
                generator=torch.Generator().manual_seed(config.seed),
            )
            made.append(from_unit_range(cast(LumiereUpscalePipelineOutput, output).frames[0]))
    return {name: np.stack(made) for name, made in videos.items()}
