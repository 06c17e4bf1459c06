"""The base class of the pipelines: reproducible files, loading, hubs, and callbacks after each
step.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import create_repo, upload_folder
from torch import Tensor
from tqdm import tqdm

from lumiere.files import is_file, read_json
from lumiere.hub_folders import SUFFIXES, find_folder, take_hub_options
from lumiere.pipelines.callbacks import StepCallback, check_changed, check_unchanged
from lumiere.pipelines.model_card import ModelFacts, write_model_card
from lumiere.pipelines.remote_code import use_installed_classes, write_remote_code
from lumiere.pipelines.turns import (
    changes_in_turn,
    changing_components,
    replacing_component,
)

# Attributes that callbacks of diffusers may set and that nothing reads here, with the cure.
_SETTINGS_OF_DIFFUSERS = {
    "_clip_skip": "our text encoders skip no layer: leave it out",
    "_cross_attention_kwargs": "pass cross_attention_kwargs to the call",
    "_guidance_rescale": "pass guidance_rescale to the call",
}

# False while from_pipe makes a pipeline, which must not convert the other's networks.
_CONVERTS = ContextVar("_CONVERTS", default=True)


@changes_in_turn(
    between_steps=[
        "disable_attention_slicing",
        "disable_xformers_memory_efficient_attention",
        "enable_attention_slicing",
        "enable_xformers_memory_efficient_attention",
        "maybe_free_model_hooks",
        "set_attention_slice",
        "set_use_memory_efficient_attention_xformers",
    ],
    after_calls=[
        "register_modules",  # writes the config before it sets the attribute
        "enable_group_offload",
        "enable_model_cpu_offload",
        "enable_sequential_cpu_offload",
        "remove_all_hooks",
        "reset_device_map",
        "save_pretrained",  # would save the weights of a call's style
    ],
)
class LumiereBasePipeline(DiffusionPipeline):
    """A diffusers pipeline that writes reproducible files, which do not name the folder they
    came from.
    """

    # The names that callback_on_step_end_tensor_inputs may contain, in an attribute that diffusers
    # defines.
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    _interrupt = False
    _num_timesteps = 0
    _current_timestep: Tensor | None = None
    _call_attention_kwargs: dict[str, Any] | None = None

    @property
    def interrupt(self) -> bool:
        """Return whether a callback set `pipe._interrupt = True`, as in diffusers, to end the steps."""
        return self._interrupt

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call, for callbacks; super-resolution has no guidance."""
        return 1.0

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Return whether the network computes two predictions at a step."""
        return False

    @property
    def current_timestep(self) -> Tensor | None:
        """The timestep of the step that has ended, for callbacks; None outside of them."""
        return self._current_timestep

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """The argument of the call, for callbacks; super-resolution has none."""
        return self._call_attention_kwargs

    @property
    def clip_skip(self) -> None:
        """None; no layer of our text encoders is skipped."""

    @property
    def num_timesteps(self) -> int:
        """The number of steps of the call."""
        return self._num_timesteps

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. A component is replaced after the calls of other threads; in a callback
        this raises ValueError, because the call that runs goes on with the one that it began with.
        """
        if name in _SETTINGS_OF_DIFFUSERS:
            raise ValueError(f"pipe.{name} has no effect here; {_SETTINGS_OF_DIFFUSERS[name]}")
        is_component = name in vars(self) and isinstance(self.config.get(name), (list, tuple))
        with replacing_component(self, name) if is_component else nullcontext():
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Remove an attribute; a component becomes None, and its name never means its class."""
        if isinstance(self.config.get(name), (list, tuple)):
            setattr(self, name, None)
        else:
            super().__delattr__(name)

    # --- other pipelines' components --------------------------------------------------------------

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of another's components, as in diffusers.

        The components keep their dtype, because both pipelines use them; diffusers converts them to
        float32 where `dtype` is left out.

        Args:
            pipeline: any pipeline of diffusers or of ours.
            kwargs: components and settings in place of that pipeline's. `dtype` converts the
                networks of both pipelines.

        Raises:
            ValueError: if a component does not fit.
        """
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        token = _CONVERTS.set(dtype is not None)
        try:
            return super().from_pipe(pipeline, **kwargs)
        finally:
            _CONVERTS.reset(token)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and convert the networks, as in diffusers."""
        if not _CONVERTS.get():
            return self
        with changing_components(self, "to"):
            return super().to(*args, **kwargs)

    # --- files and hubs ---------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        is_main_process: bool = True,
        remote_code: bool = True,
        repo_id: str | None = None,
        **hub: Any,
    ) -> None:
        """Save as diffusers does, with the files by which diffusers' own loaders find our classes.

        Args:
            save_directory: a folder, made if it does not exist.
            safe_serialization: True; weights are never pickled.
            variant, max_shard_size: as in `SpaceTimeUNet.save_pretrained`.
            push_to_hub: upload the folder then, as `push_to_hub` does.
            is_main_process: False writes nothing, in the other processes of a training.
            remote_code: write pipeline.py, with which `DiffusionPipeline.from_pretrained(folder,
                trust_remote_code=True)` loads the folder. Without it, only our classes load it.
            repo_id: for `push_to_hub`; by default the folder's name.
            hub: other arguments of `push_to_hub`.

        Raises:
            ValueError: on safe_serialization=False, or if a network has adapters.
        """
        if hub and not push_to_hub:
            name = sorted(hub)[0]
            raise TypeError(f"save_pretrained got {name!r}, which is only read with push_to_hub")
        if not is_main_process:
            return
        folder = Path(save_directory)
        self._save_parts(
            folder,
            safe_serialization=safe_serialization,
            variant=variant,
            max_shard_size=max_shard_size,
        )
        if remote_code:
            write_remote_code(folder, type(self))
        if push_to_hub:
            self._upload(folder, repo_id or folder.resolve().name, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        facts: ModelFacts | None = None,
    ) -> str:
        """Save into a temporary folder, with a model card, and upload that to a hub.

        Args:
            repo_id, commit_message, private, token, create_pr: as in diffusers.
            safe_serialization, variant: as in `save_pretrained`.
            facts: what the card says of data, steps, metrics, licence and use, such as
                `ModelFacts.of_project(".", license="apache-2.0")`.

        Returns:
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization, variant)
            options: dict[str, Any] = {"private": private, "token": token, "create_pr": create_pr}
            return self._upload(
                Path(folder), repo_id, commit_message=commit_message, facts=facts, **options
            )

    def _upload(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        facts: ModelFacts | None = None,
    ) -> str:
        if facts is not None or not is_file(folder / "README.md"):
            write_model_card(folder, self, facts)
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        return upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            token=token,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            create_pr=create_pr,
        )

    def _save_parts(self, folder: Path, **options: Any) -> None:
        """Write the folder as diffusers does."""
        super().save_pretrained(str(folder), **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a saved pipeline; passed components replace the stored ones, as in diffusers.

        Only JSON, vocabularies and safetensors are downloaded, and no code of the folder runs,
        unless `custom_pipeline` names one.

        Args:
            pretrained_model_name_or_path: a folder, or a hub name.
            kwargs: as in diffusers.

        Raises:
            ValueError: if the folder does not hold a saved pipeline of this class, or `dtype` is
                none of torch's.
        """
        _check_dtypes(kwargs)
        expected = f"a folder written by {cls.__name__}.save_pretrained"
        hub, patterns = take_hub_options(kwargs), [f"*{suffix}" for suffix in SUFFIXES]
        folder = find_folder(pretrained_model_name_or_path, expected, patterns, **hub)
        if not is_file(folder / cls.config_name):
            raise ValueError(f"{folder}: no {cls.config_name}; expected {expected}")
        if "unet" not in kwargs:
            cls._check_index(folder, read_json(folder / cls.config_name))
        return cls._load(folder, **kwargs)

    @classmethod
    def _check_index(cls, folder: Path, index: dict[str, Any]) -> None:
        """Raise ValueError unless a folder's index is that of a pipeline of this kind."""

    @classmethod
    def _load(cls, folder: Path, **kwargs: Any) -> Self:
        return super().from_pretrained(str(folder), **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read model_index.json as diffusers does; the class is the installed one."""
        loaded = super().load_config(*args, **kwargs)
        use_installed_classes(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

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
            visible, timesteps = dict(shown), self.scheduler.timesteps
            before = timesteps.clone()
            self._current_timestep = timestep
            try:
                changed = callback.function(self, step, timestep, visible)
            finally:
                self._current_timestep = None
            after = self.scheduler.timesteps
            if after is not timesteps or not torch.equal(after, before):
                raise ValueError(
                    "a callback changed the timesteps of the scheduler, which belong to the call "
                    "that runs; use a copy of the scheduler (copy.deepcopy)"
                )
            if changed is None:
                check_unchanged(visible, shown, "None, which means no change")
                return x_t
            check_changed(changed, shown)
            rest = {name: shown[name] for name in shown if name not in changed}
            check_unchanged(visible, rest, "a dict without it")
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


def _check_dtypes(options: Mapping[str, Any]) -> None:
    """Raise ValueError unless a dtype is one of torch, or names one for each component; diffusers
    would take float32 for it.
    """
    for name in ("dtype", "torch_dtype"):
        value = options.get(name)
        dtypes = value.values() if isinstance(value, Mapping) else [value]
        if not all(each is None or isinstance(each, torch.dtype) for each in dtypes):
            raise ValueError(
                f"{name} is {value!r}; allowed: a torch.dtype, such as torch.float16, or a dict of "
                "them by component"
            )
