"""Tests the training of the demo's layers and styles: what it trains on, and whole runs in a few steps."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import stages
from lumiere.curation.manifest import empty_row, write_manifest
from lumiere.diffusion.objective import make_scheduler
from lumiere.distilled import read_distilled
from lumiere.errors import DataError
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import TextToImage, load_image_network, load_scheduler
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.pipelines import assemble
from tests.video_factory import encode, numbered

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import style_weights  # noqa: E402
import train_pretrained_layers as script  # noqa: E402

# subject -> its folder and its split
VIDEOS = {
    "cat": ("raw", "train"),
    "dog": ("raw", "validation"),
    "fox": ("pretraining/raw", "train"),
    "owl": ("pretraining/raw", "train"),
}
OPTIM = {"steps": 1, "batch_size": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make four videos in two folders, with their sentences and short captions."""
    folder = tmp_path / "data"
    for number, (name, (place, _)) in enumerate(VIDEOS.items()):
        frames = numbered(24, subject=number, height=128, width=128)
        encode(folder / place / f"{name}.mp4", frames)
    for place in ("raw", "pretraining/raw"):
        with open(folder / place / "../captions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "caption"])
            for name, (own, _) in VIDEOS.items():
                if own == place:
                    writer.writerow([f"{name}.mp4", f"the {name} walks over a field"])
            writer.writerow(["test.mp4", "a video that only tests curation"])
    with open(folder / "pretraining/subjects.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "split", "video", "captions"])
        writer.writerow(["stone", "train", "", "a stone"])
        for name, (place, split) in VIDEOS.items():
            captions = f"a {name}|{name}|a {name} walks|a brown {name}"
            writer.writerow([name, split, f"{place}/{name}.mp4", captions])
    return folder


@pytest.fixture
def stages_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the script run its stages in this process, and list their names.

    That spares the time that a new process needs to import torch.
    """
    names: list[str] = []

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        names.append(command[2])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command[2:])
            stages.run(importlib.import_module(command[2]).main)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    monkeypatch.setenv("LUMIERE_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what a stage sets is gone afterwards
    monkeypatch.chdir(ROOT)
    return names


def call_script(*options: str | Path) -> None:
    """Call the script's command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *map(str, options)])
        script.main()


def test_all_captioned_videos_are_gathered(data: Path, tmp_path: Path) -> None:
    script.collect(data, tmp_path / "all", tmp_path / "all.csv")
    assert sorted(path.stem for path in (tmp_path / "all").iterdir()) == sorted(VIDEOS)
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row["caption"] for row in rows if row["video"] == "fox.mp4"]
    assert own == ["the fox walks over a field", "a fox", "fox", "a fox walks"]


def test_what_the_image_model_does_not_see_is_held_out(data: Path, tmp_path: Path) -> None:
    names = [f"{name}.mp4" for name in VIDEOS]
    verdicts = ["accepted", "accepted", "accepted", "rejected"]
    path = tmp_path / "manifest.parquet"
    facts = {"exact_start": "0", "exact_end": "1", "end": 1.0, "captions": ["a thing"]}
    facts |= {"split": "train", "decoder": "pyav", "sha256": "0" * 64}
    facts |= {"width": 64, "height": 64, "duration": 1.0}
    rows = [
        empty_row() | facts | {"clip_id": name, "video": name, "verdict": verdict}
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    write_manifest(path, rows)
    script.hold_out(path, data)
    assert pd.read_parquet(path)["split"].tolist() == ["train", "validation", "train", "train"]


def test_a_profile_changes_what_it_names() -> None:
    settings = {"a": {"x": 1, "optim": {"steps": 5, "seed": 0}, "mask_weights": {"p": 1}}, "b": 2}
    changes = {"a": {"optim": {"steps": 7}, "mask_weights": {"q": 2}}}
    expected = {"x": 1, "optim": {"steps": 7, "seed": 0}, "mask_weights": {"q": 2}}
    assert script.merge(settings, changes) == {"a": expected, "b": 2}


def test_the_shipped_profile_names_keys_of_params() -> None:
    params, profile = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("params.yaml", "profiles/pretrained_layers.yaml")
    )

    def check(changes: dict[str, Any], settings: dict[str, Any]) -> None:
        for key, value in changes.items():
            assert key in settings
            if isinstance(value, dict):
                check(value, settings[key])

    check(profile, params)


@pytest.mark.usefixtures("stages_run")
def test_super_resolution_is_trained_and_exported(data: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    ssr = {"image_model": "train", "image_init_from": "pretrained/ssr_image", "crop": 16}
    ssr |= {"window_size": 2, "image_optim": OPTIM, "optim": OPTIM}
    small: dict[str, Any] = {"train_ssr": ssr, "decode": {"workers": 1}, "curate": {"workers": 1}}
    profile.write_text(yaml.safe_dump(small | {"runtime": {"sample_every": 0}}))
    work = tmp_path / "work"
    call_script("--work", work, "--profile", profile, "--data", data, "ssr")
    assert pd.read_parquet(work / "manifest.parquet").set_index("video")["split"]["dog.mp4"] == (
        "validation"
    )

    call_script("--work", work, "--to", tmp_path / "weights", "export")
    trained = SpaceTimeUNet.from_pretrained(work / "ssr")
    exported, _ = load_image_network(tmp_path / "weights/ssr_image")
    before, _ = load_image_network(ROOT / "pretrained/ssr_image")
    again = SpaceTimeUNet.from_unet2d(exported, temporal_resampling=False)
    again.load_temporal(tmp_path / "weights/temporal_ssr")
    stored = again.state_dict()
    for name, value in trained.state_dict().items():
        assert torch.equal(stored[name], value.half().float()), name
    pairs = zip(before.parameters(), exported.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)


@pytest.mark.usefixtures("stages_run")
def test_a_fast_network_is_distilled_and_exported(data: Path, t2i: Path, tmp_path: Path) -> None:
    work, weights = tmp_path / "work", tmp_path / "weights"
    own = ("--work", work, "--data", data, "--t2i", t2i, "--profile", tmp_path / "profile.yaml")
    nothing = {"init_from": "", "optim": OPTIM | {"steps": 0}}
    small: dict[str, Any] = {
        "train_base": nothing,
        "train_conditioned": nothing,
        "distil": {"num_inference_steps": 2, "teacher_steps": 4, "optim": OPTIM},
        "decode": {"max_text_tokens": 8, "workers": 1},
        "curate": {"workers": 1},
        "prepare_t2i": {"size": SIZE},
        "train_ssr": {"low_size": SIZE},
        "runtime": {"sample_every": 0},
    }
    own[-1].write_text(yaml.safe_dump(small))
    call_script(*own, "temporal")
    call_script(*own, "fast")
    call_script("--work", work, "--to", weights, "export")
    trained = SpaceTimeUNet.from_pretrained(work / "distilled").state_dict()
    exported = SpaceTimeUNet.from_pretrained(weights / "fast").state_dict()
    for name, value in trained.items():
        assert torch.equal(exported[name], value.half().float()), name
    teacher = SpaceTimeUNet.from_pretrained(work / "conditioned").state_dict()
    assert any(not torch.equal(value, teacher[name]) for name, value in trained.items())
    assert read_distilled(weights / "fast").num_inference_steps == 2
    assert load_scheduler(weights / "fast/scheduler").config.timestep_spacing == "trailing"


def test_without_layers_there_is_nothing_to_distil(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no network to distil"):
        script.train(tmp_path, "fast")


def test_clips_that_exist_are_kept_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    script.prepare(tmp_path, tmp_path / "nowhere")
    assert "clips exists, so --data and the profile's curate and decode are not" in (
        capsys.readouterr().out
    )


# --- styles -----------------------------------------------------------------------------------------------------------

STYLES = {"ink": "an ink drawing of a {}", "neon": "a {} in neon lights"}
SIZE = 16


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    """Make two styles of three pictures each."""
    folder = tmp_path / "data/styles"
    for number, (name, phrase) in enumerate(STYLES.items()):
        (folder / name).mkdir(parents=True)
        rows = ["image,caption"]
        for subject in ("cat", "dog", "fox"):
            colour = (255 * number, 0, 50)
            Image.new("RGB", (SIZE, SIZE), colour).save(folder / name / f"{subject}.png")
            rows.append(f"{subject}.png,{phrase.format(subject)}")
        (folder / name / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def t2i(tmp_path: Path) -> Path:
    """Make a small image model."""
    torch.manual_seed(0)
    unet = build_text_to_image_unet(SIZE, (16, 32), 1, 384)
    TextToImage(unet, make_scheduler(), "minilm", 8).save(tmp_path / "t2i")
    return tmp_path / "t2i"


def test_styles_are_trained_once_and_exported(
    styles: Path, t2i: Path, tmp_path: Path, stages_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, work, weights = tmp_path / "profile.yaml", tmp_path / "work", tmp_path / "weights"
    optim = OPTIM | {"steps": 2, "learning_rate": 0.1, "warmup_steps": 1, "ema_decay": 0.5}
    small: dict[str, Any] = {"train_style": {"lora_rank": 2, "optim": optim}}
    profile.write_text(yaml.safe_dump(small | {"runtime": {"sample_every": 0}}))

    def train() -> int:
        """Call the script, and return how many stages it has run."""
        before = len(stages_run)
        own = ("--work", work, "--profile", profile)
        call_script(*own, "--t2i", t2i, "--data", styles.parent, "styles")
        return len(stages_run) - before

    assert train() == 2
    assert train() == 0, "finished styles were trained again"
    with open(styles / "ink/captions.csv", "a", encoding="utf-8") as file:
        file.write("fox.png,an ink drawing of a red fox\n")
    assert train() == 1, "a style was not trained on its new caption"
    TextToImage(
        build_text_to_image_unet(SIZE, (16, 32), 1, 384), make_scheduler(), "minilm", 8
    ).save(t2i)
    assert train() == 2, "styles of another image model were kept"

    settings = {"num_inference_steps": 2, "guidance_scale": 1.0}
    monkeypatch.setattr(assemble, "DEMO_DEFAULTS", settings)
    call_script("--work", work, "--to", weights, "--t2i", t2i, "--data", styles.parent, "export")
    written = {path.name for path in (weights / "styles").iterdir()}
    assert written == {"ink.safetensors", "neon.safetensors", "samples.png", "loss.png"}
    for name in STYLES:
        trained = load_file(work / "styles" / name / "lora" / f"{name}.lora.safetensors")
        exported = load_file(weights / "styles" / f"{name}.safetensors")
        assert trained.keys() == exported.keys()
        for key, value in trained.items():
            assert torch.equal(exported[key], value.half()), key
    with Image.open(weights / "styles/samples.png") as picture:
        samples = np.asarray(picture)
    rows = np.split(samples, 1 + len(STYLES) * len(style_weights.ALPHAS))
    assert len({row.tobytes() for row in rows}) == len(rows), "two rows of samples are equal"


def test_no_style_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no style"):
        script.train_styles(tmp_path, tmp_path, tmp_path, tmp_path)


@pytest.mark.parametrize("phrase", ["an ink drawing of a {}", "a {} at sunset", "{}"])
def test_the_phrase_of_a_style_is_what_its_captions_share(phrase: str, tmp_path: Path) -> None:
    listing = tmp_path / "captions.csv"
    lines = [f"{i}.png,{phrase.format(name)}" for i, name in enumerate(("cat", "red fox", "ant"))]
    listing.write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    assert style_weights.read_phrase(listing) == phrase


def test_every_shipped_style_has_a_phrase() -> None:
    phrases = {
        path.parent.name: style_weights.read_phrase(path)
        for path in (ROOT / "data/styles").glob("*/captions.csv")
    }
    assert len(set(phrases.values())) == len(phrases) >= 3
    assert "{}" not in phrases.values()


def test_nothing_trained_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is trained"):
        script.export(tmp_path, tmp_path / "weights", tmp_path / "t2i", tmp_path / "styles")
