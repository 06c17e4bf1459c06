"""The components of a pipeline: their checks, and the methods that add or replace them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from torch import Tensor

from lumiere.diffusion.guidance import GUIDANCE_TYPES
from lumiere.distilled import DISTILLED_FILE, read_distilled
from lumiere.files import is_file
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_scheduler
from lumiere.modes import CONDITIONED_MODES
from lumiere.pipelines.argument_checks import check_choice, check_network, check_text_encoder
from lumiere.pipelines.component_checks import (
    architecture,
    check_generates,
    check_guide,
    have_equal_image_models,
)
from lumiere.pipelines.passed_text_encoder import text_encoder_of
from lumiere.pipelines.pipeline_adapters import LumiereAdapters
from lumiere.pipelines.pipeline_folders import LumiereFolders, loading_extras
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.plans import (
    DEFAULT_OVERLAP,
    DEFAULT_SSR_STEPS,
    fast_settings,
)
from lumiere.pipelines.styles import StyleBook
from lumiere.pipelines.turns import changes_in_turn
from lumiere.text import TextEncoder


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
class LumiereComponents(LumiereFolders, LumiereAdapters):
    """The networks, settings and styles of `LumierePipeline`, and what replaces them."""

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
        motion_scale: float = 1.0,
        motion_interval: list[float] | tuple[float, float] = (0.35, 0.95),
        temporal_smoothing: float = 0.0,
        smoothing_interval: list[float] | tuple[float, float] = (0.0, 0.3),
        spatial_smoothing: float = 0.0,
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
                ssr_steps, timestep_power, motion_scale, motion_interval, temporal_smoothing,
                smoothing_interval, spatial_smoothing: values that suit the networks.
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
        check_generates(unet, scheduler)
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
            check_guide(unet, guide_unet)
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
            motion_scale=motion_scale,
            motion_interval=list(motion_interval),
            temporal_smoothing=temporal_smoothing,
            smoothing_interval=list(smoothing_interval),
            spatial_smoothing=spatial_smoothing,
        )
        self.styles = StyleBook()

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
        with loading_extras(False):
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

    def add_guide(self, guide_unet: SpaceTimeUNet | None) -> None:
        """Replace `guide_unet`, the weaker network of autoguidance; None removes it.

        The network goes to the device of `unet`, and is offloaded as that is.

        Raises:
            ValueError: if it does not take the inputs of `unet`, or after
                `enable_sequential_cpu_offload`.
        """
        if guide_unet is not None:
            check_guide(self.unet, guide_unet)
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
        if architecture(unet) != architecture(self.unet):
            raise ValueError(
                f"{folder}: its network has other layers than this pipeline's; distil this "
                "pipeline's network"
            )
        scheduler = load_scheduler(folder / "scheduler")
        if not have_equal_image_models(unet, self.unet):
            self.styles = StyleBook()
        self.register_modules(unet=unet.to(self.unet.device), scheduler=scheduler)
        self._renew_offload()
        self.register_to_config(
            num_inference_steps=settings.num_inference_steps,
            timestep_power=settings.timestep_power,
            noise_correlation=settings.noise_correlation,
            prediction_type=scheduler.config.prediction_type,
            **fast_settings(self.config),
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
        check_guide(self.unet, self.guide_unet)
        if has_negative:
            raise ValueError(
                f"guidance_type is {guidance_type!r}, where guide_unet takes the place of the "
                "negative prompt; leave the negative prompt out, or set guidance_type to 'cfg'"
            )

    @property
    def takes_guidance_scale(self) -> bool:
        """Return whether the base network takes the guidance scale as an input, as latent
        consistency models do.
        """
        return self.unet.unet.config.time_cond_proj_dim is not None

    def reads_negative(self, guidance_type: str, guidance_scale: float) -> bool:
        """Return whether a call reads a negative prompt: guidance is on, and "cfg"."""
        return guidance_type == "cfg" and self.is_guided(guidance_scale)

    def is_guided(self, guidance_scale: float) -> bool:
        """Return whether the base network computes two predictions at a guidance scale."""
        return guidance_scale > 1 and not self.takes_guidance_scale

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
