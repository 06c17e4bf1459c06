"""Stage `curate`: raw videos and captions become a manifest in which every input has a verdict."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import stages


def main() -> None:
    """Parses the paths, curates, writes the manifest, the report and the counts."""
    # Imported here: worker processes import this module anew and need none of this.
    from lumiere import tracking
    from lumiere.config import load_params, to_dict
    from lumiere.curation.curate import curate
    from lumiere.curation.manifest import write_manifest
    from lumiere.curation.report import counts, write_report
    from lumiere.files import write_atomically

    arguments = parse_arguments()
    config = load_params(arguments.params).curate
    with tracking.stage_run("curate", to_dict(config)) as run:
        rows, pictures = curate(arguments.raw, arguments.captions, config, arguments.scratch)
        shutil.rmtree(arguments.report, ignore_errors=True)
        write_report(arguments.report, rows, pictures, config.min_motion)
        write_manifest(arguments.out, rows)
        numbers = counts(rows)
        write_atomically(arguments.metrics, (json.dumps(numbers, indent=2) + "\n").encode())
        run.log_metrics(numbers)
        run.log_artifact(arguments.report)
        run.log_artifact(arguments.out)
    print(f"{numbers['accepted']} clips accepted, {numbers['rejected']} rejected: see {arguments.report}/report.md")


def parse_arguments() -> argparse.Namespace:
    """Paths as dvc.yaml gives them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--raw", type=Path, required=True, help="folder of raw videos")
    parser.add_argument("--captions", type=Path, required=True, help="CSV: video, caption and optionally start, end")
    parser.add_argument("--out", type=Path, required=True, help="the manifest, parquet")
    parser.add_argument("--report", type=Path, required=True, help="folder for the report")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the counts")
    parser.add_argument("--scratch", type=Path, default=Path(".lumiere/scratch/curate"), help="finished measurements")
    return parser.parse_args()


if __name__ == "__main__":
    stages.run(main)
