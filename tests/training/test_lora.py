"""Styles as low-rank adapters: nothing else is trained, and what comes out are plain weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import default_collate

from lumiere.config import TextOptimConfig
from lumiere.diffusion.objective import make_scheduler
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import TextToImage
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.style import merge_lora
from lumiere.training.image_task import TextToImageTask
from lumiere.training.loop import train
from lumiere.training.lora import LAYERS, add_lora, fuse_lora
from lumiere.training.state import trained_parameters
from tests import forked
from tests.conftest import REPOSITORY
from tests.stages.conftest import PARAMS, STYLE, commands, run_stage
from tests.training.small_task import CONFIG, TWO_LEVELS, Stop, at_step, make_task

RANK = 3
FAST = replace(CONFIG, learning_rate=1e-2)


def make_adapted(config: TextOptimConfig = CONFIG) -> TextToImageTask:
    """The small training, of adapters, the same each time."""
    task = make_task(channels=TWO_LEVELS)
    task.config = config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        add_lora(task.network, RANK)
    return task


@pytest.fixture
def original() -> dict[str, Tensor]:
    return make_task(channels=TWO_LEVELS).network.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The adapted network's weights after training."""
    task = make_adapted(FAST)
    train(task, tmp_path_factory.mktemp("scratch"))
    return task.network.state_dict()


def adapted_network(weights: dict[str, Tensor]) -> Any:
    network = make_adapted().network
    network.load_state_dict(weights)
    return network.eval()


@torch.no_grad()
def paint(network: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x_t, text = (
        torch.randn(2, 3, 8, 8, generator=generator),
        torch.randn(2, 4, 32, generator=generator),
    )
    return network.eval()(x_t, torch.tensor([100, 900]), text).sample


def is_adapted(name: str) -> bool:
    return name.endswith(".weight") and name.removesuffix(".weight").endswith(
        tuple(f".{layer}" for layer in LAYERS)
    )


# --- training --------------------------------------------------------------------------------------------------------


def test_adapters_change_nothing_at_first() -> None:
    assert torch.equal(paint(make_adapted().network), paint(make_task(channels=TWO_LEVELS).network))


def test_adapters_alone_have_a_gradient() -> None:
    task = make_adapted()
    parameters = trained_parameters(task.network)
    assert parameters and all(".lora_" in name for name in parameters)
    task.losses(task.network, default_collate([task.example(0), task.example(1)])).sum().backward()
    assert {
        name for name, p in task.network.named_parameters() if p.grad is not None
    } == parameters.keys()


def test_a_resumed_training_ends_in_the_same_bits(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        train(at_step(make_adapted(FAST), 6, stop), tmp_path)
    task = make_adapted(FAST)
    assert train(task, tmp_path).resumed_from == 4
    assert all(map(torch.equal, task.network.state_dict().values(), trained.values()))


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_merged_network_is_plain_and_paints_the_same(
    trained: dict[str, Tensor], original: dict[str, Tensor]
) -> None:
    network = adapted_network(trained)
    painted = paint(network)
    fuse_lora(network)
    merged = network.state_dict()
    assert list(merged) == list(original)
    assert all(
        (merged[n].shape, merged[n].dtype) == (value.shape, value.dtype)
        for n, value in original.items()
    )
    assert {n for n, value in original.items() if not torch.equal(value, merged[n])} == set(
        filter(is_adapted, original)
    )
    torch.testing.assert_close(paint(network), painted, rtol=0, atol=1e-5)
    plain = make_task(channels=TWO_LEVELS).network
    assert not torch.allclose(paint(plain), painted, atol=1e-2)
    plain.load_state_dict(merged)
    assert torch.equal(paint(plain), paint(network))


def test_adapters_are_read_by_diffusers_and_by_us(
    trained: dict[str, Tensor], original: dict[str, Tensor], tmp_path: Path
) -> None:
    network = adapted_network(trained)
    painted = paint(network)
    adapter = fuse_lora(network)
    save_file(adapter, tmp_path / "ink.lora.safetensors")
    fresh = make_task(channels=TWO_LEVELS).network
    fresh.load_lora_adapter(tmp_path, weight_name="ink.lora.safetensors", prefix="unet")
    torch.testing.assert_close(paint(fresh), painted, rtol=0, atol=1e-6)
    merged = merge_lora(original, load_file(tmp_path / "ink.lora.safetensors"))
    torch.testing.assert_close(merged, dict(network.state_dict()), rtol=0, atol=1e-6)


# --- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T2I of 16 pixels and a style of two pictures, after the stage."""
    root = tmp_path_factory.mktemp("styled")
    torch.manual_seed(0)
    unet: Any = build_text_to_image_unet(16, (16, 32), 1, 384)
    TextToImage(unet, make_scheduler(), "minilm", 8).save(root / "outputs" / "t2i")
    folder = root / "data" / "styles" / STYLE
    folder.mkdir(parents=True)
    for shade in (0, 255):
        Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(folder / f"{shade}.png")
    (folder / "captions.csv").write_text(
        "image,caption\n0.png,ink\n255.png,paper\n", encoding="utf-8"
    )
    run_stage(root, "train_style", {"train_style": {"lora_rank": RANK}})
    return root


def test_the_stage_writes_plain_weights_that_blend_and_the_adapters(project: Path) -> None:
    out = project / "outputs"
    original = load_text_to_image(out / "t2i").unet.state_dict()
    style, adapter = (
        load_file(out / "style" / f"{name}.safetensors") for name in (STYLE, f"lora/{STYLE}.lora")
    )
    assert {key.split(".")[0] for key in adapter} == {"unet"}
    torch.testing.assert_close(merge_lora(original, adapter), style, rtol=0, atol=1e-6)
    run_stage(project, "blend_style")
    blends = {
        path.relative_to(out / "blended").as_posix()
        for path in (out / "blended").rglob("*.safetensors")
    }
    assert blends == {f"{STYLE}/0.5.safetensors", f"{STYLE}/1.0.safetensors"}


def test_two_processes_learn_what_one_learns(project: Path, tmp_path: Path) -> None:
    params = PARAMS | {
        "train_style": PARAMS["train_style"] | {"lora_rank": RANK},
        "launch": {"processes": 2},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    paths = [
        "--params",
        tmp_path / "params.yaml",
        "--out",
        tmp_path / "style",
        "--scratch",
        tmp_path / "scratch",
    ]
    variables = {"OMP_NUM_THREADS": "1", "LUMIERE_NUM_THREADS": "1", "LUMIERE_TRACKING": "off"}
    variables["PYTHONPATH"] = str(REPOSITORY)
    command = ["stages.train_style", *commands()["train_style"], *map(str, paths)]
    forked.start(command, tmp_path / "said.txt", project, variables).wait()
    one, two = (
        json.loads((folder / "train_style.json").read_text())
        for folder in (project / "outputs/style", tmp_path / "style")
    )
    assert two["loss"] == [[step, pytest.approx(loss, rel=1e-4)] for step, loss in one["loss"]]
    assert (tmp_path / "style" / "lora" / f"{STYLE}.lora.safetensors").is_file()
