"""The components of a pipeline. They are saved as in diffusers, plus the text encoder and the
styles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor

from lumiere.diffusion.guidance import GUIDANCE_TYPES
from lumiere.distilled import DISTILLED_FILE, read_distilled
from lumiere.files import is_file
from lumiere.hub_folders import find_folder
from lumiere.models import SpaceTimeUNet
from lumiere.models.adapters import reading_adapters
from lumiere.models.text_to_image import load_scheduler
from lumiere.modes import CONDITIONED_MODES
from lumiere.pipelines.argument_checks import check_choice, check_network, check_text_encoder
from lumiere.pipelines.base import LumiereBasePipeline
from lumiere.pipelines.passed_text_encoder import text_encoder_of
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.plans import (
    DEFAULT_OVERLAP,
    DEFAULT_SSR_STEPS,
    FAST_SSR_STEPS,
    FAST_SSR_WINDOW_SIZE,
)
from lumiere.pipelines.prompts import text_dim
from lumiere.pipelines.remote_code import class_name
from lumiere.pipelines.styles import FOLDER as STYLES_FOLDER
from lumiere.pipelines.styles import StyleBook
from lumiere.pipelines.turns import changes_in_turn
from lumiere.text import DiffusersTextEncoder, TextEncoder, load_text_encoder
from lumiere.text_config import CONFIG_NAME

TEXT_ENCODER_FOLDER = "text_encoder"


@changes_in_turn(
    between_steps=[
        "add_style",
        "disable_freeu",
        "disable_lora",
        "enable_freeu",
        "enable_lora",
        "set_adapters",
    ],
    after_calls=[
        "add_guide",
        "delete_adapters",
        "enable_lora_hotswap",
        "enable_model_cpu_offload",
        "fuse_lora",
        "load_distilled",
        "load_lora_weights",
        "set_lora_device",
        "unfuse_lora",
        "unload_lora_weights",
    ],
)
class LumiereComponents(LumiereBasePipeline, StableDiffusionLoraLoaderMixin):
    """The networks, settings and styles of `LumierePipeline`, with saving and loading."""

    _lora_loadable_modules: ClassVar[list[str]] = ["unet"]
    model_cpu_offload_seq = "guide_unet->unet->vae->ssr_unet"
    _optional_components: ClassVar[list[str]] = [
        "text_encoder", "vae", "ssr_unet", "ssr_scheduler", "guide_unet",
    ]  # fmt: skip

    def __init__(
        self,
        unet: SpaceTimeUNet,
        scheduler: SchedulerMixin,
        text_encoder: TextEncoder | None = None,
        ssr_unet: SpaceTimeUNet | None = None,
        ssr_scheduler: SchedulerMixin | None = None,
        num_frames: int = 16,
        fps: int = 16,
        ssr_window_size: int = 8,
        ssr_overlap: int = DEFAULT_OVERLAP,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        guidance_rescale: float = 0.7,
        guidance_interval: list[float] | tuple[float, float] = (0.0, 1.0),
        guidance_type: str = "cfg",
        guidance_eta: float = 1.0,
        guidance_threshold: float = 0.0,
        guidance_momentum: float = 0.0,
        long_noise: str = "independent",
        image_strength: float = 1.0,
        ssr_steps: int = DEFAULT_SSR_STEPS,
        prediction_type: str | None = None,
        ssr_prediction_type: str | None = None,
        noise_correlation: float = 0.0,
        ssr_noise_correlation: float = 0.0,
        timestep_power: float = 1.0,
        vae: AutoencoderKL | None = None,
        guide_unet: SpaceTimeUNet | None = None,
    ) -> None:
        """
        Args:
            unet: the base network, with 0 or 4 conditioning channels; 5 in latents.
            scheduler: any diffusers scheduler of the T2I's prediction type.
            text_encoder: the text encoder that the T2I was trained with; without it, calls need
                prompt_embeds.
            ssr_unet, ssr_scheduler: super-resolution; both or none.
            num_frames, fps: the length and rate of the clips that `unet` was trained on. These
                values and the following ones, down to `ssr_steps`, are the defaults of a call.
            ssr_window_size, ssr_overlap: windows that suit `ssr_unet`.
            num_inference_steps, guidance_scale, guidance_rescale, guidance_interval, guidance_type,
                guidance_eta, guidance_threshold, guidance_momentum, long_noise, image_strength,
                ssr_steps, timestep_power: values that suit the networks.
            prediction_type, ssr_prediction_type: the networks' prediction types; by default those
                of their schedulers.
            noise_correlation, ssr_noise_correlation: between the noise of any two frames, 0 to 1;
                values that suit the networks.
            vae: for a T2I that works in latents; super-resolution works in pixels.
            guide_unet: a weaker network of the same inputs and the same prediction type, for
                autoguidance (guidance_type "auto"): smaller, or trained for fewer steps.

        Raises:
            ValueError: if the networks do not fit together.
        """
        super().__init__()
        for name, network in (("unet", unet), ("ssr_unet", ssr_unet), ("guide_unet", guide_unet)):
            if network is not None or name == "unet":
                check_network(network, name)
        _check_generates(unet, scheduler)
        if text_encoder is not None:
            check_text_encoder(text_encoder)
        if unet.config.conditioning_channels not in (0, unet.in_channels + 1):
            raise ValueError(
                f"unet has {unet.config.conditioning_channels} conditioning channels; "
                f"expected 0 or {unet.in_channels + 1}"
            )
        if vae is not None and vae.config.latent_channels != unet.in_channels:
            raise ValueError(
                f"vae has {vae.config.latent_channels} latent channels, unet takes {unet.in_channels}"
            )
        if (ssr_unet is None) != (ssr_scheduler is None):
            raise ValueError("ssr_unet and ssr_scheduler belong together; pass both or none")
        if guide_unet is not None:
            _check_guide(unet, guide_unet)
        self.register_modules(
            unet=unet, scheduler=scheduler, text_encoder=text_encoder, vae=vae,
            ssr_unet=ssr_unet, ssr_scheduler=ssr_scheduler, guide_unet=guide_unet,
        )  # fmt: skip
        if ssr_scheduler is not None:
            ssr_prediction_type = ssr_prediction_type or ssr_scheduler.config.prediction_type
        self.register_to_config(
            num_frames=num_frames,
            fps=fps,
            ssr_window_size=ssr_window_size,
            ssr_overlap=ssr_overlap,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=list(guidance_interval),
            guidance_type=guidance_type,
            guidance_eta=guidance_eta,
            guidance_threshold=guidance_threshold,
            guidance_momentum=guidance_momentum,
            long_noise=long_noise,
            image_strength=image_strength,
            ssr_steps=ssr_steps,
            prediction_type=prediction_type or scheduler.config.prediction_type,
            ssr_prediction_type=ssr_prediction_type,
            noise_correlation=noise_correlation,
            ssr_noise_correlation=ssr_noise_correlation,
            timestep_power=timestep_power,
        )
        self.styles = StyleBook()

    def _save_parts(self, folder: Path, **options: Any) -> None:
        """Write the folder as diffusers does, with extra folders for the text encoder's config and
        the styles.
        """
        text_encoder = self.text_encoder
        # diffusers saves and loads only the kinds of component that it knows; our text encoder is
        # not among them.
        self.register_modules(text_encoder=None)
        try:
            super()._save_parts(folder, **options)
        finally:
            self.register_modules(text_encoder=text_encoder)
        if text_encoder is None:  # remove an earlier pipeline's
            for name in (CONFIG_NAME, "config.json"):
                (folder / TEXT_ENCODER_FOLDER / name).unlink(missing_ok=True)
        else:
            text_encoder.save_pretrained(folder / TEXT_ENCODER_FOLDER)
        self.styles.save(folder / STYLES_FOLDER)

    @classmethod
    def _check_index(cls, folder: Path, index: dict[str, Any]) -> None:
        _check_own_folder(folder, index, cls)

    @classmethod
    def _load(cls, folder: Path, **kwargs: Any) -> Self:
        if "text_encoder" not in kwargs:
            kwargs["text_encoder"] = _stored_text_encoder(folder)
        text_encoder = kwargs.pop("text_encoder")
        if text_encoder is not None:
            check_text_encoder(text_encoder)
        with _loading_extras(False):
            # diffusers would refuse a text encoder of ours in the place of one of transformers.
            pipe = super()._load(folder, text_encoder=None, **kwargs)
        pipe.register_modules(text_encoder=text_encoder)
        pipe.styles.load(folder / STYLES_FOLDER)
        return pipe

    def register_to_config(self, **kwargs: Any) -> None:
        """Add settings to the config, as in diffusers.

        `DiffusionPipeline.from_pretrained` ends with the name of the folder or of the hub's model
        as a setting. It knows neither our text encoders nor styles, so they are loaded then.
        """
        super().register_to_config(**kwargs)
        source = kwargs.get("_name_or_path")
        if not (_LOADS_EXTRAS.get() and source):
            return
        folder = Path(source) if Path(source).is_dir() else self._hub_folder(str(source))
        if self.text_encoder is None:
            self.register_modules(text_encoder=_stored_text_encoder(folder))
        self.styles.load(folder / STYLES_FOLDER)

    def _hub_folder(self, name: str) -> Path:
        """Return the hub's folder that diffusers loaded the base network from, with the text
        encoder and the styles of the same commit.

        Raises:
            ValueError: if the network is not from there.
        """
        loaded_from = getattr(self.unet, "loaded_from", None)
        snapshot = Path(loaded_from).parent if loaded_from else None
        if snapshot is None or snapshot.parents[1].name != f"models--{name.replace('/', '--')}":
            raise ValueError(
                f"{name}: its text encoder and styles cannot be found, because unet is from "
                f"elsewhere; use {type(self).__name__}.from_pretrained, or pass text_encoder"
            )
        patterns = [f"{TEXT_ENCODER_FOLDER}/*", f"{STYLES_FOLDER}/*"]
        places: dict[str, Any] = {"revision": snapshot.name, "cache_dir": snapshot.parents[2]}
        return find_folder(name, "a saved pipeline", patterns, **places)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of another's components, as in diffusers, and copy its styles.

        Args:
            pipeline: ours; or one of diffusers, such as a StableDiffusionPipeline, whose scheduler,
                VAE, text encoder and tokenizer are taken; or a `LumiereUpscalePipeline`, which
                becomes the super-resolution.
            kwargs: components and settings in place of that pipeline's: `unet`, inflated, for one
                of diffusers; `unet` and `scheduler` for super-resolution.

        Raises:
            ValueError: if a component does not fit; the message says what to pass.
        """
        kwargs = _components_of(pipeline) | kwargs
        check_network(kwargs.get("unet", getattr(pipeline, "unet", None)), "unet")
        if "text_encoder" not in kwargs:
            kwargs["text_encoder"] = text_encoder_of(pipeline)
        with _loading_extras(False):
            pipe = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, LumiereComponents):
            pipe.styles = pipeline.styles.copy()
        return pipe

    def add_style(
        self, name: str, weights: str | Path | Mapping[str, Tensor], alpha: float = 1.0
    ) -> None:
        """Add a style under a name.

        Args:
            name: letters, digits, - and _.
            weights: a safetensors file, or the state dict, of the T2I fine-tuned on the style, or a
                LoRA of it.
            alpha: below 1 for a finished blend, which works only in calls with this alpha.

        Raises:
            ValueError: if the name has other characters, or the file does not exist.
        """
        self.styles.add(name, weights, alpha)

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

    def add_guide(self, guide_unet: SpaceTimeUNet | None) -> None:
        """Replace `guide_unet`, the weaker network of autoguidance; None removes it.

        The network goes to the device of `unet`, and is offloaded as that is.

        Raises:
            ValueError: if it does not take the inputs of `unet`, or after
                `enable_sequential_cpu_offload`.
        """
        if guide_unet is not None:
            _check_guide(self.unet, guide_unet)
            self._check_replaceable("guide_unet")
            guide_unet.to(self.unet.device)
        self.register_modules(guide_unet=guide_unet)
        self._renew_offload()

    def load_distilled(self, folder: str | Path) -> None:
        """Replace the base network by one that was distilled to few steps without guidance.

        Its scheduler takes the place of the pipeline's. Its number of steps and their
        `timestep_power`, its correlation of noise, guidance 1, and a few steps of super-resolution
        in longer windows become the defaults of a call. `save_pretrained` then saves a fast
        pipeline. Styles stay if the network still has the image model that they were made for;
        otherwise the pipeline has none.

        Args:
            folder: as the stage `distil` writes it.

        Raises:
            ValueError: if the folder has no distilled network, or one of another model, or after
                `enable_sequential_cpu_offload`.
        """
        folder = Path(folder)
        self._check_replaceable("unet")
        if not is_file(folder / DISTILLED_FILE):
            raise ValueError(
                f"{folder}: has no distilled network; to train one, set distil.optim.steps in "
                "params.yaml and run `dvc repro distil`"
            )
        settings = read_distilled(folder)
        unet = SpaceTimeUNet.from_pretrained(folder, torch_dtype=self.unet.dtype)
        if _architecture(unet) != _architecture(self.unet):
            raise ValueError(
                f"{folder}: its network has other layers than this pipeline's; distil this "
                "pipeline's network"
            )
        scheduler = load_scheduler(folder / "scheduler")
        if not _have_equal_image_models(unet, self.unet):
            self.styles = StyleBook()
        self.register_modules(unet=unet.to(self.unet.device), scheduler=scheduler)
        self._renew_offload()
        self.register_to_config(
            num_inference_steps=settings.num_inference_steps,
            timestep_power=settings.timestep_power,
            noise_correlation=settings.noise_correlation,
            guidance_scale=1.0,
            ssr_steps=min(self.config.ssr_steps, FAST_SSR_STEPS),
            ssr_window_size=max(self.config.ssr_window_size, FAST_SSR_WINDOW_SIZE),
            prediction_type=scheduler.config.prediction_type,
        )

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep one network at a time on the device, as in diffusers.

        In each guided step, the guide runs before the base network. diffusers' chain only sends the
        guide away for the base network; here it also works the other way round. Without arguments,
        an earlier call's device stays, which diffusers forgets when adapters are loaded.
        """
        if gpu_id is None and device is None:
            device = getattr(self, "_offload_device", None)
        super().enable_model_cpu_offload(gpu_id, device)
        hooks = {hook.model: hook for hook in self._all_hooks}
        if self.guide_unet in hooks and self.unet in hooks:
            hooks[self.guide_unet].hook.prev_module_hook = hooks[self.unet]

    def _check_replaceable(self, name: str) -> None:
        """Raise ValueError if accelerate holds the networks' weights."""
        if self.unet.device.type == "meta":
            raise ValueError(
                f"{name} cannot be replaced after enable_sequential_cpu_offload(); "
                "replace it before that call"
            )

    def _renew_offload(self) -> None:
        """Offload a new network like the others, if `enable_model_cpu_offload` was called."""
        if getattr(self, "_all_hooks", None):
            self.enable_model_cpu_offload(device=self._offload_device)

    def check_mode(self, mode: str) -> None:
        """Raise ValueError if the network cannot do a mode, a key of `lumiere.modes.MODES`."""
        if mode in CONDITIONED_MODES and not self.unet.config.conditioning_channels:
            raise ValueError(
                f"mode {mode!r} needs a network with conditioning channels; "
                "load the conditioned model"
            )

    def check_guidance(self, guidance_type: str, guidance_scale: float, has_negative: bool) -> None:
        """Raise ValueError if this pipeline cannot guide in a way, or would not read what to avoid.

        Args:
            guidance_type: "cfg", or "auto", which needs `guide_unet`.
            guidance_scale: 1 or less switches guidance off.
            has_negative: whether there is something to avoid.
        """
        check_choice(GUIDANCE_TYPES, guidance_type=guidance_type)
        if has_negative and guidance_scale <= 1:
            raise ValueError(
                f"a negative prompt is given, but guidance_scale is {guidance_scale:g}, where it is "
                "not read; leave the negative prompt out, or set guidance_scale above 1"
            )
        if self.takes_guidance_scale and (has_negative or guidance_type != "cfg"):
            raise ValueError(
                "unet takes the guidance scale as an input (time_cond_proj_dim) and is guided in no "
                "other way; leave the negative prompt out, and set guidance_type to 'cfg'"
            )
        if guidance_type == "cfg":
            return
        if self.guide_unet is None:
            raise ValueError(
                f"guidance_type is {guidance_type!r}, but this pipeline has no guide_unet; add one "
                "with add_guide, or set guidance_type to 'cfg'"
            )
        _check_guide(self.unet, self.guide_unet)
        if has_negative:
            raise ValueError(
                f"guidance_type is {guidance_type!r}, where guide_unet takes the place of the "
                "negative prompt; leave the negative prompt out, or set guidance_type to 'cfg'"
            )

    @property
    def takes_guidance_scale(self) -> bool:
        """Whether the base network takes the guidance scale as an input, as latent consistency
        models do.
        """
        return self.unet.unet.config.time_cond_proj_dim is not None

    def reads_negative(self, guidance_type: str, guidance_scale: float) -> bool:
        """Return whether a call reads a negative prompt: guidance is on, and "cfg"."""
        return guidance_scale > 1 and guidance_type == "cfg" and not self.takes_guidance_scale

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Switch FreeU on in the base network; the arguments are those of
        `SpaceTimeUNet.enable_freeu`.
        """
        self.unet.enable_freeu(s1, s2, b1, b2)

    def disable_freeu(self) -> None:
        """Switch FreeU off."""
        self.unet.disable_freeu()

    def upscaler(self) -> LumiereUpscalePipeline:
        """Make a pipeline of its own for super-resolution, with the same networks.

        Raises:
            ValueError: if this pipeline has none.
        """
        if self.ssr_unet is None:
            raise ValueError(
                "this pipeline has no super-resolution; load one that was saved with ssr_unet"
            )
        pipe = LumiereUpscalePipeline(
            self.ssr_unet,
            self.ssr_scheduler,
            self.config.ssr_window_size,
            self.config.ssr_prediction_type,
            self.config.ssr_noise_correlation,
        )
        pipe.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipe


# Whether a pipeline that learns its folder loads text encoder and styles from there.
_LOADS_EXTRAS = ContextVar("_LOADS_EXTRAS", default=True)


@contextmanager
def _loading_extras(wanted: bool) -> Iterator[None]:
    token = _LOADS_EXTRAS.set(wanted)
    try:
        yield
    finally:
        _LOADS_EXTRAS.reset(token)


def _components_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return the components and settings of super-resolution, by their names here; none of another
    pipeline.
    """
    if not isinstance(pipeline, LumiereUpscalePipeline):
        return {}
    # Its own network and scheduler take no other place.
    settings: dict[str, Any] = {"unet": None, "scheduler": None, "prediction_type": None}
    settings |= {"ssr_unet": pipeline.unet, "ssr_scheduler": pipeline.scheduler}
    for name in ("window_size", "prediction_type", "noise_correlation"):
        settings[f"ssr_{name}"] = pipeline.config[name]
    return {**settings, "noise_correlation": 0.0}


