"""Tests the training of the demo's layers: what it trains on, and a whole run in a few steps."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import stages
from lumiere.errors import DataError
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_image_network
from tests.video_factory import encode, numbered

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

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
    table = pd.DataFrame({"video": names, "verdict": verdicts, "split": "train"})
    table.to_parquet(path, index=False)
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


def test_super_resolution_is_trained_and_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "profile.yaml"
    ssr = {"image_model": "train", "image_init_from": "pretrained/ssr_image", "crop": 16}
    ssr |= {"window_size": 2, "image_optim": OPTIM, "optim": OPTIM}
    small: dict[str, Any] = {"train_ssr": ssr, "decode": {"workers": 1}, "curate": {"workers": 1}}
    profile.write_text(yaml.safe_dump(small | {"runtime": {"sample_every": 0}}))

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        """Spare the time that a new process needs to import torch."""
        monkeypatch.setattr(sys, "argv", command[2:])
        stages.run(importlib.import_module(command[2]).main)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    monkeypatch.setenv("LUMIERE_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)
    work = tmp_path / "work"
    call = ["script", "--work", str(work), "--profile", str(profile), "--data", str(data), "ssr"]
    monkeypatch.setattr(sys, "argv", call)
    script.main()
    assert pd.read_parquet(work / "manifest.parquet").set_index("video")["split"]["dog.mp4"] == (
        "validation"
    )

    script.export(work, tmp_path / "weights")
    trained = SpaceTimeUNet.from_pretrained(work / "ssr")
    exported, _ = load_image_network(tmp_path / "weights/ssr_image")
    before, _ = load_image_network(ROOT / "pretrained/ssr_image")
    again = SpaceTimeUNet.from_unet2d(exported, temporal_resampling=False)
    again.load_temporal(tmp_path / "weights/temporal_ssr")
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name
    pairs = zip(before.parameters(), exported.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)


def test_clips_that_exist_are_kept_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    script.prepare(tmp_path, tmp_path / "nowhere")
    assert "clips exists, so --data and the profile's curate and decode are not" in (
        capsys.readouterr().out
    )


def test_nothing_trained_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is trained"):
        script.export(tmp_path, tmp_path / "weights")
