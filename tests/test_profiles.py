"""The profiles are complete params files, and their networks can be built (without memory)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lumiere.config import Params, load_params
from lumiere.diffusion.objective import make_scheduler
from lumiere.inspection.meter import measure
from lumiere.inspection.networks import Workload, workloads
from lumiere.inspection.plan import AUTOCAST, RESERVE, count, forward, optimizer_bytes
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import TextToImage
from lumiere.models.unet_builders import build_ssr_unet, build_text_to_image_unet, read_unet_config
from tests.conftest import REPOSITORY
from tests.test_config import missing_keys

PROFILES = REPOSITORY / "profiles"
NAMES = ["paper", "h100"]
# network -> its parameters, in billions
SIZES = {
    "paper": {
        "text-to-image": 4.3,
        "base, conditioned": 4.73,
        "super-resolution, image": 1.0,
        "super-resolution": 1.0,
    },
    "h100": {
        "text-to-image": 1.05,
        "base, conditioned": 1.16,
        "super-resolution, image": 0.08,
        "super-resolution": 0.08,
    },
}


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[Params, dict[str, Workload]]]:
    """Read each profile, and describe its networks by title."""
    found = {}
    for name in NAMES:
        params = load_params(PROFILES / f"{name}.yaml")
        found[name] = params, {each.title: each for each in workloads(params, REPOSITORY)}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_says_everything(name: str) -> None:
    path = PROFILES / f"{name}.yaml"
    assert (
        list(missing_keys(load_params(path), yaml.safe_load(path.read_text(encoding="utf-8"))))
        == []
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_has_the_papers_clip(
    name: str, built: dict[str, tuple[Params, dict[str, Workload]]]
) -> None:
    params, networks = built[name]
    assert (params.decode.num_frames, params.decode.fps, params.prepare_t2i.size) == (80, 16, 128)
    assert (params.train_ssr.size, params.generate.overlap, params.generate.num_frames) == (
        1024,
        2,
        80,
    )
    assert networks["base, conditioned"].shape == (7, 80, 128, 128)


@pytest.mark.parametrize("name", NAMES)
def test_a_profiles_networks_are_built_without_memory(
    name: str, built: dict[str, tuple[Params, dict[str, Workload]]]
) -> None:
    networks = built[name][1]
    assert networks.keys() == SIZES[name].keys()
    for title, workload in networks.items():
        parameters = list(workload.network.parameters())
        assert all(parameter.is_meta for parameter in parameters)
        assert sum(p.numel() for p in parameters) == pytest.approx(
            SIZES[name][title] * 1e9, rel=0.06
        ), title
    base = networks["base, conditioned"].network
    assert isinstance(base, SpaceTimeUNet) and not any(
        p.requires_grad for p in base.spatial_parameters()
    )


def test_the_papers_image_model_is_as_large_as_deepfloyds(
    built: dict[str, tuple[Params, dict[str, Workload]]],
) -> None:
    """IF-I-XL's card says 4.3B."""
    network = built["paper"][1]["text-to-image"].network
    assert round(sum(p.numel() for p in network.parameters()) / 1e9, 1) == 4.3


def test_the_base_of_the_h100_profile_fits_one_gpu(
    built: dict[str, tuple[Params, dict[str, Workload]]],
) -> None:
    params, networks = built["h100"]
    base, launch = networks["base, conditioned"], params.launch
    assert (launch.processes, launch.gradient_checkpointing) == (1, True) and base.optim is not None
    assert base.optim.batch_size == launch.gradient_accumulation  # one clip at once
    base.network.enable_gradient_checkpointing()
    run, inputs = base.loss(1)
    cost = measure(
        base.network, run, flops=False, autocast=AUTOCAST[launch.precision], inputs=inputs
    )
    weights, trained = count(base.network.parameters()), list(base.network.temporal_parameters())
    state = 4 * (weights + 2 * count(trained)) + optimizer_bytes(trained, base.optim.optimizer)
    assert cost.activation_bytes + state < 80e9 * (1 - RESERVE)


