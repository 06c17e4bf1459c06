"""The weight of LoRA adapters in one call, `cross_attention_kwargs={"scale": 0.5}` of diffusers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import nn

SCALE = "scale"


def read_adapter_scale(cross_attention_kwargs: Any, network: nn.Module) -> float:
    """Return the scale in `cross_attention_kwargs`; 1 if there is none.

    Args:
        cross_attention_kwargs: as in a call; only a scale can be met.
        network: the network whose adapters are scaled.

    Raises:
        ValueError: if there is anything but a finite number as the scale, or no adapter that it
            would act on.
    """
    if cross_attention_kwargs is None:
        return 1.0
    options = cross_attention_kwargs
    if not isinstance(options, Mapping) or not set(options) <= {SCALE}:
        raise ValueError(
            f"cross_attention_kwargs is {options!r}; allowed: "
            '{"scale": 0.5}, which weighs LoRA adapters, and no other key'
        )
    scale = options.get(SCALE, 1.0)
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"cross_attention_kwargs: scale is {scale!r}; allowed: a finite number")
    if scale != 1 and not _acting_layers(network):
        raise ValueError(
            f"cross_attention_kwargs: scale is {scale!r}, but the network has no LoRA adapters that "
            "are switched on and not fused; load some with load_lora_weights, or leave it out"
        )
    return float(scale)


@contextmanager
def scaled_adapters(network: nn.Module, scale: float) -> Iterator[None]:
    """While this context is open, each adapter has `scale` times its own weight.

    Weights come back exactly, also after a scale of 0.
    """
    if scale == 1:
        yield
        return
    before = []
    for layer in _acting_layers(network):
        before.append((layer, dict(layer.scaling)))
        layer.scale_layer(scale)
    try:
        yield
    finally:
        for layer, scaling in before:
            layer.scaling.update(scaling)


def _acting_layers(network: nn.Module) -> list[Any]:
    """Return the layers with adapters, of peft, that change their output."""
    layers: list[Any] = []
    adapted: list[Any] = [each for each in network.modules() if hasattr(each, "scale_layer")]
    for layer in adapted:
        acts = not (layer.disable_adapters or layer.merged)
        if acts and set(layer.active_adapters) & set(layer.scaling):
            layers.append(layer)
    return layers
