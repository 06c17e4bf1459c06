"""Stage `curate`: raw videos and captions become a manifest in which every input has a verdict."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import stages

if TYPE_CHECKING:
    from lumiere.config import CurateConfig
    from lumiere.curation.clip_models import ClipModels


def main() -> None:
    """Parse the paths, curate, write the manifest, the report and the counts."""
    # Imported here, because worker processes import this module again and do not need any of this.
    from lumiere import tracking
    from lumiere.config import load_params, to_dict
    from lumiere.curation.curate import curate
    from lumiere.curation.html_report import write_page
    from lumiere.curation.manifest import write_manifest
    from lumiere.curation.manifest_report import counts, write_report
    from lumiere.curation.split import split_notes
    from lumiere.curation.unread_captions import find_unread
    from lumiere.data.ray_engine import engine
    from lumiere.data.remote import split_source
    from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone
    from lumiere.files import write_atomically
    from lumiere.plurals import counted

    arguments = stages.parse_arguments(
        __doc__,
        raw="raw videos: a folder, a glob, or an address such as s3://bucket/videos",
        captions="CSV: video, caption and optionally start, end",
        out="the manifest, parquet",
        report="folder for the report",
        metrics="JSON file for the counts",
        scratch="finished measurements",
    )
    params = load_params(arguments.params)
    config = params.curate
    with tracking.stage_run("curate", to_dict(config)) as run:
        network, models = EfficientNetLite0Backbone(), load_models(arguments.params, config)
        raw, pattern = split_source(arguments.raw, arguments.scratch.with_name("sources"))
        run_tasks = engine(params.runtime.engine, params.runtime.address, [raw])
        rows, pictures = curate(
            raw, arguments.captions, config, arguments.scratch, network, pattern, run_tasks, models
        )
        decode = params.decode
        unread = find_unread(rows, decode.text_encoder, decode.max_text_tokens)
        shutil.rmtree(arguments.report, ignore_errors=True)
        write_report(arguments.report, rows, pictures, config.min_motion, unread)
        page = arguments.report / "report.html"
        write_page(page, rows, pictures, config, decode.size, unread)
        write_manifest(arguments.out, rows)
        numbers = counts(rows)
        if unread.number is not None:
            numbers["captions_not_all_read"] = unread.number
        write_atomically(arguments.metrics, (json.dumps(numbers, indent=2) + "\n").encode())
        run.log_metrics(numbers)
        run.log_artifact(arguments.report)
        run.log_artifact(arguments.out)
    print(
        f"{counted(int(numbers['accepted']), 'clip')} accepted, {numbers['rejected']} rejected: see "
        f"{arguments.report}/report.html"
    )
    notes = [*split_notes(rows, config.validation_fraction), unread.note]
    for note in filter(None, notes):
        print(f"note: {note}", file=sys.stderr)


def load_models(params: Path, config: CurateConfig) -> ClipModels:
    """Load the models that the params name.

    Raises:
        ParamsError: if one cannot be used; it names the file and the key.
    """
    # Imported here, as in `main`.
    from lumiere.curation.clip_models import ClipModels, check_head

    captioner, network, head, reader = None, None, None, None
    if config.captioner:
        from lumiere.curation.captioning.captioner import TransformersCaptioner

        with stages.blaming(params, "curate.captioner"):
            captioner = TransformersCaptioner(config.captioner)
    if config.clip_model:
        from lumiere.evaluation.backbones.open_clip_image import OpenCLIPBackbone

        with stages.blaming(params, "curate.clip_model"):
            network = OpenCLIPBackbone(config.clip_model)
    if config.aesthetic_head and network is not None:
        from lumiere.evaluation.backbones.aesthetic import load_aesthetic_head

        with stages.blaming(params, "curate.aesthetic_head"):
            head = load_aesthetic_head(config.aesthetic_head)
            check_head(head, network)
    if config.text_reader == "rapidocr":
        from lumiere.curation.text_area import RapidOCRReader

        with stages.blaming(params, "curate.text_reader"):
            reader = RapidOCRReader()
    return ClipModels(captioner, network, head, reader)


if __name__ == "__main__":
    stages.run(main)
