"""Adapters and FreeU of a pipeline's base network, by diffusers' methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from lumiere.models.adapters import reading_adapters


class LumiereAdapters(StableDiffusionLoraLoaderMixin):
    """Loads, weighs and fuses adapters of the base network."""

    _lora_loadable_modules: ClassVar[list[str]] = ["unet"]
    unet: SpaceTimeUNet

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **options: Any,
    ) -> None:
        """Load adapters into the base network, as in diffusers: those of the image model, or of
        temporal layers.

        `set_adapters` weighs several. They act until `unload_lora_weights`.

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a safetensors file, a hub name, or the
                tensors by name.
            adapter_name: a name for `set_adapters`.
            hotswap, options: as in diffusers.

        Raises:
            ValueError: if the source cannot be read, or there are no adapters, or those of a layer
                that the network lacks.
            RuntimeError: if weights have another shape than their layer takes.
        """
        options["use_safetensors"] = True
        source: Any = pretrained_model_name_or_path_or_dict
        with reading_adapters(source):
            state, alphas, metadata = self.lora_state_dict(
                source if isinstance(source, dict) else str(source),
                return_lora_metadata=True,
                **options,
            )
        self.unet.load_lora_adapter(
            state,
            network_alphas=alphas,
            metadata=metadata,
            adapter_name=adapter_name,
            hotswap=hotswap,
            _pipeline=self,
        )

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        unet_lora_layers: dict[str, Any] | None = None,
        text_encoder_lora_layers: dict[str, Any] | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        unet_lora_adapter_metadata: dict[str, Any] | None = None,
        text_encoder_lora_adapter_metadata: dict[str, Any] | None = None,
    ) -> None:
        """Write adapters of the base network, as in diffusers.

        Args:
            save_directory, save_function: as in diffusers.
            is_main_process: False writes nothing, in the other processes of a training.
            weight_name: the file's name, which ends with .safetensors.
            unet_lora_layers: the tensors by name, such as peft's `get_peft_model_state_dict(unet)`.
            unet_lora_adapter_metadata: peft's settings; without them, an alpha other than the rank
                is lost, as in diffusers. `SpaceTimeUNet.save_lora_adapter` writes them itself.
            text_encoder_lora_layers, text_encoder_lora_adapter_metadata: None; our text encoders
                take no adapters.
            safe_serialization: True; weights are never pickled.

        Raises:
            ValueError: on safe_serialization=False, another ending of `weight_name`, adapters of a
                text encoder, or none at all.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization is False; adapters are stored as safetensors alone: leave it out"
            )
        if text_encoder_lora_layers or text_encoder_lora_adapter_metadata:
            raise ValueError(
                "text_encoder_lora_layers are given, but our text encoders take no adapters; leave "
                "them out"
            )
        if weight_name is not None and not str(weight_name).endswith(".safetensors"):
            raise ValueError(
                f"weight_name is {str(weight_name)!r}; allowed: a name of .safetensors"
            )
        if not is_main_process:
            return
        super().save_lora_weights(
            save_directory,
            unet_lora_layers=unet_lora_layers,
            weight_name=weight_name,
            save_function=save_function,
            unet_lora_adapter_metadata=unet_lora_adapter_metadata,
        )

    def fuse_lora(
        self,
        components: Sequence[str] = ("unet",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Merge adapters into the base network, as in diffusers.

        Args:
            components: "unet" is the only one with adapters.
            lora_scale, safe_fusing, adapter_names: as in `SpaceTimeUNet.fuse_lora`.
            options: as in diffusers.

        Raises:
            ValueError: on another component, or if there are no adapters.
        """
        super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names, **options)

    def unfuse_lora(self, components: Sequence[str] = ("unet",), **options: Any) -> None:
        """Take merged adapters out of the base network again, as in diffusers."""
        super().unfuse_lora(list(components), **options)
        self.unet.restore_adapter_weights()

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Switch FreeU on in the base network; the arguments are those of
        `SpaceTimeUNet.enable_freeu`.
        """
        self.unet.enable_freeu(s1, s2, b1, b2)

    def disable_freeu(self) -> None:
        """Switch FreeU off."""
        self.unet.disable_freeu()
