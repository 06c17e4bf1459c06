"""Stage `generate`: a batch of videos in every mode, base then super-resolution, and what the evaluation needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

import stages
from lumiere import tracking
from lumiere.config import GenerateConfig, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.errors import ParamsError
from lumiere.pipelines import LumierePipeline, LumierePipelineOutput
from lumiere.pipelines.assemble import assemble_pipeline
from lumiere.pipelines.batch import Job, read_jobs
from lumiere.pipelines.samples import (
    check_jobs,
    generate_set,
    given_pixels,
    save_sample,
    save_seams,
    save_text_to_video_set,
    set_prompts,
)


def settings_of(config: GenerateConfig) -> dict[str, Any]:
    """What every row shares: the defaults of the pipeline, so that whoever loads it gets the same videos."""
    return {
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "guidance_rescale": config.guidance_rescale,
        "image_strength": config.image_strength,
        "num_frames": config.num_frames,
        "fps": config.fps,
        "ssr_steps": config.ssr_steps,
        "ssr_window_size": config.window_size,
        "ssr_overlap": config.overlap,
    }


def generate_one(
    pipe: LumierePipeline, job: Job, stores: list[ClipStore], config: GenerateConfig, out: Path
) -> None:
    """One row of the prompts file: `<name>.mp4`, its sidecar, contact sheet and x-t slice."""
    output = pipe(
        job.prompt,
        mode=job.mode,
        strength=job.strength,
        style=job.style or None,
        alpha=job.alpha,
        generator=torch.Generator().manual_seed(config.seed),
        **given_pixels(job, stores),
    )
    save_sample(
        out, job, cast(LumierePipelineOutput, output), {"seed": config.seed, **settings_of(config)}
    )


def main() -> None:
    """Parse, assemble the pipeline, generate, write."""
    arguments = stages.parse_arguments(
        __doc__,
        conditioned="the conditioned Space-Time U-Net",
        ssr="the super-resolution network",
        blended="blended style weights",
        clips="the decoded clips, for pixels and captions",
        prompts="CSV file, one video per row",
        out="folder for the videos",
        pipeline="folder for the assembled pipeline",
    )
    config = load_params(arguments.params).generate
    with stages.reading(arguments.clips):
        stores = [ClipStore(arguments.clips), ClipStore(arguments.clips, "validation")]
    with tracking.stage_run("generate", to_dict(config)) as run:
        try:
            jobs = read_jobs(arguments.prompts)
            pipe = assemble_pipeline(
                arguments.conditioned, arguments.ssr, arguments.blended, **settings_of(config)
            )
            check_jobs(arguments.prompts, jobs, pipe, stores, config)
        except ValueError as error:
            raise ParamsError(str(error)) from None
        for folder in (arguments.out, arguments.pipeline):
            shutil.rmtree(folder, ignore_errors=True)
        arguments.out.mkdir(parents=True)
        pipe.save_pretrained(arguments.pipeline)
        pipe.set_progress_bar_config(leave=False)

        for job in tqdm(jobs, desc="generate", unit="video"):
            generate_one(pipe, job, stores, config, arguments.out)
            for suffix in (".mp4", ".sheet.png", ".xt.png"):
                run.log_artifact(arguments.out / f"{job.name}{suffix}", "videos")
        names = [job.name for job in jobs]
        (arguments.out / "index.json").write_text(
            json.dumps(names, indent=1) + "\n", encoding="utf-8"
        )

        prompts = set_prompts(stores[0], config.set_size, config.seed)
        frames = generate_set(pipe, prompts, config)
        save_text_to_video_set(arguments.out, frames, prompts, config.fps)
        save_seams(arguments.out, pipe, frames[: config.seam_videos], config)
        run.log_metrics({"videos": len(jobs), "text_to_video_set": len(frames)})
    print(f"{len(jobs)} videos in {arguments.out}, the pipeline in {arguments.pipeline}")


if __name__ == "__main__":
    stages.run(main)
