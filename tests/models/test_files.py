"""A Space-Time U-Net on disk: what is written comes back, and what does not fit is named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from lumiere.models import SpaceTimeUNet
from lumiere.models.weights import (
    CONFIG_FILE,
    SPATIAL_FILE,
    TEMPORAL_CONFIG_FILE,
    TEMPORAL_FILE,
    weights_hash,
)
from tests.conftest import REPOSITORY
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
    again = loaded.state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
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
    shapes = [
        {key: value.shape for key, value in entry.state_dict().items()} for entry in (model, other)
    ]
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
    assert sum(value.numel() for value in temporal.values()) == sum(
        p.numel() for p in model.temporal_parameters()
    )
    assert (
        load_file(tmp_path / "whole" / SPATIAL_FILE).keys()
        == make_unet2d("ours").state_dict().keys()
    )


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
    now, temporal = model.unet.state_dict(), model.temporal_state_dict()
    assert all(torch.equal(value, now[key]) for key, value in spatial.items())
    assert all(torch.equal(v, temporal[k]) for k, v in donor.temporal_state_dict().items())


@pytest.mark.parametrize("part", ["motion", "conditioning"])
def test_a_part_of_temporal_weights_can_be_loaded(part: str, tmp_path: Path) -> None:
    donor = make(seed=3, conditioning_channels=4)
    donor.save_temporal(tmp_path)
    model = make(seed=4, conditioning_channels=4 if part == "conditioning" else 0)
    before = {key: value.clone() for key, value in model.temporal_state_dict().items()}
    model.load_temporal(tmp_path, part=part)
    wanted = donor.temporal_state_dict()
    for name, value in model.temporal_state_dict().items():
        loaded = (name == "conv_in_conditioning.weight") == (part == "conditioning")
        assert torch.equal(value, (wanted if loaded else before)[name]), name


def test_a_part_is_checked_as_the_whole_is(tmp_path: Path) -> None:
    make(temporal_head_dim=8).save_temporal(tmp_path)
    with pytest.raises(ValueError, match="temporal_head_dim 8, not 16"):
        make(temporal_head_dim=16).load_temporal(tmp_path, part="motion")
    with pytest.raises(ValueError, match="conditioning_channels 0, not 4"):
        make(conditioning_channels=4, temporal_head_dim=8).load_temporal(
            tmp_path, part="conditioning"
        )
    with pytest.raises(ValueError, match="part is 'input'; allowed: all, motion, conditioning"):
        make(temporal_head_dim=8).load_temporal(tmp_path, part="input")


@pytest.mark.parametrize(
    ("saved", "settings", "message"),
    [
        ({"conditioning_channels": 4}, {}, "conditioning_channels 4, not 0"),
        ({}, {"conditioning_channels": 4}, "conditioning_channels 0, not 4"),
        ({}, {"mid_attention_layers": 2}, "mid_attention_layers 3, not 2"),
        ({"temporal_head_dim": 8}, {"temporal_head_dim": 16}, "temporal_head_dim 8, not 16"),
        (
            {},
            {"temporal_resampling": (True, False)},
            r"temporal_resampling \[true, true\], not \[true, false\]",
        ),
        ({"name": "sd2"}, {}, r"block_out_channels \[16, 32\], not \[16, 32, 32\]"),
        ({"name": "if_stage_2"}, {"name": "sd_inpainting"}, "in_channels 6, not 9"),
    ],
)
def test_a_network_of_other_settings_is_refused_by_the_setting(
    saved: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make(**saved).save_temporal(tmp_path)
    with pytest.raises(ValueError, match=rf"temporal\.json: {message}"):
        make(**settings).load_temporal(tmp_path)


def test_settings_that_mean_the_same_fit(tmp_path: Path) -> None:
    make().save_temporal(tmp_path)
    make(temporal_resampling=[True, True]).load_temporal(tmp_path)
    make("without_mid_block").save_temporal(tmp_path)
    make("without_mid_block", mid_attention_layers=1).load_temporal(tmp_path)


@pytest.mark.parametrize(
    "name", ["conv_in_conditioning.weight", "mid_inflation.layers.2.norm.bias"]
)
def test_layers_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    model = make(conditioning_channels=4)
    model.save_temporal(tmp_path)
    weights = load_file(tmp_path / TEMPORAL_FILE)
    save_file({**weights, f"{name}s": torch.zeros(1)}, tmp_path / TEMPORAL_FILE)
    with pytest.raises(
        ValueError, match=rf"temporal\.safetensors: unexpected layer '{name}s' \(0 missing, 1 unexp"
    ):
        model.load_temporal(tmp_path)
    del weights[name]
    save_file(weights, tmp_path / TEMPORAL_FILE)
    with pytest.raises(
        ValueError, match=rf"no weights for layer '{name}' \(1 missing, 0 unexpected\)"
    ):
        model.load_temporal(tmp_path)


def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    model = make()
    model.save_temporal(tmp_path)
    weights = load_file(tmp_path / TEMPORAL_FILE)
    weights = {name: value + 1 for name, value in weights.items()}
    weights["mid_inflation.proj_out.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / TEMPORAL_FILE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        ValueError,
        match=r"layer 'mid_inflation\.proj_out\.weight' has shape \(2, 2\), not \(32, 32\)",
    ):
        model.load_temporal(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- which image model temporal weights belong to -------------------------------------------------


def test_one_image_model_has_one_hash_in_every_precision_that_holds_it() -> None:
    state = make_unet2d("ours").state_dict()
    half = {name: value.half() for name, value in state.items()}
    again = {name: value.float() for name, value in half.items()}
    shuffled = dict(reversed(list(again.items())))
    hashes = {weights_hash(each) for each in (state, half, again, shuffled)}
    hashes |= {weights_hash({name: value.half() for name, value in again.items()})}
    assert len(hashes) == 1
    name, value = next(iter(state.items()))
    renamed = {f"{key}_" if key == name else key: each for key, each in state.items()}
    for other in (state | {name: value * 1.01}, state | {name: value.flatten()}, renamed):
        assert weights_hash(other) not in hashes


@pytest.mark.parametrize(
    "change", [torch.nn.Module.half, torch.nn.Module.float, torch.nn.Module.bfloat16]
)
def test_temporal_weights_know_their_image_model_at_any_precision(
    change: Callable[[torch.nn.Module], torch.nn.Module], tmp_path: Path
) -> None:
    make().save_temporal(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        change(make()).load_temporal(tmp_path)  # type: ignore[operator]


def test_temporal_weights_of_another_image_model_are_loaded_with_a_warning(tmp_path: Path) -> None:
    donor = make()
    donor.save_temporal(tmp_path)
    other = SpaceTimeUNet.from_unet2d(make_unet2d("ours", seed=1))
    hashes = [weights_hash(each.unet.state_dict())[:12] for each in (donor, other)]
    with pytest.warns(
        UserWarning,
        match=rf"belong to the image model {hashes[0]}, but this network has {hashes[1]};",
    ):
        other.load_temporal(tmp_path)
    temporal = other.temporal_state_dict()
    assert all(torch.equal(v, temporal[k]) for k, v in donor.temporal_state_dict().items())
    with pytest.warns(UserWarning, match="load the image model they were trained on"):
        other.load_temporal(tmp_path, part="motion")


@pytest.mark.parametrize(
    "temporal, image, channels", [("temporal", "t2i", 4), ("temporal_ssr", "ssr_image", 0)]
)
def test_the_shipped_weights_name_the_shipped_image_models(
    temporal: str, image: str, channels: int
) -> None:
    folder = REPOSITORY / "pretrained"
    unet2d = UNet2DConditionModel.from_pretrained(
        folder / image / "unet", torch_dtype=torch.float32
    )
    unet = SpaceTimeUNet.from_unet2d(unet2d, channels, temporal_resampling=image == "t2i")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unet.load_temporal(folder / temporal)


# --- errors ---------------------------------------------------------------------------------------


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json; expected a folder written by"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"temporal\.safetensors: no such file"):
        make().load_temporal(tmp_path)
    make().save_temporal(tmp_path / "temporal")
    (tmp_path / "temporal" / TEMPORAL_CONFIG_FILE).unlink()
    with pytest.raises(ValueError, match=r"temporal\.json: no such file"):
        make().load_temporal(tmp_path / "temporal")
    make().save_pretrained(tmp_path)
    (tmp_path / SPATIAL_FILE).write_bytes((tmp_path / SPATIAL_FILE).read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"text_to_image\.safetensors: not a whole safetensors file"
    ):
        SpaceTimeUNet.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text('{"_class_name": "SpaceTimeUNet", "depth": 3}')
    with pytest.raises(ValueError, match=r"config\.json: .*'unet2d_config'"):
        SpaceTimeUNet.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(
        ValueError, match="the config of UNet2DConditionModel, not of SpaceTimeUNet"
    ):
        SpaceTimeUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_saved_dtype_comes_back_unless_another_is_asked_for(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    SpaceTimeUNet.from_unet2d(make_unet2d("ours").to(dtype)).save_pretrained(tmp_path / "unet")
    loaded = SpaceTimeUNet.from_pretrained(tmp_path, subfolder="unet")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    for name in ("dtype", "torch_dtype"):  # the latter is diffusers' older name
        loaded = SpaceTimeUNet.from_pretrained(tmp_path / "unet", **{name: torch.float16})
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}


def test_a_keyword_that_is_none_is_refused(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    with pytest.raises(
        TypeError, match="unexpected keyword 'torch_dtpye'; allowed: dtype, torch_dtype, sub"
    ):
        SpaceTimeUNet.from_pretrained(tmp_path, torch_dtpye=torch.float16)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"safe_serialization": False}, "safe_serialization is False; "),
        ({"variant": "fp 16"}, "variant is 'fp 16'; allowed: letters, digits"),
    ],
)
def test_an_option_of_diffusers_that_cannot_be_met_is_refused(
    option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make().save_pretrained(tmp_path, **option)
    assert not any(name.endswith(".safetensors") for name in read_all(tmp_path))


def test_an_index_of_parts_names_files_beside_it_alone(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / f"{SPATIAL_FILE}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json: no weight_map of files beside it"):
        SpaceTimeUNet.from_pretrained(tmp_path)
