"""Stage `evaluate`: generated videos are compared with real ones, in numbers, plots and a report."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import stages


def main() -> None:
    """Parse the paths, measure, write the report and the metrics."""
    from lumiere import tracking
    from lumiere.config import load_params, to_dict
    from lumiere.evaluation.clip_sets import RealClips
    from lumiere.evaluation.folders import load_networks
    from lumiere.evaluation.judge import load_judge
    from lumiere.evaluation.report import previous_metrics, summary, write_changes, write_report
    from lumiere.evaluation.scores import detailed
    from lumiere.evaluation.stage_sets import evaluate_stage, familiarity_warning
    from lumiere.files import write_atomically
    from lumiere.sample_files import read_samples

    arguments = stages.parse_arguments(
        __doc__,
        scratch="features of networks, kept between runs",
        videos="output of the generate stage",
        clips="the decoded clips",
        styles="folder with one folder of pictures per style",
        out="folder for the report",
        metrics="JSON file for the metrics",
    )
    config = load_params(arguments.params).evaluate
    with tracking.stage_run("evaluate", to_dict(config)) as run:
        with stages.blaming(arguments.params, "evaluate"):
            networks = load_networks(
                config.backbones, str(arguments.scratch / "features"), config.aesthetic
            )
            judge = load_judge(config.judge, config.open_clip_model)
        networks = replace(networks, judge=judge)
        warning = familiarity_warning(judge, RealClips(arguments.clips, config.num_frames))
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        result = evaluate_stage(
            arguments.videos,
            arguments.clips,
            arguments.styles,
            networks,
            read_samples(arguments.videos),
            num_videos=config.num_videos,
            num_frames=config.num_frames,
            seed=config.seed,
        )
        for remark in result.content.left_out:
            print(f"left out: {remark.name}: {remark.why}", file=sys.stderr)

        shutil.rmtree(arguments.out, ignore_errors=True)
        report = write_report(arguments.out, result.content)
        details = json.dumps(detailed(result.content.scores), indent=1, ensure_ascii=False) + "\n"
        write_atomically(arguments.out / "scores.json", details.encode())
        # Read before the metrics are written: outside of Git there is nothing to compare with.
        previous = previous_metrics(arguments.metrics)
        metrics = json.dumps(result.metrics, indent=2) + "\n"
        write_atomically(arguments.metrics, metrics.encode())
        run.log_metrics(result.metrics)
        run.set_tags({"judge": judge.name, "features": networks.main.name})
        run.log_artifact(arguments.out)
        if previous is not None:
            # Beside the outputs: what was committed must not decide the bytes of an output.
            changes = arguments.scratch / "changes.html"
            write_changes(changes, result.content.scores, previous)
            run.log_artifact(changes)
            for line in summary(result.content.scores, previous):
                print(line)
    shown = ("independent_frechet", "independent_frechet_floor", "retrieval_r1")
    figures = ", ".join(
        f"{key} {result.metrics[key]:.3g}" for key in shown if key in result.metrics
    )
    print(f"{figures or 'measured'}: see {report}")


if __name__ == "__main__":
    stages.run(main)
