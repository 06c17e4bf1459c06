"""Tests the script that trains a motion LoRA: what it trains on, and what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lumiere.config import TextOptimConfig
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import DataError
from lumiere.models import SpaceTimeUNet
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.pipelines import LumierePipeline
from tests.models.zoo import randomise_temporal
from tests.training.test_sizes import write_clips as write_clips_of_several_sizes
from tests.training.test_tasks import DIM, TOKENS, image_unet, write_clips

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import train_motion_lora as script  # noqa: E402

OPTIM = TextOptimConfig(
    steps=2, batch_size=2, learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, ema_decay=0.0
)
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five clips, and a network with its scheduler."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "clips").mkdir()
    write_clips(folder / "clips")
    network = SpaceTimeUNet.from_unet2d(image_unet(), conditioning_channels=4)
    randomise_temporal(network)
    network.save_pretrained(folder / "network")
    make_scheduler().save_pretrained(folder / "network/scheduler")
    return {"clips": folder / "clips", "network": folder / "network", "root": folder}


def train(inputs: dict[str, Path], out: Path, only: list[str]) -> None:
    script.train_motion(
        inputs["clips"], inputs["network"], out, only, 2, OPTIM, inputs["root"] / "scratch"
    )


def test_patterns_choose_clips(inputs: dict[str, Path]) -> None:
    def chosen(split: str, *only: str) -> int:
        return len(script.choose(inputs["clips"], split, only))

    assert (chosen("train"), chosen("validation")) == (4, 1)
    assert (chosen("train", "[01]@*"), chosen("validation", "[01]@*")) == (2, 0)
    assert (chosen("train", "3@0", "4@0"), chosen("validation", "3@0", "4@0")) == (1, 1)
    with pytest.raises(
        DataError, match=r"no clip to train on matches 4@0; its clips are called 0@0"
    ):
        train(inputs, inputs["root"] / "none", ["4@0"])
    assert not (inputs["root"] / "none").exists()


def test_the_frozen_network_gets_a_motion(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(inputs, tmp_path / "motion", ["[01]@*"])
    assert "2 clips, loss" in capsys.readouterr().out
    record = json.loads((tmp_path / "motion/motion_lora.json").read_text())
    assert record["steps"] == 2
    state = load_file(tmp_path / "motion" / WEIGHTS)
    assert {key.split(".")[0] for key in state} == {
        "down_inflations", "mid_inflation", "up_inflations",
    }  # fmt: skip
    assert all(value.any() for key, value in state.items() if "lora_B" in key)
    assert not list((inputs["root"] / "scratch").iterdir())
    # The adapters fit the network that they were trained on.
    network = SpaceTimeUNet.from_pretrained(inputs["network"])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pipe = LumierePipeline(network, make_scheduler(), num_frames=4)
    pipe.load_lora_weights(tmp_path / "motion", adapter_name="motion")
    sample = torch.randn(1, network.total_channels, 4, 8, 8)
    call = (sample, torch.tensor(500), torch.zeros(1, TOKENS, DIM))
    with torch.no_grad():
        moved = network(*call).sample
        pipe.set_adapters("motion", 0.0)
        plain = network(*call).sample
        pipe.unload_lora_weights()
        torch.testing.assert_close(network(*call).sample, plain)
    assert not torch.allclose(moved, plain, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_clips_keep_their_own_shapes(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_clips_of_several_sizes(tmp_path)
    network = SpaceTimeUNet.from_unet2d(build_text_to_image_unet((8, 12), (16, 32), 1, DIM))
    stores = [script.choose(tmp_path, split, []) for split in ("train", "validation")]
    task = script.make_task(network, inputs["network"], stores, OPTIM)
    sizes = {tuple(task.example(i)["video"].shape[-2:]) for i in range(8)}
    assert sizes == {(8, 8), (8, 12), (12, 8)}


def test_the_command_line_names_what_is_wrong(
    inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["x", "--clips", str(inputs["clips"]), "--network", str(inputs["network"]), "--out", "o"]
    for option, value in (("--rank", "0"), ("--steps", "-1"), ("--learning-rate", "nan")):
        monkeypatch.setattr(sys, "argv", [*line, option, value])
        with pytest.raises(SystemExit):
            script.main()
        assert f"error: {option} is {value}; allowed:" in capsys.readouterr().err
