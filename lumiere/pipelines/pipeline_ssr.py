"""Spatial super-resolution with MultiDiffusion over time (paper, section 3.2).

The network sees short windows that overlap; at every denoising step their predictions are
reconciled, so that the whole clip is denoised as one, whatever its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from lumiere.data.clips import resize_video
from lumiere.diffusion.denoising import denoise, predict_in_windows
from lumiere.diffusion.memory import BatchSize
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.diffusion.objective import Objective
from lumiere.diffusion.schedulers import hold_known, select_timesteps
from lumiere.models import SpaceTimeUNet
from lumiere.models.ssr_requirements import check_super_resolution
from lumiere.pipelines.argument_checks import (
    check_generator,
    check_network,
    check_range,
    check_whole,
)
from lumiere.pipelines.base import LumiereBasePipeline
from lumiere.pipelines.callbacks import NO_CALLBACK, Callback, StepCallback
from lumiere.pipelines.component_checks import check_is_scheduler, check_scheduler
from lumiere.pipelines.known_pixels import KnownPixels
from lumiere.pipelines.pipeline_output import (
    LumiereUpscalePipelineOutput,
    check_output_type,
    to_output,
)
from lumiere.pipelines.pixels import read_video
from lumiere.pipelines.plans import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NOISE_LEVEL,
    DEFAULT_OVERLAP,
    DEFAULT_SSR_STEPS,
    DEFAULT_WINDOW_WEIGHTS,
    UpscalePlan,
    WindowPlan,
)
from lumiere.pipelines.remote_code import class_name
from lumiere.pipelines.turns import in_turn


class LumiereUpscalePipeline(LumiereBasePipeline):
    """Enlarge videos of any length.

    The network sees <x_t, low> on the channel axis: low is the enlarged video with noise of level
    `noise_level`, and that level is its class label.
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: SpaceTimeUNet,
        scheduler: SchedulerMixin,
        window_size: int = 8,
        prediction_type: str | None = None,
        noise_correlation: float = 0.0,
    ) -> None:
        """
        Args:
            unet: six input channels, three output channels, no text, class_embed_type "timestep".
            scheduler: any diffusers scheduler of the network's prediction type.
            window_size: frames of the windows that the network was trained on.
            prediction_type: the network's prediction type; by default that of the scheduler.
            noise_correlation: between the noise of any two frames, 0 to 1; a value that suits the
                network.

        Raises:
            ValueError: if the network is not for super-resolution, or there is no scheduler.
        """
        super().__init__()
        check_network(unet, "unet")
        check_is_scheduler(scheduler)
        check_super_resolution(unet.unet)
        if unet.config.conditioning_channels:
            raise ValueError(
                f"unet has {unet.config.conditioning_channels} conditioning channels; expected none"
            )
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            window_size=window_size,
            prediction_type=prediction_type or scheduler.config.prediction_type,
            noise_correlation=noise_correlation,
        )

    @classmethod
    def _check_index(cls, folder: Path, index: dict[str, Any]) -> None:
        if "ssr_unet" in index:
            kind = class_name(index)
            raise ValueError(
                f"{folder}: a {kind}; load its super-resolution by "
                f"{kind}.from_pretrained(folder).upscaler()"
            )

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of another's components, as in diffusers.

        From a `LumierePipeline`, it takes the network, the scheduler and the settings of
        super-resolution, as `LumierePipeline.upscaler` does.
        """
        own: dict[str, Any] = {}
        if getattr(pipeline, "ssr_unet", None) is not None:
            own = {"unet": pipeline.ssr_unet, "scheduler": pipeline.ssr_scheduler}
            for name in ("window_size", "prediction_type", "noise_correlation"):
                own[name] = pipeline.config[f"ssr_{name}"]
        return super().from_pipe(pipeline, **{**own, **kwargs})

    @in_turn("scheduler", "unet")
    @torch.no_grad()
    def __call__(
        self,
        video: Any,
        num_inference_steps: int = DEFAULT_SSR_STEPS,
        noise_level: int = DEFAULT_NOISE_LEVEL,
        noise_correlation: float | None = None,
        scale: float | None = None,
        window_size: int | None = None,
        overlap: int = DEFAULT_OVERLAP,
        multidiffusion: bool = True,
        window_weights: str = DEFAULT_WINDOW_WEIGHTS,
        batch_size: int | None = DEFAULT_BATCH_SIZE,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> LumiereUpscalePipelineOutput | tuple[Any]:
        """Enlarge videos.

        Args:
            video: (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (b, t, h, w, 3) or (t, h, w,
                3), or a list of frames of any kind.
            num_inference_steps: denoising steps.
            noise_level: 0 to num_train_timesteps - 1; a higher level lets the network invent more.
            noise_correlation: between the noise of any two frames, 0 to 1. Equal noise keeps still
                parts of a video still. By default the pipeline's own (`pipe.config`).
            scale: enlargement; by default the shorter side becomes the network's sample_size.
            window_size: frames per window; by default the length used in training.
            overlap: frames that neighbouring windows share.
            multidiffusion: False denoises windows that share no frame, each by itself, for
                comparison.
            window_weights: how windows are reconciled where they overlap: "mean", as in the paper,
                or "tapered", which fades from one window into the next.
            batch_size: windows in one forward pass; None for all. If memory runs out, the call
                continues with half as many.
            generator: one for all, or one per video.
            output_type: "pil", "np", "pt", or "latent", which is the pixels as the network computes
                them: (b, 3, t, h, w) from -1 to 1.
            return_dict: False for a plain tuple.
            callback_on_step_end: called as callback(self, step, timestep, {"latents": x_t}). It
                returns the dict, in which it may replace x_t, or None for no change. If it sets
                `pipe._interrupt = True`, the steps end, and the video is the current x_t, including
                its noise.
            callback_on_step_end_tensor_inputs: as in diffusers; `latents` is the only tensor here.

        Raises:
            ValueError: if an input cannot be used; the message says how to fix it.
            torch.OutOfMemoryError: if a single window does not fit into memory.
        """
        check_output_type(output_type)
        check_whole(1, num_inference_steps=num_inference_steps)
        check_generator(generator)
        callback = self._read_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        low = read_video(video)
        generators = video_generators(generator, len(low))
        plan = self.plan(
            num_frames=low.shape[2],
            low_size=low.shape[-2:],
            num_inference_steps=num_inference_steps,
            noise_level=noise_level,
            noise_correlation=noise_correlation,
            scale=scale,
            window_size=window_size,
            overlap=overlap,
            multidiffusion=multidiffusion,
            window_weights=window_weights,
            batch_size=batch_size,
        )
        x_0 = self.upscale(low, plan, generators, callback)
        self.maybe_free_model_hooks()
        frames = to_output(x_0, output_type)
        return LumiereUpscalePipelineOutput(frames=frames) if return_dict else (frames,)

    def plan(
        self,
        num_frames: int,
        low_size: Sequence[int],
        *,
        num_inference_steps: int,
        noise_level: int,
        noise_correlation: float | None,
        window_size: int | None,
        overlap: int,
        multidiffusion: bool,
        window_weights: str,
        batch_size: int | None,
        scale: float | None = None,
    ) -> UpscalePlan:
        """Plan the enlargement of a clip, so that wrong settings raise before any network runs.

        Args:
            num_frames: frames of the clip.
            low_size: height and width of the clip.
            num_inference_steps, noise_level, noise_correlation, window_size, overlap,
                multidiffusion, window_weights, batch_size, scale: as in a call, which holds their
                defaults.

        Raises:
            ValueError: if a setting cannot be used.
        """
        check_scheduler(self.scheduler, self.config.prediction_type)
        last_timestep = self.scheduler.config.num_train_timesteps - 1
        check_whole(0, last_timestep, noise_level=noise_level)
        windows = WindowPlan(
            num_frames=num_frames,
            window_size=self.config.window_size if window_size is None else window_size,
            overlap=overlap,
            window_weights=window_weights,
            multidiffusion=multidiffusion,
            batch_size=batch_size,
        )
        size = self.enlarged_size(low_size, scale)
        if noise_correlation is None:
            noise_correlation = self.config.noise_correlation
        return UpscalePlan(size, num_inference_steps, noise_level, noise_correlation, windows)

    @in_turn("scheduler", "unet", within=True)
    @torch.no_grad()
    def upscale(
        self,
        low: Tensor,
        plan: UpscalePlan,
        generators: list[torch.Generator],
        callback: StepCallback = NO_CALLBACK,
        known: KnownPixels | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """Enlarge videos as model tensors.

        Args:
            low: (b, 3, t, h, w) in [-1, 1].
            plan: made by `plan` for the videos' number of frames and size.
            generators: one per video.
            callback: called after each step.
            known: known pixels of the larger size; the estimate of x_0 is held to them at every
                step.
            interrupted: called after each step, in addition to this pipeline's own `_interrupt`.

        Returns:
            (b, 3, t, h, w) in [-1, 1], larger in h and w.
        """
        device, dtype = self._execution_device, self.unet.dtype

        # --- low resolution, enlarged and noised --------------------------------------------------
        shape = (*low.shape[:3], *plan.size)
        levels = torch.full((len(low),), plan.noise_level, device=device)
        draw = partial(draw_noise, shape, generators, device, plan.noise_correlation)
        noised = self._enlarge_and_noise(low, draw(), levels)
        noised = noised.to(dtype)

        # --- noise: one tensor for the whole clip, so that windows share it where they overlap ----
        timesteps = select_timesteps(self.scheduler, plan.num_inference_steps, device)
        self._interrupt, self._num_timesteps = False, len(timesteps)

        def start() -> Tensor:
            return draw().mul_(self.scheduler.init_noise_sigma)

        # --- denoise ------------------------------------------------------------------------------
        windows, weights = plan.windows.windows, plan.windows.weights
        batches = BatchSize(plan.windows.batch_size)
        held = [] if known is None else [known.pixels, known.mask]

        def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
            def network(inputs: Tensor, rows: Tensor) -> Tensor:
                model_input = inputs[:, :6].to(dtype)
                output = self.unet(model_input, timestep, class_labels=levels[rows]).sample
                if not held:
                    return output
                x_t, pixels, mask = inputs[:, :3], inputs[:, 6:9], inputs[:, 9:]
                return hold_known(
                    self.scheduler, self.config.prediction_type, output, x_t, timestep, pixels, mask
                )

            inputs = [scaled_x_t, noised, *held]
            return predict_in_windows(network, inputs, windows, batches, weights)

        def stopped() -> bool:
            return self._interrupt or interrupted()

        with self._titled_bar(len(timesteps), "super-resolution") as progress:
            on_step = self._on_step(progress, callback)
            x_0 = denoise(self.scheduler, predict, start, timesteps, generators, on_step, stopped)
        return x_0.clamp_(-1, 1)

    def enlarged_size(self, size: Sequence[int], scale: float | None = None) -> tuple[int, int]:
        """Return the height and width to which a video of `size` is enlarged.

        Raises:
            ValueError: if that size is not larger.
        """
        sample_size = self.unet.unet.config.sample_size
        smallest = sample_size if isinstance(sample_size, int) else min(sample_size)
        if scale is None:
            scale = smallest / min(size)
        check_range(0, scale=scale)
        if scale < 1:
            raise ValueError(
                f"video is {size[1]} x {size[0]} pixels, more than the {smallest} that "
                "super-resolution gives; make it smaller, or go without super-resolution "
                "(upscale=False)"
            )
        return round(size[0] * scale), round(size[1] * scale)

    def _enlarge_and_noise(self, low: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Enlarge the low resolution and noise it to `levels` (b,), in the memory of `noise`.

        Frame by frame, because an enlarged video is large.
        """
        objective, (height, width) = Objective(self.scheduler), noise.shape[-2:]
        for frame in range(noise.shape[2]):
            now = slice(frame, frame + 1)
            enlarged = resize_video(low[:, :, now].to(noise.device).float(), (height, width))
            noise[:, :, now] = objective.add_noise(enlarged, noise[:, :, now], levels)
        return noise
