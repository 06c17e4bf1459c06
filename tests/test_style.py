"""Blending weights is a straight line between two models, exact at both ends, also for adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.config import load_params
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.pipelines.assemble import PRETRAINED, demo_pipeline
from lumiere.pipelines.styles import LORA_SETTINGS, StyleBook
from lumiere.style import blend_style, is_lora, merge_lora
from stages.generate import pipeline_defaults
from tests.conftest import REPOSITORY


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, generator=generator).to(dtype),
        "conv.bias": torch.randn(4, generator=generator).to(dtype),
        "steps": torch.tensor(seed),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_exact_at_both_ends(dtype: torch.dtype) -> None:
    orig, style = state(0, dtype), state(1, dtype)
    assert all(torch.equal(value, orig[key]) for key, value in blend_style(orig, style, 0).items())
    assert all(
        torch.equal(value, style[key]) for key, value in blend_style(orig, style, 1.0).items()
    )


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_a_straight_line_in_float32_and_back_in_the_same_dtype(alpha: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        orig, style = state(0, dtype), state(1, dtype)
        blended = blend_style(orig, style, alpha)
        for key in ("conv.weight", "conv.bias"):
            assert blended[key].dtype == dtype
            expected = (alpha * style[key].double() + (1 - alpha) * orig[key].double()).to(dtype)
            torch.testing.assert_close(blended[key], expected)
        assert torch.equal(blended["steps"], orig["steps"])


def test_half_precision_is_blended_in_float32() -> None:
    """Rounding to bfloat16 after each product would give 1.5078 here, not 1.5."""
    orig, style = (
        {"w": torch.tensor([1.0], dtype=torch.bfloat16)},
        {"w": torch.tensor([2.0], dtype=torch.bfloat16)},
    )
    exact = torch.tensor([0.503 * 2 + 0.497]).bfloat16()
    assert torch.equal(blend_style(orig, style, 0.503)["w"], exact)


def test_swapping_the_models_mirrors_alpha() -> None:
    orig, style = state(0), state(1)
    one, other = blend_style(orig, style, 0.3), blend_style(style, orig, 0.7)
    torch.testing.assert_close(one["conv.weight"], other["conv.weight"])


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_results_are_new_tensors_in_the_same_order(alpha: float) -> None:
    orig, style = state(0), state(1)
    blended = blend_style(orig, style, alpha)
    assert list(blended) == list(orig)
    for value in blended.values():
        value.add_(5)
    assert all(torch.equal(value, orig[key]) for key, value in state(0).items())
    assert all(torch.equal(value, style[key]) for key, value in state(1).items())


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"conv.extra": torch.zeros(1)}, "conv.extra"),
        ({"conv.bias": torch.zeros(5)}, "conv.bias"),
        ({"conv.bias": torch.zeros(4, dtype=torch.float16)}, "conv.bias"),
    ],
)
def test_models_that_differ_are_named_by_key(
    change: dict[str, Tensor], key: str, swap: bool
) -> None:
    pair = [state(0), state(1) | change]
    orig, style = reversed(pair) if swap else pair
    for alpha in (0, 0.5, 1):
        with pytest.raises(ValueError, match=key):
            blend_style(orig, style, alpha)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_alpha_stays_between_zero_and_one(alpha: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        blend_style(state(0), state(1), alpha)


# --- adapters --------------------------------------------------------------------------------------------------------


def network() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "linear.weight": torch.randn(4, 3, generator=generator).bfloat16(),
        "conv.weight": torch.randn(5, 4, 3, 3, generator=generator),
        "conv.bias": torch.randn(5, generator=generator),
    }


def adapter(prefix: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "linear.lora_A": (2, 3),
        "linear.lora_B": (4, 2),
        "conv.lora_A": (2, 4, 3, 3),
        "conv.lora_B": (5, 2, 1, 1),
    }
    return {
        f"{prefix}{key}.weight": torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_an_adapter_adds_the_product_of_its_matrices(prefix: str) -> None:
    orig, lora = network(), adapter()
    assert is_lora(adapter(prefix)) and not is_lora(orig)
    style = merge_lora(orig, adapter(prefix))
    assert list(style) == list(orig) and all(
        style[key].dtype == value.dtype for key, value in orig.items()
    )
    linear = (
        orig["linear.weight"].float() + lora["linear.lora_B.weight"] @ lora["linear.lora_A.weight"]
    )
    torch.testing.assert_close(style["linear.weight"], linear.bfloat16())
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    inner = torch.nn.functional.conv2d(x, lora["conv.lora_A.weight"])
    added = torch.nn.functional.conv2d(inner, lora["conv.lora_B.weight"])
    wanted = torch.nn.functional.conv2d(x, orig["conv.weight"], orig["conv.bias"]) + added
    torch.testing.assert_close(
        torch.nn.functional.conv2d(x, style["conv.weight"], style["conv.bias"]), wanted
    )
    assert torch.equal(style["conv.bias"], orig["conv.bias"])
    assert all(torch.equal(value, orig[key]) for key, value in network().items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv.alpha": torch.ones(())}, r"conv\.alpha: not of a plain LoRA"),
        ({"other.lora_A.weight": torch.ones(2, 3)}, r"other\.weight: missing from the original"),
        (
            {"conv.lora_A.weight": torch.ones(3, 4, 3, 3)},
            r"conv\.weight: \(5, 4, 3, 3\) in the original",
        ),
        (
            {"conv.lora_B.weight": torch.ones(4, 2, 1, 1)},
            r"conv\.weight: \(5, 4, 3, 3\) in the original",
        ),
    ],
)
def test_an_adapter_of_another_network_is_told_by_key(change: dict[str, Tensor], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        merge_lora(network(), adapter() | change)
    with pytest.raises(ValueError, match=r"linear\.weight: its adapter has lora_A only"):
        merge_lora(network(), {"linear.lora_A.weight": torch.ones(2, 3)})


@pytest.fixture
def unet() -> SpaceTimeUNet:
    torch.manual_seed(0)
    image: Any = build_text_to_image_unet(8, (16, 32), 1, 32)
    return SpaceTimeUNet.from_unet2d(image)


def test_a_style_may_be_an_adapter(unet: SpaceTimeUNet, tmp_path: Path) -> None:
    lora = {
        "unet.conv_in.lora_A.weight": torch.ones(1, 3, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(16, 1, 1, 1),
    }
    save_file(lora, tmp_path / "ink.safetensors")
    styles = StyleBook()
    styles.add("ink", tmp_path / "ink.safetensors")
    styles.save(tmp_path / "styles")
    stored = StyleBook()
    stored.load(tmp_path / "styles")
    before = {key: value.clone() for key, value in unet.unet.state_dict().items()}
    wanted = before | {"conv_in.weight": before["conv_in.weight"] + 0.25}
    for book in (styles, stored):
        with book.applied(unet, "ink", 0.25):
            torch.testing.assert_close(dict(unet.unet.state_dict()), wanted)
        assert all(torch.equal(value, before[key]) for key, value in unet.unet.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (json.dumps({"unet.r": 1, "unet.lora_alpha": 2}), "a scale of its own"),
        ("half of it", r"ink\.safetensors: its metadata .* is not a JSON object; save the LoRA"),
        ('["r"]', r"ink\.safetensors: its metadata .* is not a JSON object; save the LoRA"),
    ],
)
def test_the_settings_of_an_adapter_are_checked(
    unet: SpaceTimeUNet, tmp_path: Path, settings: str, words: str
) -> None:
    save_file(
        {"conv_in.lora_A.weight": torch.ones(1, 3, 3, 3)},
        tmp_path / "ink.safetensors",
        {LORA_SETTINGS: settings},
    )
    styles = StyleBook()
    styles.add("ink", tmp_path / "ink.safetensors")
    with pytest.raises(ValueError, match=words), styles.applied(unet, "ink", 1.0):
        pass


def test_the_demo_has_its_styles_at_once() -> None:
    pipe = demo_pipeline()
    assert list(pipe.styles) == ["line-art", "neon", "sunset"]
    path = PRETRAINED / "styles" / "line-art.safetensors"
    assert path.stat().st_size < 1.5e6
    style = merge_lora(load_text_to_image(PRETRAINED / "t2i").unet.state_dict(), load_file(path))
    with pipe.styles.applied(pipe.unet, "line-art", 1.0):
        assert all(
            torch.equal(value, style[key]) for key, value in pipe.unet.unet.state_dict().items()
        )


def test_the_demo_has_the_settings_of_the_stage() -> None:
    """So that it makes the same videos as a pipeline that `make demo` saves."""
    config = demo_pipeline().config
    for name, value in pipeline_defaults(load_params(REPOSITORY / "params.yaml").generate).items():
        assert config[name] == value, name
