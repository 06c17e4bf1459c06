"""What our pipelines share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' callback_on_step_end: (pipeline, step, timestep, {name: tensor}) -> the dict, perhaps changed, or None."""


class LumiereBasePipeline(DiffusionPipeline):
    """A diffusers pipeline whose files do not tell where it was loaded from: equal pipelines are equal bytes."""

    # What callback_on_step_end_tensor_inputs can name; diffusers' own attribute.
    _callback_tensor_inputs: ClassVar[list[str]] = ["x_t"]

    _interrupt = False
    _num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether a callback set `pipe._interrupt = True`, as in diffusers: no further step is done."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """How many steps the call does."""
        return self._num_timesteps

    def to_json_string(self) -> str:
        """The content of model_index.json."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _on_step(
        self,
        progress: Any,
        callback: Callback | None,
        names: Sequence[str] = ("x_t",),
        tensors: dict[str, Tensor] | None = None,
    ) -> Callable[[int, Tensor, Tensor], Tensor]:
        """What `denoise` calls after a step: the progress bar, and the user's callback.

        Args:
            progress: the bar.
            callback: sees the tensors that it asked for by `names`, as far as there are any, and may change them.
            names: as in `callback_on_step_end_tensor_inputs`.
            tensors: those beside x_t, in which the changed ones are put.
        """
        others = {} if tensors is None else tensors

        def on_step(step: int, timestep: Tensor, x_t: Tensor) -> Tensor:
            progress.update()
            if callback is None:
                return x_t
            shown = {
                name: tensor for name, tensor in {**others, "x_t": x_t}.items() if name in names
            }
            changed = callback(self, step, timestep, shown)
            if changed is None:
                return x_t
            if not isinstance(changed, dict) or not set(changed) <= set(shown):
                expected = ", ".join(f'"{name}": {name}' for name in shown)
                raise ValueError(
                    f"callback_on_step_end: expected {{{expected}}}, or None for no change, to be returned"
                )
            for name, tensor in changed.items():
                found, expected = (_described(each) for each in (tensor, shown[name]))
                if found != expected:
                    raise ValueError(
                        f"callback_on_step_end: {name} came back as {found}; expected {expected}"
                    )
            others.update({name: tensor for name, tensor in changed.items() if name != "x_t"})
            return changed.get("x_t", x_t)

        return on_step

    def _check_callback(self, callback: Any, names: Any) -> Sequence[str]:
        """The tensors to show: `names`, or those that one of diffusers' PipelineCallback asks for.

        Raises:
            ValueError: unless `callback` is a function or None, and the names are tensors that it can be shown.
        """
        names = getattr(callback, "tensor_inputs", names)
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end is {callback!r}; allowed: a function")
        if isinstance(names, str) or not set(names) <= set(self._callback_tensor_inputs):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs is {names!r}; "
                f"allowed: a list of {', '.join(self._callback_tensor_inputs)}"
            )
        return names


def _described(value: Any) -> str:
    return (
        f"{tuple(value.shape)} {value.dtype} {value.device}"
        if isinstance(value, Tensor)
        else type(value).__name__
    )


def check_range(least: float, most: float | None = None, **values: Any) -> None:
    """Raises ValueError, naming the argument, unless each value is a number from least to most."""
    _check_numbers(Real, "", least, most, values)


def check_whole(least: int, most: int | None = None, **values: Any) -> None:
    """The same for whole numbers."""
    _check_numbers(Integral, ", whole numbers", least, most, values)


def _check_numbers(
    kind: type, kind_name: str, least: float, most: float | None, values: dict[str, Any]
) -> None:
    largest = sys.float_info.max if most is None else most
    for name, value in values.items():
        inside = isinstance(value, kind) and least <= value <= largest  # type: ignore[operator]
        if not inside:
            finite = " and finite" if isinstance(value, Real) and value == math.inf else ""
            allowed = f"at least {least:g}{finite}" if most is None else f"{least:g} to {most:g}"
            raise ValueError(f"{name} is {value!r}; allowed: {allowed}{kind_name}")


def check_generator(generator: Any) -> None:
    """Raises ValueError unless `generator` is a torch.Generator, a list of them or None."""
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    if generator is not None and not all(
        isinstance(entry, torch.Generator) for entry in generators
    ):
        raise ValueError(
            f"generator is {generator!r}; allowed: torch.Generator().manual_seed(n), or one per video"
        )


def check_whole_or_none(**values: Any) -> None:
    """Raises ValueError, naming the argument, unless each is None or a whole number above zero."""
    check_whole(1, **{name: value for name, value in values.items() if value is not None})