@pytest.mark.parametrize("name", NAMES)
def test_a_validation_and_a_preview_take_no_more_than_a_step(
    name: str, built: dict[str, tuple[Params, dict[str, Workload]]]
) -> None:
    params, networks = built[name]
    launch = params.launch
    for title, workload in networks.items():
        assert workload.optim is not None
        micro_batch = workload.optim.batch_size // (launch.processes * launch.gradient_accumulation)
        network = workload.network.train()
        network.enable_gradient_checkpointing() if launch.gradient_checkpointing else None
        run, inputs = workload.loss(micro_batch)
        step = measure(
            network, run, flops=False, autocast=AUTOCAST[launch.precision], inputs=inputs
        )
        network.disable_gradient_checkpointing()
        # A validation has a step's clips at once, a preview one, with its sentence and without.
        batch_size = max(micro_batch, 2 if workload.text else 1)
        shown = forward(workload, batch_size, workload.shape, launch, flops=False)
        assert 0 < shown.activation_bytes < step.activation_bytes, (title, batch_size)


# --- architectures by config file ------------------------------------------------------------------------------------


def write(path: Path, **settings: Any) -> Path:
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def test_a_config_file_is_the_network_but_for_its_size(tmp_path: Path) -> None:
    plain = build_text_to_image_unet(16, (16, 32), 1, 32)
    plain.save_config(tmp_path)
    again = build_text_to_image_unet(32, (48,), 3, 32, tmp_path / "config.json")
    assert again.config.sample_size == 32 and again.config.block_out_channels == [16, 32]
    assert again.state_dict().keys() == plain.state_dict().keys()
    ssr = build_ssr_unet(32, (16, 32), 1)
    ssr.save_config(tmp_path)
    assert (
        build_ssr_unet(64, (48,), 3, tmp_path / "config.json").state_dict().keys()
        == ssr.state_dict().keys()
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another class": ({"_class_name": "UNet3DConditionModel"}, "of a UNet3DConditionModel"),
    "an unknown setting": ({"block_channels": [32]}, "block_channels: no setting"),
    "what does not go together": ({"block_out_channels": [32]}, "no network can be built"),
    "a latent model": ({}, "a latent model"),
    "text of another width": ({"in_channels": 3, "out_channels": 3}, "takes text 1280 wide, but .* gives 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_config_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    settings, words = BAD[name]
    path = write(tmp_path / "unet.json", **settings)
    with torch.device("meta"), pytest.raises(ValueError, match=rf"unet.json.*{words}"):
        build_text_to_image_unet(16, (16,), 1, 32, path)


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.json: no such file"):
        read_unet_config(tmp_path / "nowhere.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ValueError, match=r"half.json: not valid JSON"):
        read_unet_config(tmp_path / "half.json")
    write(tmp_path / "t2i.json", in_channels=3, out_channels=3)
    with torch.device("meta"), pytest.raises(ValueError, match=r"t2i.json takes 3 channels"):
        build_ssr_unet(32, (16,), 1, tmp_path / "t2i.json")


# --- a given model at another size -----------------------------------------------------------------------------------


def test_a_given_model_is_used_at_another_size(tmp_path: Path) -> None:
    t2i = TextToImage(build_text_to_image_unet(16, (16, 32), 1, 384), make_scheduler(), "minilm", 8)
    t2i.save(tmp_path / "own")
    assert not (tmp_path / "own" / "size.json").exists()
    t2i = load_text_to_image(tmp_path / "own")
    t2i.use_at(16)
    assert t2i.trained_size is None
    t2i.use_at(32)
    t2i.save(tmp_path / "larger")
    again = load_text_to_image(tmp_path / "larger")
    assert (again.unet.config.sample_size, again.trained_size) == (32, 16)
    assert json.loads((tmp_path / "larger" / "size.json").read_text()) == {
        "trained": 16,
        "used": 32,
    }
    again.use_at(64)
    assert again.trained_size == 16  # not the size between
    shutil.rmtree(tmp_path / "larger")


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    t2i = TextToImage(build_text_to_image_unet(16, (16, 32, 32), 1, 32), make_scheduler(), "minilm")
    with pytest.raises(ValueError, match=r"size 18; allowed: 16, .* another multiple of 4"):
        t2i.use_at(18)
    t2i.use_at(20)
