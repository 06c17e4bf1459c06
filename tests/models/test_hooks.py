"""Hooks that move or convert weights around each module's call, as accelerate and diffusers set
them.
"""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

from lumiere.models import SpaceTimeUNet
from tests.models.zoo import NAMES, inflate, random_video, randomise_temporal


def moved_network(name: str) -> tuple[SpaceTimeUNet, Tensor, dict[str, Any]]:
    """A network with conditioning and random temporal weights, and what it takes."""
    model, _, image, given = inflate(name, conditioning_channels=2)
    randomise_temporal(model)
    return model.eval(), random_video(image, 4, extra_channels=2), given


def show_weights_only_in_calls(model: nn.Module) -> list[str]:
    """Fill each module's own parameters with NaN, except while the module itself is called.

    Returns: the names of the modules with parameters, in which each call deletes its own.
    """
    waiting: list[str] = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        waiting.append(name)
        hidden = [parameter.detach().clone() for parameter in own]

        def show(
            _: nn.Module, __: Any, own: Any = own, hidden: Any = hidden, name: str = name
        ) -> None:
            for parameter, value in zip(own, hidden, strict=True):
                parameter.data = value
            if name in waiting:
                waiting.remove(name)

        def hide(_: nn.Module, __: Any, ___: Any, own: Any = own) -> None:
            for parameter in own:
                parameter.data = torch.full_like(parameter.data, torch.nan)

        hide(module, None, None)
        module.register_forward_pre_hook(show)
        module.register_forward_hook(hide)
    return waiting


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_each_weight_is_used_by_its_own_modules_call(name: str, trains: bool) -> None:
    model, video, given = moved_network(name)
    video = video.requires_grad_(trains)
    with torch.set_grad_enabled(trains):
        expected = model(video, **given).sample
        uncalled = show_weights_only_in_calls(model)
        assert torch.equal(model(video, **given).sample, expected)
    assert uncalled == []


@torch.no_grad()
def test_offload_of_each_layer_changes_nothing() -> None:
    model, video, given = moved_network("sd1")
    expected = model(video, **given).sample
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(model(video, **given).sample, expected)


@torch.no_grad()
@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_offload_of_groups_changes_nothing(offload_type: str) -> None:
    model, video, given = moved_network("sd1")
    expected = model(video, **given).sample
    # Both devices are the CPU; the hooks run all the same.
    model.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=offload_type,
        num_blocks_per_group=1,
    )
    torch.testing.assert_close(model(video, **given).sample, expected)


@torch.no_grad()
@pytest.mark.parametrize("storage_dtype", [torch.float8_e4m3fn, torch.float16])
def test_weights_may_be_stored_in_a_narrow_type(storage_dtype: torch.dtype) -> None:
    model, video, given = moved_network("sd1")
    expected = model(video, **given).sample
    model.enable_layerwise_casting(storage_dtype=storage_dtype, compute_dtype=torch.float32)
    kept = {parameter.dtype for parameter in model.parameters()}
    assert storage_dtype in kept
    made = model(video, **given).sample
    assert made.dtype == torch.float32
    error = (made - expected).std() / expected.std()
    # A float8 has 3 bits of mantissa, a relative rounding error of up to 1/16.
    assert 0 < error < (0.1 if storage_dtype == torch.float8_e4m3fn else 0.01)
