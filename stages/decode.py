"""Stage `decode`: accepted videos become shards of uint8 clips with caption embeddings."""

from __future__ import annotations

import shutil
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import stages

if TYPE_CHECKING:
    from lumiere.config import DecodeConfig
    from lumiere.curation.manifest import Rows


def check_lengths(rows: Rows, config: DecodeConfig) -> None:
    """Raise ParamsError if a window is longer than an accepted clip."""
    from lumiere.errors import ParamsError
    from lumiere.plurals import counted

    seconds = config.num_frames / config.fps
    if short := [row["clip_id"] for row in rows if row["end"] - row["start"] < seconds - 1e-6]:
        raise ParamsError(
            f"decode.num_frames: {config.num_frames} at decode.fps {config.fps} are {seconds:g} s, but curation "
            f"accepted {counted(len(short), 'shorter clip')} ({short[0]}); allowed: at most curate.min_seconds"
        )


def main() -> None:
    """Parse the paths, cut the windows, embed the captions, write the shards."""
    # Imported here, because worker processes import this module again and do not need torch or a
    # text encoder.
    from lumiere import tracking
    from lumiere.config import load_params, to_dict
    from lumiere.curation.manifest import open_manifest, other_columns
    from lumiere.data.prepare import (
        COLUMNS,
        check_training_clips,
        cut_all,
        embed_captions,
        write_clips,
    )
    from lumiere.data.ray_engine import engine
    from lumiere.data.remote import split_source
    from lumiere.data.window_choice import WindowSettings
    from lumiere.errors import DataError
    from lumiere.plurals import counted
    from lumiere.text import load_text_encoder
    from lumiere.text.lost_words import find_losses, notes

    arguments = stages.parse_arguments(
        __doc__,
        manifest="output of the curate stage",
        raw="raw videos, as for curate",
        out="folder for the shards",
        scratch="finished windows",
    )
    params = load_params(arguments.params)
    config = params.decode
    with stages.reading(arguments.manifest):
        rows = open_manifest(arguments.manifest, COLUMNS, "accepted", with_others=True)
    if not rows:
        raise DataError(
            f"{arguments.manifest}: no clip was accepted; the report of the curate stage says why"
        )
    check_lengths(rows, config)
    with stages.blaming(arguments.params, "decode.text_encoder"):
        encoder = load_text_encoder(config.text_encoder, config.max_text_tokens)
    raw, _ = split_source(arguments.raw, arguments.scratch.with_name("sources"))
    names = [field.name for field in fields(WindowSettings)]
    settings = WindowSettings(**{name: getattr(config, name) for name in names})
    with tracking.stage_run("decode", to_dict(config)) as run:
        files, failures = cut_all(
            rows,
            raw,
            settings,
            config.workers,
            config.timeout_s,
            arguments.scratch,
            config.memory_mb,
            config.decoder,
            engine(params.runtime.engine, params.runtime.address, [raw]),
        )
        for clip_id, failure in sorted(failures.items()):
            print(f"left out: {clip_id}: {failure}", file=sys.stderr)
        check_training_clips(rows, files, arguments.raw)
        captions = [caption for row in rows for caption in row["captions"]]
        with stages.blaming(arguments.params, "decode.text_encoder"):  # loads its weights
            embeddings = embed_captions([*captions, ""], encoder, arguments.scratch)
        losses = find_losses(captions, encoder)
        for note in notes(losses, encoder):
            print(f"note: captions: {note}", file=sys.stderr)
        numbers = write_clips(
            arguments.out,
            rows,
            files,
            failures,
            embeddings,
            settings,
            config.clips_per_shard,
            others=other_columns(arguments.manifest),
            text_encoder=encoder.name,
            embed_dim=encoder.embed_dim,
            max_text_tokens=config.max_text_tokens,
        )
        run.log_metrics(
            {f"clips_{split}": count for split, count in numbers.items()}
            | {"failures": len(failures), "captions_not_all_read": len(losses)}
        )
    shutil.rmtree(arguments.scratch, ignore_errors=True)  # the shards contain all results now
    print(
        ", ".join(counted(count, f"{split} clip") for split, count in numbers.items())
        + f" in {arguments.out}"
    )


if __name__ == "__main__":
    stages.run(main)
