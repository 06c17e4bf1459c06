"""Restores networks after a change of their layers has failed halfway."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

# Containers are put back in place, because others hold on to them; those of other types, such as
# a config, never change.
CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def rolled_back_on_error(*networks: nn.Module) -> Iterator[None]:
    """Restore networks if what happens in this context fails: their layers and hooks, their adapters
    with their weights, which of them act or are fused, and which parameters need a gradient. Values
    of tensors are not restored, apart from those that fused adapters have changed.
    """
    network = nn.ModuleList(networks)  # lists modules that networks share only once
    before = [(module, _attributes(module)) for module in network.modules()]
    need_gradient = [(each, each.requires_grad) for each in network.parameters()]
    fused = []
    for layer in tuner_layers(network):
        fused.append((layer, list(layer.merged_adapters)))
    try:
        yield
    except BaseException:
        # peft takes fused adapters out of the weights before it chooses others.
        taken_out = [(layer, names) for layer, names in fused if names != layer.merged_adapters]
        for module, attributes in before:
            _restore(module, attributes)
        for parameter, needs_gradient in need_gradient:
            parameter.requires_grad_(needs_gradient)
        for layer, names in taken_out:
            layer.merged_adapters.clear()
            layer.merge(adapter_names=names)
        raise


def tuner_layers(network: nn.Module) -> list[BaseTunerLayer]:
    """Return the layers of peft, of any kind of adapters."""
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return a module's attributes by name, each with a copy if it is a container."""
    attributes = {}
    for name, value in vars(module).items():
        attributes[name] = (value, value.copy() if type(value) in CONTAINERS else None)
    return attributes


def _restore(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    for value, content in attributes.values():
        if content is None:
            continue
        value.clear()
        if isinstance(value, list):
            value.extend(content)
        else:
            value.update(content)
    own = vars(module)
    own.clear()
    own.update({name: value for name, (value, _) in attributes.items()})
