"""Builds a network whose weights a file will replace, without drawing random ones first."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

# Functions of torch.nn.init, and methods of tensors.
DRAWS = {"kaiming_uniform_", "normal_", "uniform_"}


class NoRandomWeights(TorchFunctionMode):
    """Within it, layers do not fill their weights with random numbers.

    Weights that no file replaces hold whatever was in memory: load every one of them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
