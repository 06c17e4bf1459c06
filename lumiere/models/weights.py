"""The two kinds of weights of a Space-Time U-Net, and their files.

Spatial weights belong to the image model, inside `unet`, and are frozen. All others are temporal;
only they train. Each kind has its own safetensors file, so that the temporal weights are small
enough to share, and a style replaces a single file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from lumiere.files import is_file, read_json
from lumiere.hub_folders import HUB_OPTIONS, find_folder, take_hub_options
from lumiere.models.code_file import write_network_code
from lumiere.models.sharded_files import read_weights, with_variant, write_weights

CONFIG_FILE = "config.json"
SPATIAL_FILE = "text_to_image.safetensors"
TEMPORAL_FILE = "temporal.safetensors"
TEMPORAL_CONFIG_FILE = "temporal.json"

SPATIAL_PREFIX = "unet."
CONDITIONING_PREFIX = "conv_in_conditioning."
PARTS = ("all", "motion", "conditioning")
IMAGE_MODEL = "image_model_sha256"

# Arguments of diffusers' from_pretrained that say how weights are read, not which; they change
# nothing here.
HOW_TO_READ = {
    "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage", "disable_mmap", "mirror",
}  # fmt: skip

LOADING_INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")

Self = TypeVar("Self", bound="SpaceTimeWeights")


class SpaceTimeWeights(ModelMixin):
    """A diffusers model whose spatial weights are in `unet`; all others are temporal.

    `loaded_from` is the folder that `from_pretrained` read, in a hub's cache for a hub name.
    `offloaded_to` is the folder that holds the weights after `enable_group_offload` with
    `offload_to_disk_path`; those in memory mean nothing then.
    """

    loaded_from: Path | None = None
    offloaded_to: Path | None = None

    def check_plain(self, purpose: str) -> None:
        """Raise ValueError if layers have adapters, so that their names are not the plain ones."""
        raise NotImplementedError

    def temporal_settings(self) -> dict[str, Any]:
        """Return the settings that two networks must share to exchange temporal weights, in JSON
        types.
        """
        raise NotImplementedError

    # --- in memory --------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return all weights, as `torch.nn.Module` does, contiguous as safetensors wants them.

        Kernels are stored in channels-last memory, so they are copies here; `keep_vars=True`
        returns the parameters themselves.
        """
        state = super().state_dict(*args, **kwargs)
        if not kwargs.get("keep_vars", False):
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = value.contiguous()
        return state

    def named_temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters that inflation added, with their names; only they train."""
        return (
            (name, p) for name, p in self.named_parameters() if not name.startswith(SPATIAL_PREFIX)
        )

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that inflation added; only they train."""
        return (parameter for _, parameter in self.named_temporal_parameters())

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Return the text-to-image model's parameters, which are frozen."""
        return self.unet.parameters()

    def temporal_state_dict(self) -> dict[str, Tensor]:
        """Return the temporal weights by name."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(SPATIAL_PREFIX)
        }

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Offload weights group by group, as in diffusers.

        Groups that go to a disk are written as they lie in memory, so they get the plain layout
        first; the network is a little slower then. They go to a new folder in
        `offload_to_disk_path`, because diffusers takes files that it finds there, even those of
        another network.
        """
        path = kwargs.get("offload_to_disk_path")
        if path is not None:
            Path(path).mkdir(parents=True, exist_ok=True)
            self.offloaded_to = Path(tempfile.mkdtemp(prefix="network-", dir=path))
            kwargs["offload_to_disk_path"] = str(self.offloaded_to)
            for parameter in self.parameters():
                parameter.data = parameter.data.contiguous()
        super().enable_group_offload(*args, **kwargs)

    # --- files ------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write config.json, the T2I's weights and the temporal weights, each in its own file.

        Args:
            save_directory: a folder, made if it does not exist.
            is_main_process: False writes nothing, in the other processes of a training.
            save_function: not called, as in diffusers: safetensors writes the files.
            safe_serialization: True; weights are never pickled.
            variant: goes into the names of the weight files, such as "fp16". It does not convert
                them.
            max_shard_size: split larger files into parts of at most this many bytes, a number or a
                text such as "5GB"; by default they are whole.

        Raises:
            ValueError: on safe_serialization=False, a variant or size that is none, or if the
                network has adapters.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization is False; weights are stored as safetensors alone: leave it out"
            )
        if not is_main_process:
            return
        self._check_in_memory("save_pretrained")
        self.check_plain("save_pretrained")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        if self._auto_class is not None:  # register_for_auto_class
            write_network_code(folder)
        spatial = folder / with_variant(SPATIAL_FILE, variant)
        write_weights(self.unet.state_dict(), spatial, max_shard_size)
        self.save_temporal(folder, variant, max_shard_size)

    @classmethod
    def from_pretrained(
        cls: type[Self],
        pretrained_model_name_or_path: str | Path,
        torch_dtype: torch.dtype | None = None,
        subfolder: str | None = "",
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        output_loading_info: bool = False,
        device_map: Any = None,
        **options: Any,
    ) -> Self | tuple[Self, dict[str, list[str]]]:
        """Load a folder that `save_pretrained` wrote; spatial parameters are frozen.

        Args:
            pretrained_model_name_or_path: a folder, or a hub name.
            torch_dtype: diffusers' older name of `dtype`.
            subfolder: of that folder, such as "unet" in a pipeline's.
            dtype: of the network; by default that of the files.
            variant: the part of the weight files' names that `save_pretrained` was given.
            output_loading_info: return a pair: the network, and lists of missing and unexpected
                weights. They are empty, because each of them is an error.
            device_map: a device, or {"": device}; the whole network goes there.
            options: `cache_dir`, `revision`, `local_files_only` and the like, for hub names; and
                those that tell diffusers how to read files.

        Raises:
            ValueError: if a file is missing or does not fit, or an option cannot be met.
            TypeError: if a keyword is not one of diffusers'.
        """
        hub = take_hub_options(options)
        _check_options(cls.__name__, options)
        device = _one_device(device_map)
        dtype = torch_dtype if dtype is None else dtype
        if not (dtype is None or isinstance(dtype, torch.dtype)):
            raise ValueError(f"dtype is {dtype!r}; allowed: a torch.dtype, such as torch.float16")
        subfolder = subfolder or ""
        patterns = [str(Path(subfolder) / f"*{suffix}") for suffix in (".json", ".safetensors")]
        expected = f"a folder written by {cls.__name__}.save_pretrained"
        source = find_folder(pretrained_model_name_or_path, expected, patterns, **hub)
        folder = source / subfolder
        settings = _read_config(folder, cls.__name__)
        try:
            # Keeps keys that the class does not know, as diffusers' models do.
            model = cls.from_config(settings)
        except TypeError as error:  # a setting is missing, or is of another type
            raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
        path = folder / with_variant(SPATIAL_FILE, variant)
        spatial = read_weights(path)
        _require_same_keys(spatial, model.unet.state_dict(), path)
        nn.Module.to(model, dtype=next(iter(spatial.values())).dtype)
        model.unet.load_state_dict(spatial)
        model.load_temporal(folder, variant=variant)
        nn.Module.to(model, device=device, dtype=dtype)
        model.eval()
        model.loaded_from = folder
        if not output_loading_info:
            return model
        return model, {name: [] for name in LOADING_INFO}

    def save_temporal(
        self,
        save_directory: str | Path,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the temporal weights, and a JSON file that says which network and image model they
        belong to.

        Args:
            save_directory: a folder, made if it does not exist.
            variant, max_shard_size: as in `save_pretrained`.

        Raises:
            ValueError: if the network has adapters.
        """
        self._check_in_memory("save_temporal")
        self.check_plain("save_temporal")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / with_variant(TEMPORAL_FILE, variant)
        write_weights(self.temporal_state_dict(), weights, max_shard_size)
        about = {**self.temporal_settings(), IMAGE_MODEL: weights_hash(self.unet.state_dict())}
        (folder / with_variant(TEMPORAL_CONFIG_FILE, variant)).write_text(
            json.dumps(about, indent=2) + "\n", encoding="utf-8"
        )

    def load_temporal(
        self, save_directory: str | Path, part: str = "all", variant: str | None = None
    ) -> None:
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
            variant: as in `save_temporal`.

        Raises:
            ValueError: if a file is missing, or a setting, key or shape does not match; the message
                names the first mismatch.
        """
        if part not in PARTS:
            raise ValueError(f"part is {part!r}; allowed: {', '.join(PARTS)}")
        self.check_plain("load_temporal")
        path = Path(save_directory) / with_variant(TEMPORAL_FILE, variant)
        loaded, own = _part_of(read_weights(path), part), _part_of(self.temporal_state_dict(), part)
        about_path = path.with_name(with_variant(TEMPORAL_CONFIG_FILE, variant))
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

    def _check_in_memory(self, purpose: str) -> None:
        if self.offloaded_to is not None:
            raise ValueError(
                f"{purpose}: the weights are in {self.offloaded_to} after enable_group_offload(); save "
                "the network before that call"
            )

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


def _check_options(class_name: str, options: dict[str, Any]) -> None:
    """Raise on options of diffusers' from_pretrained that cannot be met, and on unknown ones."""
    if options.pop("use_safetensors", None) is False:
        raise ValueError("use_safetensors is False; weights are safetensors alone: leave it out")
    if options.pop("use_flashpack", False):
        raise ValueError("use_flashpack is True; weights are safetensors alone: leave it out")
    if options.pop("quantization_config", None) is not None:
        raise ValueError(
            "quantization_config is given, but the network is not quantized at loading; leave it "
            "out, and call enable_layerwise_casting() to store weights in a narrow type"
        )
    if unknown := sorted(set(options) - HOW_TO_READ):
        raise TypeError(
            f"{class_name}.from_pretrained got an unexpected keyword {unknown[0]!r}; allowed: dtype, "
            "torch_dtype, subfolder, variant, output_loading_info, device_map, "
            + ", ".join(HUB_OPTIONS)
        )


def _one_device(device_map: Any) -> Any:
    """Return the device that a device_map of diffusers names for the whole network; None for none.

    Raises:
        ValueError: if it does not name one.
    """
    if device_map is None:
        return None
    if isinstance(device_map, Mapping) and list(device_map) == [""]:
        device_map = device_map[""]
    try:
        return torch.device(device_map)
    except (TypeError, RuntimeError):
        raise ValueError(
            f"device_map is {device_map!r}; allowed: a device for the whole network, such as 'cuda'; "
            "to use less memory, call enable_group_offload() after loading"
        ) from None


def _part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    selected = {}
    for name, value in state.items():
        of_part = "conditioning" if name.startswith(CONDITIONING_PREFIX) else "motion"
        if part in ("all", of_part):
            selected[name] = value
    return selected


def _read_config(folder: Path, class_name: str) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not is_file(path):
        if is_file(folder / "model_index.json"):
            raise ValueError(f"{folder}: a pipeline's folder; add subfolder='unet' for its network")
        raise ValueError(
            f"{folder}: no {CONFIG_FILE}; expected a folder written by {class_name}.save_pretrained"
        )
    config = read_json(path)
    if config.get("_class_name") != class_name:
        raise ValueError(f"{path}: the config of {config.get('_class_name')}, not of {class_name}")
    config.pop("auto_map", None)  # for diffusers' AutoModel
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
