"""The user's callbacks, and the checks of what they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' callback_on_step_end: (pipeline, step, timestep, {name: tensor}) -> dict or None."""


@dataclass(frozen=True)
class StepCallback:
    """The user's callback after each step.

    Attributes:
        function: as `callback_on_step_end`; None for none.
        tensor_names: the tensors that it sees, as `callback_on_step_end_tensor_inputs`.
    """

    function: Callback | None = None
    tensor_names: Sequence[str] = ("latents",)


NO_CALLBACK = StepCallback()


def check_unchanged(given: dict[str, Tensor], shown: dict[str, Tensor], returned: str) -> None:
    """Raise ValueError if a callback replaced tensors in its dict but did not return them."""
    replaced = [name for name in shown if given.get(name, shown[name]) is not shown[name]]
    if replaced:
        raise ValueError(
            f"callback_on_step_end replaced {', '.join(replaced)} in its dict but returned "
            f"{returned}; return the dict"
        )


def check_changed(changed: Any, shown: dict[str, Tensor]) -> None:
    """Raise ValueError unless a callback returned tensors like those that it was shown."""
    if not isinstance(changed, dict) or not set(changed) <= set(shown):
        expected = ", ".join(f'"{name}": {name}' for name in shown)
        raise ValueError(
            f"callback_on_step_end: expected {{{expected}}}, or None for no change, to be returned"
        )
    for name, tensor in changed.items():
        returned, expected = _describe(tensor), _describe(shown[name])
        if returned != expected:
            raise ValueError(
                f"callback_on_step_end: {name} came back as {returned}; expected {expected}"
            )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {value.device}"
    return type(value).__name__
