"""Stage `generate`: makes the videos of the prompts file, and the sets that the evaluation needs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

import stages
from lumiere import sample_files, tracking
from lumiere.config import GenerateConfig, load_params, to_dict
from lumiere.pipelines.assemble import assemble_pipeline, hash_model, load_guide
from lumiere.pipelines.evaluation_sets import write_sets
from lumiere.pipelines.input_files import Clips
from lumiere.pipelines.sample_videos import check_video, make_sample, read_videos
from lumiere.plurals import counted


def pipeline_defaults(config: GenerateConfig) -> dict[str, Any]:
    """Return the settings that all rows share. The saved pipeline has them too, so that it makes
    the same videos.
    """
    return {
        "num_inference_steps": config.num_inference_steps,
        "timestep_power": config.timestep_power,
        "guidance_scale": config.guidance_scale,
        "guidance_rescale": config.guidance_rescale,
        "guidance_interval": list(config.guidance_interval),
        "guidance_type": config.guidance_type,
        "guidance_eta": config.guidance_eta,
        "guidance_threshold": config.guidance_threshold,
        "guidance_momentum": config.guidance_momentum,
        "long_noise": config.long_noise,
        "noise_correlation": config.noise_correlation,
        "motion_scale": config.motion_scale,
        "motion_interval": list(config.motion_interval),
        "temporal_smoothing": config.temporal_smoothing,
        "smoothing_interval": list(config.smoothing_interval),
        "spatial_smoothing": config.spatial_smoothing,
        "ssr_noise_correlation": config.ssr_noise_correlation,
        "image_strength": config.image_strength,
        "num_frames": config.num_frames,
        "fps": config.fps,
        "ssr_steps": config.ssr_steps,
        "ssr_window_size": config.window_size,
        "ssr_overlap": config.overlap,
    }


def main() -> None:
    """Parse the arguments, assemble the pipeline, check the whole prompts file, generate, and
    write.
    """
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
        clips = Clips(arguments.clips)
    with tracking.stage_run("generate", to_dict(config)) as run:
        videos = read_videos(arguments.prompts, config.seed)
        models = arguments.conditioned, arguments.ssr, arguments.blended
        with stages.reading(*models):
            pipe = assemble_pipeline(*models, **pipeline_defaults(config))
        if config.guide_unet:
            with stages.blaming(arguments.params, "generate.guide_unet"):
                pipe.add_guide(load_guide(pipe.unet, Path(config.guide_unet)))
        for name, (line, request) in videos.items():
            with stages.blaming(arguments.prompts, f"line {line}: {name}"):
                for note in check_video(pipe, request, clips):
                    print(f"note: {name}: {note}", file=sys.stderr)
        for folder in (arguments.out, arguments.pipeline):
            shutil.rmtree(folder, ignore_errors=True)
        arguments.out.mkdir(parents=True)
        # Without Python files: samples carry a hash of this folder.
        pipe.save_pretrained(arguments.pipeline, remote_code=False)
        pipe.set_progress_bar_config(leave=False)
        model_sha256 = hash_model(arguments.pipeline)

        for name, (_, request) in tqdm(videos.items(), desc="generate", unit="video"):
            sample = make_sample(pipe, request, clips, model_sha256)
            sample_files.write_sample(arguments.out, sample)
            for suffix in sample_files.SHOWN_SUFFIXES:
                run.log_artifact(arguments.out / f"{name}{suffix}", "videos")
        sample_files.write_index(arguments.out, list(videos))

        sizes = write_sets(pipe, clips, config, arguments.out)
        counts = {f"{name}_set": size for name, size in sizes.items()}
        run.log_metrics({"videos": len(videos), **counts})
    print(
        f"{counted(len(videos), 'video')} in {arguments.out}, the pipeline in {arguments.pipeline}"
    )


if __name__ == "__main__":
    stages.run(main)