def _stored_text_encoder(folder: Path) -> TextEncoder | None:
    """Load the text encoder in a pipeline's folder, ours or that of a pipeline of diffusers; None
    if there is none.
    """
    if (folder / TEXT_ENCODER_FOLDER / CONFIG_NAME).is_file():
        return load_text_encoder(folder / TEXT_ENCODER_FOLDER)
    if (folder / TEXT_ENCODER_FOLDER / "config.json").is_file():
        return DiffusersTextEncoder(str(folder))
    return None


def _check_own_folder(folder: Path, index: dict[str, Any], cls: type[DiffusionPipeline]) -> None:
    """Raise ValueError unless the base network of a pipeline's folder is a Space-Time U-Net for
    generation.
    """
    other = LumiereUpscalePipeline.__name__
    if class_name(index) == other:
        raise ValueError(f"{folder}: a {other}; load it with that class")
    component = index.get("unet")
    if isinstance(component, list) and component[-1] == SpaceTimeUNet.__name__:
        return
    what = component[-1] if isinstance(component, list) else "missing"
    raise ValueError(
        f"{folder}: a {class_name(index)}, whose unet is {what}; inflate its U-Net, and pass "
        "that: unet = SpaceTimeUNet.from_unet2d(UNet2DConditionModel.from_pretrained(folder, "
        f"subfolder='unet')); {cls.__name__}.from_pretrained(folder, unet=unet)"
    )


