"""Train what the demo has besides its image model: temporal layers, the fast network that is
distilled from them and the image model, and super-resolution, on all captioned videos of `data`,
and the styles of `data/styles`.

    PYTHONPATH=. python scripts/train_pretrained_layers.py --work /tmp/layers ssr
    PYTHONPATH=. python scripts/train_pretrained_layers.py --work /tmp/layers temporal
    PYTHONPATH=. python scripts/train_pretrained_layers.py --work /tmp/layers fast
    PYTHONPATH=. python scripts/train_pretrained_layers.py --work /tmp/layers styles
    PYTHONPATH=. python scripts/train_pretrained_layers.py --work /tmp/layers export --to /tmp/weights

The stages of the pipeline do the work, with the settings of `profiles/pretrained_layers.yaml`. A
call that was stopped continues where it was, because the stages do. `export` writes the weights in
fp16, in the folders in which `pretrained` has them, and a picture of samples of the styles.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from style_weights import export_styles

from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.distilled import DISTILLED_FILE, read_distilled, write_distilled
from lumiere.errors import DataError, run_program
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_scheduler
from lumiere.training.checkpoint import fingerprint

ROOT = Path(__file__).resolve().parent.parent
SHORT_CAPTIONS = 3  # of a video, beside its two sentences
STAGES = {
    "ssr": ["train_ssr"],
    "temporal": ["prepare_t2i", "train_base", "train_conditioned"],
    "fast": ["distil"],
}
PARTS = [*STAGES, "styles"]
OUTPUTS = {"distil": "distilled"}  # folders that are not called as their stage
TRAINED_FROM = "trained_from"  # a file in a style's folder; written when its training has ended


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes at any depth; mask weights are replaced as a whole."""
    merged = dict(settings)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and key != "mask_weights"
        merged[key] = merge(merged.get(key, {}), value) if is_section else value
    return merged


