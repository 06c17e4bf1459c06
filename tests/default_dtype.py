"""What a function returns under each of torch's default dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def under_each_default_dtype(function: Callable[[], Result]) -> tuple[Result, Result]:
    """Return what `function` returns under the defaults float32 and float64."""
    single = function()
    torch.set_default_dtype(torch.float64)
    try:
        return single, function()
    finally:
        torch.set_default_dtype(torch.float32)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors agree in their dtype and in every bit."""
    return one.dtype == other.dtype and torch.equal(one, other)
