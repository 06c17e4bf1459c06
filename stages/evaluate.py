"""Stage `evaluate`: the generated videos are measured against real ones; numbers, plots, a report."""

from __future__ import annotations

import json
import shutil

import stages


def main() -> None:
    """Parses the paths, measures, writes the report and the metrics."""
    from lumiere import tracking
    from lumiere.config import ConfigError, load_params, to_dict
    from lumiere.evaluation.judge import load_judge
    from lumiere.evaluation.measure import flat_metrics, score_samples, score_seams, score_set
    from lumiere.evaluation.report import write_report
    from lumiere.evaluation.samples import (
        SamplesError,
        read_generated_set,
        read_real_set,
        read_samples,
        read_seams,
    )
    from lumiere.files import write_atomically

    arguments = stages.parse_arguments(
        __doc__,
        videos="what the generate stage wrote",
        clips="the decoded clips",
        out="folder for the report",
        metrics="JSON file for the metrics",
    )
    config = load_params(arguments.params).evaluate
    with tracking.stage_run("evaluate", to_dict(config)) as run:
        try:
            judge = load_judge(config.judge, config.open_clip_model)
            generated = read_generated_set(arguments.videos, config.num_videos, config.num_frames)
            samples, seams = read_samples(arguments.videos), score_seams(read_seams(arguments.videos))
        except (SamplesError, FileNotFoundError) as error:
            raise ConfigError(str(error)) from None
        num_frames, size = generated.frames.shape[1], generated.frames.shape[2:4]
        real = read_real_set(arguments.clips, size, num_frames)
        print(f"measuring {len(generated.frames)} clips, {len(samples)} samples against {len(real.frames)} real clips")
        scores = score_set(judge, generated, real, config.seed)
        sample_scores = score_samples(judge, samples)
        metrics = flat_metrics(scores, sample_scores, seams)

        shutil.rmtree(arguments.out, ignore_errors=True)
        write_report(arguments.out, scores, sample_scores, seams, generated, real, judge.name, judge.preprocessing)
        write_atomically(arguments.metrics, (json.dumps(metrics, indent=2) + "\n").encode())
        run.log_metrics(metrics)
        run.set_tags({"judge": judge.name, "preprocessing": judge.preprocessing})
        run.log_artifact(arguments.out)
    print(
        f"R@1 {metrics['retrieval_r1']:.2f} of {len(generated.frames)} (real {metrics['real_retrieval_r1']:.2f}), "
        f"clip Fréchet {metrics['frechet_clip']:.3f} (floor {metrics['frechet_clip_floor']:.3f}): "
        f"see {arguments.out}/report.md"
    )


if __name__ == "__main__":
    stages.run(main)
