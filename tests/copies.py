"""Copies of networks, in a third of the time that `copy.deepcopy` takes."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import pytest
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copy_network(network: Network) -> Network:
    """Return what `copy.deepcopy` does. A network of no weight to speak of has thousands of empty
    dictionaries for hooks, which take most of the time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__deepcopy__", _copy, raising=False)
        return copy.deepcopy(network)


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    copied = module.__class__.__new__(module.__class__)
    memo[id(module)] = copied
    for name, value in vars(module).items():
        if isinstance(value, dict | set) and not value:
            vars(copied)[name] = type(value)()
        else:
            vars(copied)[name] = copy.deepcopy(value, memo)
    return copied
