"""The two kinds of weights of a Space-Time U-Net, and their files.

Spatial weights belong to the image model, inside `unet`, and are frozen. All others are temporal;
only they train. Each kind has its own safetensors file, so that the temporal weights are small
enough to share, and a style replaces a single file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from lumiere.files import is_file, read_json
from lumiere.tensor_files import read_tensors

CONFIG_FILE = "config.json"
SPATIAL_FILE = "text_to_image.safetensors"
TEMPORAL_FILE = "temporal.safetensors"
TEMPORAL_CONFIG_FILE = "temporal.json"

SPATIAL_PREFIX = "unet."
CONDITIONING_PREFIX = "conv_in_conditioning."
PARTS = ("all", "motion", "conditioning")
IMAGE_MODEL = "image_model_sha256"

# Arguments that a diffusers pipeline passes to its components besides torch_dtype, as of diffusers
# 0.42; they are ignored here.
FROM_PIPELINE = {
    "device_map", "max_memory", "offload_folder", "offload_state_dict", "variant", "use_safetensors", "use_flashpack",
    "low_cpu_mem_usage", "disable_mmap",
}  # fmt: skip

Self = TypeVar("Self", bound="SpaceTimeWeights")


class SpaceTimeWeights(ModelMixin):
    """A diffusers model whose spatial weights are in `unet`; all others are temporal."""

    def temporal_settings(self) -> dict[str, Any]:
        """Return the settings that two networks must share to exchange temporal weights, in JSON
        types.
        """
        raise NotImplementedError

    # --- in memory --------------------------------------------------------------------------------

    def named_temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that inflation added, with their names; only they train."""
        return (
            (name, p) for name, p in self.named_parameters() if not name.startswith(SPATIAL_PREFIX)
        )

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that inflation added; only they train."""
        return (parameter for _, parameter in self.named_temporal_parameters())

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """The text-to-image model's parameters, which are frozen."""
        return self.unet.parameters()

    def temporal_state_dict(self) -> dict[str, Tensor]:
        """Return the temporal weights by name."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(SPATIAL_PREFIX)
        }

    # --- files ------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write config.json, the T2I's weights and the temporal weights, each in its own file.

        Raises:
            ValueError: if variant, max_shard_size or safe_serialization=False is passed, because
                the files have only one form.
        """
        _refuse(variant=variant, max_shard_size=max_shard_size)
        _refuse(safe_serialization=None if safe_serialization else False)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        _write(self.unet.state_dict(), folder / SPATIAL_FILE)
        self.save_temporal(folder)

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: str | Path,
        torch_dtype: torch.dtype | None = None,
        subfolder: str = "",
        dtype: torch.dtype | None = None,
        **from_pipeline: Any,
    ) -> Self:
        """Load a folder that `save_pretrained` wrote, in the saved dtype or in `dtype`; spatial
        parameters are frozen.

        `torch_dtype` is diffusers' older name of `dtype`.

        Raises:
            ValueError: if a file is missing or does not fit, or a variant is requested; there are
                no variants.
            TypeError: if a keyword is neither listed here nor passed by diffusers pipelines.
        """
        if unknown := sorted(set(from_pipeline) - FROM_PIPELINE):
            raise TypeError(
                f"{cls.__name__}.from_pretrained got an unexpected keyword {unknown[0]!r}; allowed: dtype, "
                "torch_dtype, subfolder"
            )
        _refuse(variant=from_pipeline.get("variant"))
        dtype = torch_dtype if dtype is None else dtype
        folder = Path(pretrained_model_name_or_path) / subfolder
        settings = _read_config(folder, cls.__name__)
        try:
            model = cls(**settings)
        except TypeError as error:  # an unknown setting, or one that is missing
            raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
        spatial = read_tensors(folder / SPATIAL_FILE)
        _require_same_keys(spatial, model.unet.state_dict(), folder / SPATIAL_FILE)
        nn.Module.to(model, dtype=next(iter(spatial.values())).dtype)
        model.unet.load_state_dict(spatial)
        model.load_temporal(folder)
        if dtype is not None:
            nn.Module.to(model, dtype=dtype)
        return model.eval()

    def save_temporal(self, save_directory: str | Path) -> None:
        """Write the temporal weights, and a JSON file that says which network and image model they
        belong to.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        _write(self.temporal_state_dict(), folder / TEMPORAL_FILE)
        about = {**self.temporal_settings(), IMAGE_MODEL: weights_hash(self.unet.state_dict())}
        (folder / TEMPORAL_CONFIG_FILE).write_text(
            json.dumps(about, indent=2) + "\n", encoding="utf-8"
        )

    def load_temporal(self, save_directory: str | Path, part: str = "all") -> None:
        """Load temporal weights in place; spatial weights do not change.

        With `part="motion"`, a network with conditioning can load the weights of one without, and
        the other way round. Both compute the same if nothing is known, because the added input
        convolution has no bias.

        Warns when the weights were trained on another image model, for example before a style
        replaced it. In bfloat16 there is no such check, because the image model's weights are
        rounded.

        Args:
            save_directory: a folder written by `save_temporal` or `save_pretrained`.
            part: "all"; "conditioning", only the added input convolution; or "motion", everything
                else. The rest is not loaded, and may differ.

        Raises:
            ValueError: if a file is missing, or a setting, key or shape does not match; the message
                names the first mismatch.
        """
        if part not in PARTS:
            raise ValueError(f"part is {part!r}; allowed: {', '.join(PARTS)}")
        path = Path(save_directory) / TEMPORAL_FILE
        loaded, own = _part_of(read_tensors(path), part), _part_of(self.temporal_state_dict(), part)
        about_path = path.with_name(TEMPORAL_CONFIG_FILE)
        about = read_json(about_path)
        for key, value in self.temporal_settings().items():
            of_part = "conditioning" if key == "conditioning_channels" else "motion"
            stored = about.get(key)
            if part in ("all", of_part) and stored != value:
                raise ValueError(
                    f"{about_path}: {key} {json.dumps(stored)}, not {json.dumps(value)}"
                )
        _require_same_keys(loaded, own, path)
        self._compare_image_model(about.get(IMAGE_MODEL), about_path)
        self.load_state_dict(loaded, strict=False)

    def _compare_image_model(self, trained_on: str | None, path: Path) -> None:
        if self.dtype == torch.bfloat16:
            return
        own = weights_hash(self.unet.state_dict())
        if trained_on == own:
            return
        warnings.warn(
            f"{path}: the temporal weights belong to the image model {str(trained_on)[:12]}, but this network has "
            f"{own[:12]}; where that is not a style or a fine-tuned version of it, load the image model they were "
            "trained on, or train them on this one",
            stacklevel=3,
        )


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 over names, shapes and values, in hexadecimal.

    Values are hashed as float16, so a model saved in half precision has the hash of its float32
    original.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        value = value.detach().cpu()
        digest.update(
            (value.float().half() if value.is_floating_point() else value).numpy().tobytes()
        )
    return digest.hexdigest()


def _refuse(**options: Any) -> None:
    """Raise ValueError on the first option of diffusers that is set."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name} is {value!r}; weights are stored whole, as safetensors, in the network's own precision: leave "
                "it out, and convert the network itself with .to(dtype)"
            )


def _part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    selected = {}
    for name, value in state.items():
        of_part = "conditioning" if name.startswith(CONDITIONING_PREFIX) else "motion"
        if part in ("all", of_part):
            selected[name] = value
    return selected


def _write(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def _read_config(folder: Path, class_name: str) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not is_file(path):
        raise ValueError(
            f"{folder}: no {CONFIG_FILE}; expected a folder written by {class_name}.save_pretrained"
        )
    config = read_json(path)
    if config.get("_class_name") != class_name:
        raise ValueError(f"{path}: the config of {config.get('_class_name')}, not of {class_name}")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _require_same_keys(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    missing, unexpected = sorted(set(own) - set(loaded)), sorted(set(loaded) - set(own))
    if missing or unexpected:
        what = (
            f"no weights for layer {missing[0]!r}"
            if missing
            else f"unexpected layer {unexpected[0]!r}"
        )
        raise ValueError(f"{path}: {what} ({len(missing)} missing, {len(unexpected)} unexpected)")
    for name, value in own.items():
        if loaded[name].shape != value.shape:
            raise ValueError(
                f"{path}: layer {name!r} has shape {tuple(loaded[name].shape)}, not {tuple(value.shape)}"
            )
