"""What our pipelines share."""

from __future__ import annotations

import json
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' callback_on_step_end: (pipeline, step, timestep, {"x_t": x_t}) -> the dict, perhaps changed, or None."""


class LumiereBasePipeline(DiffusionPipeline):
    """A diffusers pipeline whose files do not tell where it was loaded from: equal pipelines are equal bytes."""

    def to_json_string(self) -> str:
        """The content of model_index.json."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _on_step(self, progress: Any, callback: Callback | None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What `denoise` calls after a step: the progress bar, and the user's callback, which may change x_t."""

        def on_step(step: int, timestep: Tensor, x_t: Tensor) -> Tensor:
            progress.update()
            changed = None if callback is None else callback(self, step, timestep, {"x_t": x_t})
            if changed is None:
                return x_t
            if not isinstance(changed, dict) or not set(changed) <= {"x_t"}:
                raise ValueError('callback_on_step_end: expected {"x_t": x_t}, or None for no change, to be returned')
            return changed.get("x_t", x_t)

        return on_step


def check_range(least: float, most: float | None = None, **values: Any) -> None:
    """Raises ValueError, naming the argument, unless each value is a number from least to most."""
    _check_numbers(Real, "", least, most, values)


def check_whole(least: int, most: int | None = None, **values: Any) -> None:
    """The same for whole numbers."""
    _check_numbers(Integral, ", whole numbers", least, most, values)


def _check_numbers(kind: type, kind_name: str, least: float, most: float | None, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not (isinstance(value, kind) and value >= least and (most is None or value <= most)):  # type: ignore[operator]
            allowed = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
            raise ValueError(f"{name} is {value!r}; allowed: {allowed}{kind_name}")


def check_callables(generator: Any, callback: Any) -> None:
    """Raises ValueError unless `generator` is a torch.Generator, a list of them or None, and `callback` callable."""
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    if generator is not None and not all(isinstance(entry, torch.Generator) for entry in generators):
        raise ValueError(f"generator is {generator!r}; allowed: torch.Generator().manual_seed(n), or one per video")
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end is {callback!r}; allowed: a function")
