"""A Space-Time U-Net on disk: what is written comes back, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.models import SpaceTimeUNet
from lumiere.models.stunet import CONFIG_FILE, SPATIAL_FILE, TEMPORAL_CONFIG_FILE, TEMPORAL_FILE
from tests.models.zoo import NAMES, as_video, make_inputs, make_unet2d, randomise_temporal


def make(name: str = "ours", seed: int = 2, **settings: Any) -> SpaceTimeUNet:
    model = SpaceTimeUNet.from_unet2d(make_unet2d(name), **settings)
    randomise_temporal(model, seed)
    return model


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_saved_comes_back(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path / "model")
    loaded = SpaceTimeUNet.from_pretrained(tmp_path / "model")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    image, given = make_inputs(make_unet2d(name))
    video = as_video(image, 3)
    assert torch.equal(model(video, **given).sample, loaded(video, **given).sample)


@pytest.mark.parametrize("resampling", [True, False, [True, False], (False, True)])
def test_every_setting_comes_back(resampling: Any, tmp_path: Path) -> None:
    settings = {"resampling_init": "he", "mid_attention_layers": 2, "temporal_head_dim": 8}
    model = make("sd1", conditioning_channels=4, temporal_resampling=resampling, **settings)
    model.save_pretrained(tmp_path)
    loaded = SpaceTimeUNet.from_pretrained(tmp_path)
    plain = [json.loads(entry.to_json_string()) for entry in (model, loaded)]
    assert plain[0] == plain[1]
    assert {key: loaded.config[key] for key in settings} == settings
    assert loaded.config.conditioning_channels == 4
    assert list(loaded.temporal_downsamplers) == list(model.temporal_downsamplers)
    assert json.loads(loaded.unet.to_json_string()) == json.loads(model.unet.to_json_string())


def test_a_config_alone_makes_the_same_network() -> None:
    model = make("sd1", conditioning_channels=4, temporal_resampling=False, temporal_head_dim=8)
    other = SpaceTimeUNet.from_config(model.config)
    shapes = [{key: value.shape for key, value in entry.state_dict().items()} for entry in (model, other)]
    assert shapes[0] == shapes[1] and other.config.temporal_head_dim == 8
    assert not any(parameter.requires_grad for parameter in other.spatial_parameters())


def test_loaded_spatial_parameters_are_frozen(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    loaded = SpaceTimeUNet.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.spatial_parameters())
    assert all(parameter.requires_grad for parameter in loaded.temporal_parameters())
    assert not loaded.training


def test_temporal_weights_have_a_file_of_their_own(tmp_path: Path) -> None:
    model = make(conditioning_channels=4)
    model.save_pretrained(tmp_path / "whole")
    model.save_temporal(tmp_path / "temporal")
    assert sorted(read_all(tmp_path / "whole")) == sorted(
        [CONFIG_FILE, SPATIAL_FILE, TEMPORAL_CONFIG_FILE, TEMPORAL_FILE]
    )
    assert sorted(read_all(tmp_path / "temporal")) == [TEMPORAL_CONFIG_FILE, TEMPORAL_FILE]
    temporal = load_file(tmp_path / "temporal" / TEMPORAL_FILE)
    assert "conv_in_conditioning.weight" in temporal
    assert sum(value.numel() for value in temporal.values()) == sum(p.numel() for p in model.temporal_parameters())
    assert load_file(tmp_path / "whole" / SPATIAL_FILE).keys() == make_unet2d("ours").state_dict().keys()


def test_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    model = make("sd1", temporal_resampling=[True, False])
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    SpaceTimeUNet.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "c")
    first = read_all(tmp_path / "a")
    assert read_all(tmp_path / "b") == first
    assert read_all(tmp_path / "c") == first


def test_saving_over_the_folder_it_came_from(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    loaded = SpaceTimeUNet.from_pretrained(tmp_path)
    before = read_all(tmp_path)
    loaded.save_pretrained(tmp_path)
    assert read_all(tmp_path) == before


def test_load_temporal_works_in_place_and_leaves_spatial_weights(tmp_path: Path) -> None:
    donor, model = make(seed=3), make(seed=4)
    donor.save_temporal(tmp_path)
    spatial = {key: value.clone() for key, value in model.unet.state_dict().items()}
    parameters = list(model.parameters())
    model.load_temporal(tmp_path)
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(value, model.unet.state_dict()[key]) for key, value in spatial.items())
    assert all(torch.equal(value, model.temporal_state_dict()[k]) for k, value in donor.temporal_state_dict().items())


def test_a_network_that_does_not_fit_is_named_by_its_layer(tmp_path: Path) -> None:
    make(conditioning_channels=4).save_temporal(tmp_path / "conditioned")
    make().save_temporal(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"temporal\.safetensors: unexpected layer 'conv_in_conditioning\.weight'"):
        make().load_temporal(tmp_path / "conditioned")
    with pytest.raises(ValueError, match=r"no weights for layer 'conv_in_conditioning\.weight' \(1 missing, 0 unexp"):
        make(conditioning_channels=4).load_temporal(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"layer 'mid_inflation\.layers\.2\.norm\.bias'"):
        make(mid_attention_layers=2).load_temporal(tmp_path / "plain")


def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    model = make()
    model.save_temporal(tmp_path)
    weights = load_file(tmp_path / TEMPORAL_FILE)
    weights = {name: value + 1 for name, value in weights.items()}
    weights["mid_inflation.proj_out.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / TEMPORAL_FILE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer 'mid_inflation\.proj_out\.weight' has shape \(2, 2\), not \(32, 32\)"):
        model.load_temporal(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_head_width_is_refused_though_the_shapes_fit(tmp_path: Path) -> None:
    make(temporal_head_dim=8).save_temporal(tmp_path)
    with pytest.raises(ValueError, match="temporal_head_dim 8, not 16"):
        make(temporal_head_dim=16).load_temporal(tmp_path)


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json; expected a folder written by"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"temporal\.safetensors: no such file"):
        make().load_temporal(tmp_path)
    make().save_pretrained(tmp_path)
    (tmp_path / SPATIAL_FILE).write_bytes((tmp_path / SPATIAL_FILE).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"text_to_image\.safetensors: not a whole safetensors file"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ValueError, match="the config of UNet2DConditionModel, not of SpaceTimeUNet"):
        SpaceTimeUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_saved_dtype_comes_back_unless_another_is_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    SpaceTimeUNet.from_unet2d(make_unet2d("ours").to(dtype)).save_pretrained(tmp_path / "unet")
    loaded = SpaceTimeUNet.from_pretrained(tmp_path, subfolder="unet")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    loaded = SpaceTimeUNet.from_pretrained(tmp_path / "unet", torch_dtype=torch.float16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}
