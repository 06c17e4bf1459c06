"""What a Space-Time U-Net refuses, and that it names the culprit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from tests.models.zoo import CONFIGS, TINY, as_video, make_unet2d, shared


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"sample": torch.zeros(2, 4, 8, 8)},
            "sample has shape (2, 4, 8, 8); expected (b, 4, t, h, w)",
        ),
        ({"sample": torch.zeros(2, 7, 3, 8, 8)}, "expected (b, 4, t, h, w)"),
        ({"sample": torch.zeros(2, 4, 0, 8, 8)}, "t >= 1"),
        (
            {"encoder_hidden_states": torch.zeros(6, 5, 32)},
            "shape (6, 5, 32); expected (2, n, 32), once per clip",
        ),
        (
            {"encoder_hidden_states": torch.zeros(2, 5, 31)},
            "shape (2, 5, 31); expected (2, n, 32), once per clip",
        ),
        (
            {"encoder_hidden_states": torch.zeros(2, 32)},
            "shape (2, 32); expected (2, n, 32), once per clip",
        ),
        (
            {"encoder_hidden_states": None},
            "encoder_hidden_states is None; expected (2, n, 32), once per clip",
        ),
        ({"timestep": torch.zeros(6)}, "timestep has shape (6,); expected a number, () or (2,)"),
        (
            {"timestep": torch.zeros(2, 1)},
            "timestep has shape (2, 1); expected a number, () or (2,)",
        ),
        (
            {"class_labels": torch.zeros(6)},
            "class_labels has shape (6,); expected (2, ...), once per clip",
        ),
        (
            {"added_cond_kwargs": {"time_ids": torch.zeros(3, 6)}},
            "added_cond_kwargs['time_ids'] has shape (3, 6); expected (2, ...), once per clip",
        ),
        (
            {"encoder_attention_mask": torch.ones(2, 4)},
            "encoder_attention_mask has shape (2, 4); expected (2, 5)",
        ),
    ],
)
def test_wrong_shapes_are_named(change: dict[str, Tensor], words: str) -> None:
    model, _, image, given = shared("sd1")
    with pytest.raises(ValueError) as error:
        model(**({"sample": as_video(image, 3)} | given | change))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["if_stage_1", "if_stage_2"])
def test_sizes_that_the_image_model_cannot_take_are_named(name: str) -> None:
    model, unet2d, _, given = shared(name)
    factor = 2 ** len(model.temporal_downsamplers)
    image = torch.zeros(2, unet2d.config.in_channels, 8, 2 * factor + 1)
    with pytest.raises(RuntimeError):
        unet2d(image, **given)
    with pytest.raises(
        ValueError, match=rf"sample has shape .*; expected h and w divisible by {factor}"
    ):
        model(as_video(image, 2), **given)


@pytest.mark.parametrize(
    ("name", "argument"), [("class_labels", "class_labels"), ("sdxl", "text_embeds")]
)
def test_a_condition_that_lacks_is_named(name: str, argument: str) -> None:
    model, _, image, given = shared(name)
    given = {
        key: value
        for key, value in given.items()
        if key not in ("class_labels", "added_cond_kwargs")
    }
    with pytest.raises(ValueError, match=argument):
        model(as_video(image, 2), **given)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temporal_resampling": [True]}, "list of 2"),
        ({"temporal_resampling": [True, 1]}, "list of 2"),
        ({"temporal_resampling": 1}, "temporal_resampling 1"),
        ({"temporal_resampling": "yes"}, "'yes'"),
        ({"resampling_init": "zero"}, "'zero'; allowed: nearest, he"),
        ({"conditioning_channels": -1}, "conditioning_channels -1"),
        ({"mid_attention_layers": 0}, "mid_attention_layers 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="allowed") as error:
        SpaceTimeUNet.from_unet2d(make_unet2d("sd1"), **settings)
    assert words in str(error.value)


def test_only_a_diffusers_unet_is_inflated() -> None:
    with pytest.raises(ValueError, match="Linear; expected a diffusers UNet2DConditionModel"):
        SpaceTimeUNet.from_unet2d(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {
                "down_block_types": ("KDownBlock2D",),
                "up_block_types": ("KUpBlock2D",),
                "layers_per_block": 2,
            },
            "K",
        ),
        ({"addition_embed_type": "image_hint", "encoder_hid_dim": 16}, "hint"),
    ],
)
def test_the_few_kinds_that_cannot_be_inflated_are_refused(
    change: dict[str, Any], words: str
) -> None:
    unet2d = UNet2DConditionModel(
        **{**TINY, **CONFIGS["one_level"], "block_out_channels": (32,), **change}
    )
    with pytest.raises(ValueError, match="cannot be inflated") as error:
        SpaceTimeUNet.from_unet2d(unet2d)
    assert words in str(error.value)
