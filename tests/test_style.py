"""Blending weights: a straight line between two models, exact at both ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumiere.style import blend_style


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
    assert all(torch.equal(value, style[key]) for key, value in blend_style(orig, style, 1.0).items())


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
    orig, style = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}, {"w": torch.tensor([2.0], dtype=torch.bfloat16)}
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
def test_models_that_differ_are_named_by_key(change: dict[str, Tensor], key: str, swap: bool) -> None:
    pair = [state(0), state(1) | change]
    orig, style = reversed(pair) if swap else pair
    for alpha in (0, 0.5, 1):
        with pytest.raises(ValueError, match=key):
            blend_style(orig, style, alpha)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_alpha_stays_between_zero_and_one(alpha: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        blend_style(state(0), state(1), alpha)
