"""What our pipelines share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

from diffusers import DiffusionPipeline
from torch import Tensor

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""diffusers' callback_on_step_end: (pipeline, step, timestep, {"x_t": x_t}) -> the dict, perhaps changed."""


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
            return x_t if callback is None else callback(self, step, timestep, {"x_t": x_t}).get("x_t", x_t)

        return on_step


def check_range(name: str, value: float, least: float, most: float | None = None) -> None:
    """Raises ValueError, naming the argument, unless least <= value <= most."""
    if not (value >= least and (most is None or value <= most)):
        allowed = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        raise ValueError(f"{name} is {value}; allowed: {allowed}")
