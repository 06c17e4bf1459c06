"""Low-rank adapters (LoRA, Hu et al. 2021) of a Space-Time U-Net, by diffusers' methods and peft.

Files of the image model's adapters name its layers (`unet.down_blocks...`), as pipelines of
diffusers write them. Adapters on temporal layers (motion LoRA) name those of this network
(`mid_inflation...`), with or without the prefix `unet.`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import _fetch_state_dict
from diffusers.utils import set_weights_and_activate_adapters
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lumiere.errors import one_line
from lumiere.hub_folders import is_hub_name
from lumiere.models.rollback import rolled_back_on_error
from lumiere.models.switches import is_fused, remove_fused_layers, replaced_projections

PREFIX = "unet."
ADAPTERS = (
    "a folder with pytorch_lora_weights.safetensors, a safetensors file, a hub name, or the tensors "
    "by name"
)
# Layers whose output has another shape than a plain layer of their kind.
WITHOUT_ADAPTERS = "temporal_upsamplers"
# Settings of peft by which layers were chosen; the names in a file are the outcome.
CHOICES = ("exclude_modules", "layers_pattern", "layers_to_transform")
ADAPTER_PARTS = (".lora_", ".base_layer.", ".to_qkv.", ".to_kv.")


class SpaceTimeAdapters(PeftAdapterMixin):
    """Adapters of a network whose image model is in `unet`."""

    # Layers with their adapters' weights before the first fuse_lora.
    _weights_before_fusing: Sequence[tuple[Any, dict[str, float]]] = ()

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Add adapters, as in diffusers; only they need a gradient then.

        Args:
            adapter_config: of peft, such as `LoraConfig(r=4, target_modules=["to_q", "to_v"])`.
            adapter_name: the adapters' name.

        Raises:
            ValueError: if the name is taken, no layer matches, or a layer takes no adapter or has
                fused projections, or weights are stored in a narrow type. The network then stays
                as it was, with the adapters that were in use.
        """
        self._check_takes_adapters()
        with rolled_back_on_error(self):
            super().add_adapter(adapter_config, adapter_name)
            layers = _adapted(self, adapter_name)
            _check_layers(layers, layers)
            _check_in_use(layers, self)

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        prefix: str | None = None,
        hotswap: bool = False,
        **options: Any,
    ) -> None:
        """Load adapters of the image model, of temporal layers, or of both.

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a file, a hub name, or the tensors by
                name, as peft (`lora_A`), diffusers' training scripts (`lora.down`) or
                `save_lora_adapter` write them.
            prefix: not needed: every name is understood with and without `unet.`.
            hotswap, options: as in diffusers.

        Raises:
            ValueError: if the source cannot be read, or there are no adapters, or those of a layer
                that this network lacks or that has fused projections, or weights are stored in a
                narrow type.
            RuntimeError: if weights have another shape than their layer takes.
        """
        self._check_takes_adapters()
        state, metadata = _fetch(pretrained_model_name_or_path_or_dict, options)
        alphas = options.pop("network_alphas", None) or {}
        state = self._own_names(state)
        if not state:
            raise ValueError("there are no adapters of a network among these weights")
        state = convert_unet_state_dict_to_peft(state)
        layers = {key.split(".lora_")[0] for key in state}
        _check_layers(layers, _plain_names(self))
        _check_in_use(layers, self)
        if metadata:
            metadata = self._own_settings(metadata, layers)
        alphas = {f"own.{key}": value for key, value in self._own_names(alphas).items()}
        # diffusers takes the hooks of offloading off all networks first, and renews them last.
        components = getattr(options.get("_pipeline"), "components", {})
        others = [each for each in components.values() if isinstance(each, nn.Module)]
        with rolled_back_on_error(self, *others):
            super().load_lora_adapter(
                {f"own.{key}": value for key, value in state.items()},
                prefix="own",
                hotswap=hotswap,
                network_alphas=alphas or None,
                metadata={f"own.{key}": value for key, value in metadata.items()} or None,
                **options,
            )

    def save_lora_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str = "default",
        upcast_before_saving: bool = False,
        safe_serialization: bool = True,
        weight_name: str | None = None,
    ) -> None:
        """Write adapters as safetensors, as in diffusers.

        Args:
            save_directory, adapter_name, upcast_before_saving, weight_name: as in diffusers.
            safe_serialization: True; weights are never pickled.

        Raises:
            ValueError: on safe_serialization=False, or if there is no adapter of this name.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization is False; adapters are stored as safetensors alone: leave it out"
            )
        super().save_lora_adapter(
            save_directory, adapter_name, upcast_before_saving, True, weight_name
        )

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        weights: float | Sequence[float | None] | None = None,
    ) -> None:
        """Use these adapters, each with its weight; the others are off.

        Args:
            adapter_names: one name or several.
            weights: one number for all, or one per name; by default 1.

        Raises:
            ValueError: if a name is unknown, there is not one number per name, or adapters are
                fused.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        values = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(names)
        values = [1.0 if weight is None else weight for weight in values]
        if len(values) != len(names) or not all(isinstance(each, Real) for each in values):
            raise ValueError(
                f"weights is {weights!r}; allowed: one number for all, or one per name"
            )
        loaded = sorted(getattr(self, "peft_config", {}))
        for name in names:
            if name not in loaded:
                raise ValueError(
                    f"adapter {name!r}; allowed: {', '.join(loaded) or 'none is loaded'}"
                )
        self._check_not_fused("set_adapters")
        set_weights_and_activate_adapters(self, names, values)

    def fuse_lora(
        self,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Merge the active adapters into the weights, as in diffusers.

        Args:
            lora_scale: weighs them, in addition to `set_adapters`.
            safe_fusing: refuse adapters that give NaN.
            adapter_names: those to merge; by default all active ones.

        Raises:
            ValueError: if there are no adapters, or some are fused and lora_scale is not 1.
        """
        layers = _adapter_layers(self)
        if not layers:
            raise ValueError("fuse_lora: there are no adapters; load some with load_lora_weights")
        if lora_scale != 1:
            self._check_not_fused("fuse_lora with a lora_scale")
        weights = [(layer, dict(layer.scaling)) for layer in layers]
        super().fuse_lora(lora_scale, safe_fusing, adapter_names)
        self._weights_before_fusing = self._weights_before_fusing or weights

    def unfuse_lora(self) -> None:
        """Take merged adapters out of the weights again, as in diffusers; they have the weights of
        `set_adapters` again, which `lora_scale` leaves changed in diffusers.
        """
        super().unfuse_lora()
        self.restore_adapter_weights()

    def restore_adapter_weights(self) -> None:
        """Give adapters the weights that they had before `fuse_lora`, unless they are deleted."""
        for layer, scaling in self._weights_before_fusing:
            for name in layer.scaling.keys() & scaling.keys():
                layer.scaling[name] = scaling[name]
        self._weights_before_fusing = ()

    def unload_lora(self) -> None:
        """Remove all adapters, as in diffusers; fused ones keep their effect."""
        super().unload_lora()
        self._weights_before_fusing = ()

    def _check_takes_adapters(self) -> None:
        """Raise ValueError if weights are stored in a type of 8 bits, which adapters would get too."""
        for parameter in self.parameters():
            if parameter.is_floating_point() and parameter.element_size() == 1:
                raise ValueError(
                    "adapters cannot be added after enable_layerwise_casting(); add them before it"
                )

    def _check_not_fused(self, purpose: str) -> None:
        """Raise ValueError if adapters are fused: they are taken out by their current weights, so
        other weights would leave a part of them.
        """
        if any(layer.merged for layer in _adapter_layers(self)):
            raise ValueError(f"{purpose}: adapters are fused; call unfuse_lora() first")

    def check_plain(self, purpose: str) -> None:
        """Raise ValueError if layers have adapters or fused projections, whose names no other
        network of this kind has. Layers of fused products that no processor uses are removed first.

        Args:
            purpose: what cannot be done then, for the message.
        """
        remove_fused_layers(self.unet)
        for key in self.state_dict(keep_vars=True):
            if any(part in key for part in ADAPTER_PARTS):
                raise ValueError(
                    f"{purpose}: the network has adapters or fused projections; save adapters with "
                    "save_lora_adapter, then call unload_lora() (after fuse_lora() to keep their "
                    "effect) or unfuse_qkv_projections()"
                )

    def _own_names(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return weights by this network's names, without those of text encoders."""
        temporal = {name for name, _ in self.named_children()} - {"unet"}
        renamed = {}
        left_out = False
        for key, value in weights.items():
            if key.startswith(("text_encoder", "te1.", "te2.")):
                left_out = True
                continue
            name = re.sub(rf"^({re.escape(PREFIX)})+", "", key)
            renamed[name if name.split(".")[0] in temporal else PREFIX + name] = value
        if left_out:
            warnings.warn("adapters of a text encoder are left out; ours take none", stacklevel=3)
        return renamed

    def _own_settings(self, metadata: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
        """Return peft's settings for exactly these layers."""
        settings = {key.removeprefix(PREFIX): value for key, value in metadata.items()}
        settings["target_modules"] = sorted(layers)
        for name in CHOICES:
            settings.pop(name, None)
        for name in ("rank_pattern", "alpha_pattern"):
            patterns = settings.get(name) or {}
            settings[name] = {}
            for layer in settings["target_modules"]:
                # The file's patterns name layers of the image model, or of this network.
                value = _value_of(layer.removeprefix(PREFIX), patterns)
                value = _value_of(layer, patterns) if value is None else value
                if value is not None:
                    settings[name][f"^{re.escape(layer)}"] = value
        return settings


def _value_of(layer: str, patterns: Mapping[str, Any]) -> Any:
    """Return what peft would look up for a layer: the value of the first pattern that matches its
    name or the end of it, after a dot. None if no pattern matches.
    """
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return None


@contextmanager
def reading_adapters(source: Any) -> Iterator[None]:
    """Turn what goes wrong while adapters are read into one sentence.

    Args:
        source: what was asked for: a folder, a file or a hub name; or the tensors, which are not
            read.

    Raises:
        ValueError: names the source and what it should be.
    """
    if not isinstance(source, (str, Path, Mapping)):
        raise ValueError(f"adapters are given as a {type(source).__name__}; expected {ADAPTERS}")
    try:
        yield
    except Exception as error:  # the path, the file's bytes, the hub's answer or the network
        if isinstance(source, Mapping):
            raise
        why = f" ({one_line(error)})"
        if Path(source).is_dir():
            what = f"no adapters can be read from this folder{why}; weight_name chooses the file"
        elif Path(source).exists():
            what = f"no adapters can be read from this file{why}"
        elif is_hub_name(str(source)):
            what = f"neither a folder or a file nor a hub name that can be downloaded{why}"
        else:
            what = "no such folder or file"
        raise ValueError(f"{source}: {what}; expected {ADAPTERS}") from None


def _fetch(source: Any, options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and settings, from safetensors alone; takes its options out of `options`."""
    metadata = options.pop("metadata", None) or {}
    places = {}
    for name in ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision"):
        places[name] = options.pop(name, None)
    places["subfolder"] = options.pop("subfolder", None)
    weight_name = options.pop("weight_name", None)
    options.pop("use_safetensors", None)
    if isinstance(source, Mapping):
        return dict(source), dict(metadata)
    with reading_adapters(source):
        state, stored = _fetch_state_dict(
            str(source), weight_name, True, user_agent={}, allow_pickle=False, **places
        )
    return state, dict(metadata or stored or {})


def _adapter_layers(network: nn.Module) -> list[Any]:
    """Return the layers of peft."""
    modules: list[Any] = list(network.modules())
    return [module for module in modules if hasattr(module, "scale_layer")]


def _adapted(network: nn.Module, adapter_name: str) -> list[str]:
    """Return the names of the layers that have this adapter."""
    names = []
    for name, module in network.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if adapter_name in module._all_available_adapter_names():
            names.append(name)
    return names


def _plain_names(network: nn.Module) -> set[str]:
    return {name.replace(".base_layer", "") for name, _ in network.named_modules()}


def _check_layers(layers: Iterable[str], existing: Iterable[str]) -> None:
    """Raise ValueError on layers that are not known, or take no adapter."""
    existing = set(existing)
    for layer in sorted(layers):
        if layer not in existing:
            raise ValueError(f"adapters of layer {layer!r}, which this network does not have")
        if layer.startswith(WITHOUT_ADAPTERS):
            raise ValueError(f"layer {layer!r} takes no adapter; leave it out of target_modules")


def _check_in_use(layers: Iterable[str], network: nn.Module) -> None:
    """Raise ValueError on layers that a fused product has replaced, where adapters would do
    nothing.
    """
    for layer in layers:
        parent, _, name = layer.rpartition(".")
        attention = network.get_submodule(parent)
        if is_fused(attention) and name in replaced_projections(attention):
            raise ValueError(
                f"adapters of layer {layer!r} would do nothing after fuse_qkv_projections(); call "
                "unfuse_qkv_projections() first"
            )
