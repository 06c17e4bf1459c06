"""The base class of the pipelines: reproducible files, and callbacks after each step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

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


class LumiereBasePipeline(DiffusionPipeline):
    """A diffusers pipeline that writes reproducible files, which do not name the folder they
    came from.
    """

    # The names that callback_on_step_end_tensor_inputs may contain, in an attribute that diffusers
    # defines.
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    _interrupt = False
    _num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether a callback set `pipe._interrupt = True`, as in diffusers, to end the steps."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """How many steps the call does."""
        return self._num_timesteps

    def to_json_string(self) -> str:
        """Return the content of model_index.json."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _titled_bar(self, total: int, title: str) -> tqdm[Any]:
        """Make a progress bar; `set_progress_bar_config(desc=...)` replaces its title."""
        bar = self.progress_bar(total=total)
        if "desc" not in self._progress_bar_config:
            bar.set_description(title)
        return bar

    def _on_step(
        self,
        progress: tqdm[Any],
        callback: StepCallback,
        other_tensors: dict[str, Tensor] | None = None,
    ) -> Callable[[int, Tensor, Tensor], Tensor]:
        """Make the function that `denoise` calls after each step: progress bar, then callback.

        Args:
            progress: the bar.
            callback: gets the tensors that it names, if they exist, and may replace them.
            other_tensors: the tensors besides x_t, which callbacks know as `latents`; the callback's
                replacements are stored in this dict.
        """
        others = {} if other_tensors is None else other_tensors

        def on_step(step: int, timestep: Tensor, x_t: Tensor) -> Tensor:
            progress.update()
            if callback.function is None:
                return x_t
            tensors = {**others, "latents": x_t}
            shown = {name: tensors[name] for name in tensors if name in callback.tensor_names}
            # The callback gets a dict of its own, because diffusers' callbacks change theirs.
            changed = callback.function(self, step, timestep, dict(shown))
            if changed is None:
                return x_t
            _check_changed(changed, shown)
            for name, tensor in changed.items():
                if name != "latents":
                    others[name] = tensor
            return changed.get("latents", x_t)

        return on_step

    def _read_callback(self, callback: Any, names: Any) -> StepCallback:
        """Check a callback and the names of the tensors that it sees.

        A `PipelineCallback` of diffusers names its tensors itself.

        Raises:
            ValueError: if `callback` is neither a function nor None, or a name is not among the
                pipeline's tensors.
        """
        names = getattr(callback, "tensor_inputs", names)
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end is {callback!r}; allowed: a function")
        if isinstance(names, str) or not set(names) <= set(self._callback_tensor_inputs):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs is {names!r}; "
                f"allowed: a list of {', '.join(self._callback_tensor_inputs)}"
            )
        return StepCallback(callback, names)


def _check_changed(changed: Any, shown: dict[str, Tensor]) -> None:
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