def _check_generates(unet: SpaceTimeUNet, scheduler: Any) -> None:
    """Raise ValueError unless the network predicts as many channels as it takes, and there is a
    scheduler.
    """
    config = unet.unet.config
    if config.out_channels < config.in_channels:
        raise ValueError(
            f"unet takes {config.in_channels} channels and predicts {config.out_channels}, as networks "
            "of inpainting and of super-resolution do; pass one that predicts all channels that it "
            "takes, and a network of super-resolution as ssr_unet"
        )
    if scheduler is None:
        raise ValueError("scheduler is None; pass a scheduler of unet's prediction type")


def _check_guide(unet: SpaceTimeUNet, guide_unet: SpaceTimeUNet) -> None:
    """Raise ValueError unless the guide takes the inputs of the base network."""
    for name, value, expected in (
        ("channels", guide_unet.in_channels, unet.in_channels),
        (
            "conditioning channels",
            guide_unet.config.conditioning_channels,
            unet.config.conditioning_channels,
        ),
        ("numbers per text token", text_dim(guide_unet.unet.config), text_dim(unet.unet.config)),
    ):
        if value != expected:
            raise ValueError(f"guide_unet takes {value} {name}, unet {expected}; expected the same")


def _architecture(unet: SpaceTimeUNet) -> tuple[Any, ...]:
    """Return what two networks must share to take each other's place."""
    return unet.temporal_settings(), [
        (key, value.shape) for key, value in unet.state_dict().items()
    ]


def _have_equal_image_models(one: SpaceTimeUNet, other: SpaceTimeUNet) -> bool:
    weights = other.unet.state_dict()
    return all(
        torch.equal(value, weights[key].to(value.device))
        for key, value in one.unet.state_dict().items()
    )