def write_params(path: Path, profile: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write the params that a stage reads: `params.yaml`, changed by a profile and then by
    `changes`. Return them.
    """
    params, own = (
        yaml.safe_load(file.read_text(encoding="utf-8")) for file in (ROOT / "params.yaml", profile)
    )
    params = merge(merge(params, own), changes)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return params


def read_subjects(data: Path) -> dict[str, dict[str, str]]:
    """Read the rows of `pretraining/subjects.csv` that have a video, by the video's path in
    `data`.
    """
    with open(data / "pretraining/subjects.csv", newline="", encoding="utf-8") as file:
        return {row["video"]: row for row in csv.DictReader(file) if row["video"]}


def collect(data: Path, raw: Path, captions: Path) -> None:
    """Gather all captioned videos in one folder, and their captions in one table.

    Args:
        data: with `raw`, `captions.csv` and `pretraining`.
        raw: the folder to make.
        captions: the table to write: the sentences, and up to `SHORT_CAPTIONS` short captions.
    """
    subjects = read_subjects(data)
    raw.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    for folder in (data / "raw", data / "pretraining/raw"):
        with open(folder.parent / "captions.csv", newline="", encoding="utf-8") as file:
            sentences = [(row["video"], row["caption"]) for row in csv.DictReader(file)]
        for name in sorted({video for video, _ in sentences}):
            subject = subjects.get((folder / name).relative_to(data).as_posix())
            if subject is None:
                continue
            shutil.copyfile(folder / name, raw / name)
            rows += [(name, sentence) for video, sentence in sentences if video == name]
            shorts = subject["captions"].split("|")[:SHORT_CAPTIONS]
            rows += [(name, caption) for caption in shorts]
    with open(captions, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "caption"])
        writer.writerows(dict.fromkeys(rows))


def hold_out(manifest: Path, data: Path) -> None:
    """Hold out the videos that the image model does not see, even if others look like them."""
    held_out = {
        Path(video).name
        for video, row in read_subjects(data).items()
        if row["split"] == "validation"
    }
    rows = read_manifest(manifest)
    for row in rows:
        if row["verdict"] == "accepted" and row["video"] in held_out:
            row["split"] = "validation"
    write_manifest(manifest, rows)


def run_stage(name: str, params: Path, **paths: Path) -> None:
    """Run a stage.

    Raises:
        DataError: if it fails; it has said why.
    """
    options = [part for key, path in paths.items() for part in (f"--{key}", str(path))]
    command = [sys.executable, "-m", f"stages.{name}", "--params", str(params)]
    env = {**os.environ, "LUMIERE_TRACKING": os.environ.get("LUMIERE_TRACKING", "off")}
    if subprocess.run([*command, *options], cwd=ROOT, env=env).returncode:
        raise DataError(f"stages.{name} failed", "mend what it says, and call again")


def prepare(work: Path, data: Path) -> None:
    """Curate and decode the videos, unless that is done; then say so, because changes have no
    effect.
    """
    clips = work / "clips"
    if clips.is_dir():
        print(f"{clips} exists, so --data and the profile's curate and decode are not read again")
        return
    collect(data, work / "raw", work / "captions.csv")
    params = work / "params.yaml"
    run_stage(
        "curate",
        params,
        raw=work / "raw",
        captions=work / "captions.csv",
        out=work / "manifest.parquet",
        report=work / "report",
        metrics=work / "curate.json",
        scratch=work / "scratch/curate",
    )
    hold_out(work / "manifest.parquet", data)
    run_stage("decode", params, manifest=work / "manifest.parquet", raw=work / "raw", out=clips)


def train(work: Path, part: str) -> None:
    """Run the trainings of a part.

    Raises:
        DataError: if one fails, or the part needs another part that is not trained.
    """
    inputs = {"clips": work / "clips"}
    conditioned = work / "conditioned"
    if part == "fast" and not (conditioned / "config.json").is_file():
        raise DataError(
            f"{conditioned}: no network to distil", "call the script with temporal first"
        )
    for stage in STAGES[part]:
        scratch = {"scratch": work / "scratch" / stage}
        match stage:
            case "train_base":
                inputs["t2i"] = work / "t2i"
            case "train_conditioned":
                inputs = {"clips": work / "clips", "base": work / "base"}
            case "distil":
                inputs["conditioned"] = conditioned
        out = work / OUTPUTS.get(stage, stage.removeprefix("train_").removeprefix("prepare_"))
        run_stage(stage, work / "params.yaml", **inputs, out=out, **scratch)


def train_styles(work: Path, t2i: Path, profile: Path, styles: Path) -> None:
    """Train every style, unless that is done with the same settings, image model and pictures.

    Args:
        work: gets a folder of weights, `styles/<name>`, for each style.
        t2i: the text-to-image model.
        profile: what differs from params.yaml.
        styles: one folder of captioned pictures per style.

    Raises:
        DataError: if there is no style, or a training fails.
    """
    folders = sorted(path.parent for path in styles.glob("*/captions.csv"))
    if not folders:
        raise DataError(f"{styles}: no style", "make a folder there with pictures and captions.csv")
    for folder in folders:
        out = work / "styles" / folder.name
        out.mkdir(parents=True, exist_ok=True)
        params = write_params(out / "params.yaml", profile, {"train_style": {"style": folder.name}})
        settings = {name: params[name] for name in ("train_style", "launch")}
        source = fingerprint(settings, [t2i / "unet", folder])
        record = out / TRAINED_FROM
        if record.is_file() and record.read_text(encoding="utf-8") == source:
            continue
        record.unlink(missing_ok=True)
        run_stage(
            "train_style",
            out / "params.yaml",
            t2i=t2i,
            styles=styles,
            out=out,
            scratch=work / "scratch/train_style" / folder.name,
        )
        record.write_text(source, encoding="utf-8")


def export(work: Path, folder: Path, t2i: Path, styles: Path) -> None:
    """Write the trained parts in fp16.

    Args:
        work: holds what was trained.
        folder: where to write.
        t2i: the text-to-image model, for samples of the styles.
        styles: the styles' captioned pictures.

    Raises:
        DataError: if no part is trained.
    """
    written = []
    for trained, temporal in (("conditioned", "temporal"), ("ssr", "temporal_ssr")):
        if not (work / trained / "config.json").is_file():
            continue
        network = SpaceTimeUNet.from_pretrained(work / trained, torch_dtype=torch.float16)
        network.save_temporal(folder / temporal)
        if trained == "ssr":
            # Otherwise diffusers writes down the folder that the weights came from.
            network.unet.register_to_config(_name_or_path="")
            network.unet.save_pretrained(folder / "ssr_image/unet")
            load_scheduler(work / trained / "scheduler").save_pretrained(
                folder / "ssr_image/scheduler"
            )
        written.append(trained)
    if (work / "distilled" / DISTILLED_FILE).is_file():
        export_fast(work / "distilled", folder / "fast")
        written.append("distilled")
    trained_styles = sorted(path.parent for path in (work / "styles").glob(f"*/{TRAINED_FROM}"))
    if trained_styles:
        export_styles(trained_styles, folder / "styles", t2i, styles)
    if not written and not trained_styles:
        raise DataError(
            f"{work}: nothing is trained", f"call the script with {' or '.join(PARTS)} first"
        )


def export_fast(distilled: Path, folder: Path) -> None:
    """Write a distilled network in fp16, as `LumierePipeline.load_distilled` reads it."""
    network = SpaceTimeUNet.from_pretrained(distilled, torch_dtype=torch.float16)
    network.unet.register_to_config(_name_or_path="")
    network.save_pretrained(folder)
    load_scheduler(distilled / "scheduler").save_pretrained(folder / "scheduler")
    write_distilled(folder, read_distilled(distilled))


def run(parser: argparse.ArgumentParser) -> None:
    """Train or export."""
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    t2i, styles = arguments.t2i.absolute(), arguments.data.absolute() / "styles"
    if arguments.part == "export":
        if arguments.to is None:
            parser.error("export needs --to FOLDER")
        export(work, arguments.to, t2i, styles)
        return
    work.mkdir(parents=True, exist_ok=True)
    if arguments.part == "styles":
        train_styles(work, t2i, arguments.profile, styles)
        return
    changes = {"prepare_t2i": {"source": str(t2i)}}
    write_params(work / "params.yaml", arguments.profile, changes)
    prepare(work, arguments.data)
    train(work, arguments.part)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "export"], help="what to do")
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and weights")
    parser.add_argument("--to", type=Path, help="folder for the exported weights")
    parser.add_argument(
        "--t2i", type=Path, default=ROOT / "pretrained/t2i", help="the text-to-image model"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        default=ROOT / "profiles/pretrained_layers.yaml",
        help="what differs from params.yaml",
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", help="videos and style pictures"
    )
    run_program(lambda: run(parser))


if __name__ == "__main__":
    main()
