"""Stage `evaluate`: generated videos are compared with real ones, in numbers, plots and a report."""

from __future__ import annotations

import json
import shutil
import sys

import stages


def main() -> None:
    """Parse the paths, measure, write the report and the metrics."""
    from lumiere import tracking
    from lumiere.config import load_params, to_dict
    from lumiere.evaluation.judge import load_judge
    from lumiere.evaluation.metrics import evaluate, flat_metrics
    from lumiere.evaluation.report import write_report
    from lumiere.evaluation.video_sets import measure_seams, read_generated_set, read_real_set
    from lumiere.files import write_atomically
    from lumiere.sample_files import read_samples

    arguments = stages.parse_arguments(
        __doc__,
        videos="output of the generate stage",
        clips="the decoded clips",
        out="folder for the report",
        metrics="JSON file for the metrics",
    )
    config = load_params(arguments.params).evaluate
    with tracking.stage_run("evaluate", to_dict(config)) as run:
        with stages.blaming(arguments.params, "evaluate"):
            judge = load_judge(config.judge, config.open_clip_model)
        generated = read_generated_set(arguments.videos, config.num_videos, config.num_frames)
        num_frames, *size = generated.frames.shape[1:4]
        real = read_real_set(arguments.clips, tuple(size), num_frames)
        samples, seams = read_samples(arguments.videos), measure_seams(arguments.videos)
        print(
            f"comparing {len(generated.frames)} clips and {len(samples)} samples with real clips "
            f"of {len(real.frames)} of {real.num_sources} videos"
        )
        evaluation = evaluate(judge, generated, real, samples, seams, config.seed)
        for name, why in evaluation.left_out().items():
            print(f"left out: {name}: {why}", file=sys.stderr)
        if evaluation.familiarity is not None and (warning := evaluation.familiarity.warning()):
            print(f"warning: {warning}", file=sys.stderr)
        metrics = flat_metrics(evaluation)

        shutil.rmtree(arguments.out, ignore_errors=True)
        write_report(arguments.out, evaluation, judge, generated, real)
        write_atomically(arguments.metrics, (json.dumps(metrics, indent=2) + "\n").encode())
        run.log_metrics(metrics)
        run.set_tags({"judge": judge.name, "preprocessing": judge.preprocessing})
        run.log_artifact(arguments.out)
    headline = {
        "R@1": "retrieval_r1",
        "R@1 of real clips": "real_retrieval_r1",
        "clip Fréchet distance": "frechet_clip",
        "its floor": "frechet_clip_floor",
    }
    figures = ", ".join(
        f"{name} {metrics[key]:.3g}" for name, key in headline.items() if key in metrics
    )
    print(f"{figures or 'measured'}: see {arguments.out}/report.md")


if __name__ == "__main__":
    stages.run(main)
