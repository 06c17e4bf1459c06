"""Runs every mode of the paper (sections 3 and 4) in one call, from text, pictures or videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from lumiere import conditioning
from lumiere.diffusion.denoising import Predict, denoise, predict_in_windows
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.latents import LatentSpace
from lumiere.diffusion.memory import BatchSize
from lumiere.diffusion.motion_control import MotionControl
from lumiere.diffusion.noise import video_generators
from lumiere.diffusion.schedulers import (
    hold_known,
    select_timesteps,
    signal_level,
)
from lumiere.modes import (
    CONDITIONED_MODES,
    DEFAULT_ALPHA,
    DEFAULT_OUTPAINT_SCALE,
    DEFAULT_STRENGTH,
    check_settings,
    infer_mode,
)
from lumiere.pipelines.adapter_scale import read_adapter_scale, scaled_adapters
from lumiere.pipelines.argument_checks import (
    check_generator,
    check_latents,
    check_left_out,
    check_network,
    check_range,
    check_unguided,
    check_whole,
    check_whole_or_none,
    read_share,
)
from lumiere.pipelines.call_settings import CallSettings
from lumiere.pipelines.call_warnings import warn_of_skipped_motion
from lumiere.pipelines.callbacks import NO_CALLBACK, Callback, StepCallback
from lumiere.pipelines.component_checks import check_scheduler
from lumiere.pipelines.components import LumiereComponents
from lumiere.pipelines.inputs import SourcePixels, read_source_pixels
from lumiere.pipelines.known_pixels import KnownPixels, known_output, mask_of, measure_known
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, check_output_type, to_output
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.plans import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NOISE_LEVEL,
    DEFAULT_WINDOW_WEIGHTS,
    UpscalePlan,
    WindowPlan,
    plan_base_windows,
)
from lumiere.pipelines.prompts import has_negative_prompt, read_prompts, text_dim
from lumiere.pipelines.speckle import smooth_in_space
from lumiere.pipelines.turns import in_turn


class LumierePipeline(LumiereComponents):
    """Makes videos from text, images or videos, inpaints, outpaints and animates, in any style.

    Name the mode, or leave it to the inputs (`lumiere.modes.infer_mode`). Modes with known pixels
    need a network with conditioning channels; that network does text to video as well.
    """

    _callback_tensor_inputs: ClassVar[list[str]] = [
        "latents", "prompt_embeds", "negative_prompt_embeds", "conditioning", "known_mask",
    ]  # fmt: skip
    _guidance_scale = 1.0
    _can_guide = True

    @in_turn("scheduler", "unet", "guide_unet")
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        fps: int | None = None,
        image: Any = None,
        last_image: Any = None,
        video: Any = None,
        mask: Any = None,
        mode: str | None = None,
        strength: float | None = None,
        image_strength: float | None = None,
        outpaint_scale: float | None = None,
        guide_known: bool = True,
        keep_known: bool = False,
        style: str | None = None,
        alpha: float | None = None,
        num_inference_steps: int | None = None,
        timestep_power: float | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        guidance_type: str | None = None,
        guidance_eta: float | None = None,
        guidance_threshold: float | None = None,
        guidance_momentum: float | None = None,
        noise_correlation: float | None = None,
        motion_scale: float | None = None,
        motion_interval: Sequence[float] | None = None,
        temporal_smoothing: float | None = None,
        smoothing_interval: Sequence[float] | None = None,
        spatial_smoothing: float | None = None,
        num_videos_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        window_size: int | None = None,
        overlap: int | None = None,
        window_weights: str = DEFAULT_WINDOW_WEIGHTS,
        long_noise: str | None = None,
        upscale: bool = True,
        ssr_steps: int | None = None,
        noise_level: int = DEFAULT_NOISE_LEVEL,
        ssr_noise_correlation: float | None = None,
        ssr_window_size: int | None = None,
        ssr_overlap: int | None = None,
        ssr_window_weights: str = DEFAULT_WINDOW_WEIGHTS,
        multidiffusion: bool = True,
        batch_size: int | None = DEFAULT_BATCH_SIZE,
        ssr_batch_size: int | None = DEFAULT_BATCH_SIZE,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        latents: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> LumierePipelineOutput | tuple[Any]:
        """Generate videos.

        Settings whose default is None come from the pipeline (`pipe.config`).

        Args:
            prompt: what to see; several prompts make several videos.
            negative_prompt: what to avoid, one for all prompts or one per prompt; by default the
                empty sentence. Guidance of type "auto" takes none, nor does a scale of 1 or less.
            num_frames: by default as many as the video has, if there is one.
            fps: frames per second of the videos; it is returned with them.
            image: the first frame, or the picture to move: (b, 3, h, w) in [0, 1], an array (h, w,
                3), or PIL.
            last_image: the last frame in image_to_video, with or without the first one.
            video: (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (t, h, w, 3), or a list of
                frames of any kind.
            mask: 1 where to generate, as large as the image or video; (h, w) if it is still, (t, h,
                w) or a list if it moves.
            mode: a key of `lumiere.modes.MODES`; by default it is inferred from the inputs.
            strength: in video_to_video alone, the noise level to begin with, 0 to 1: 0 keeps the
                video, 1 ignores it; by default 0.6.
            image_strength: the same in modes with a picture. Below 1, the clip starts from the
                picture on every frame, noised; at 1 it starts from noise alone.
            outpaint_scale: the share of each side that the video takes in outpainting; by default
                0.75.
            guide_known: hold the estimate of x_0 to the known pixels at every step, also in
                super-resolution. With False, the base network has to reproduce C itself. A base
                model in latents is never held; `known_psnr` says how well it keeps the pixels.
            keep_known: put the known pixels back exactly at the end, also after super-resolution;
                `known_psnr` measures how well they were kept before that.
            style, alpha: a style in `pipe.styles` and its weight, 0 to 1, by default 0.75; the paper
                picks 0.5 to 1 by hand.
            num_inference_steps: denoising steps of the base model.
            timestep_power: at least 1. Above 1, more of the steps are at low noise levels: step i of
                n is at the share (i / n) ** timestep_power of the T2I's training timesteps.
                Schedulers that take no timesteps, such as DDIM, keep their own spacing.
            guidance_scale: 1 or less switches text guidance off, as in diffusers. A network with
                time_cond_proj_dim takes it as an input instead.
            guidance_rescale: how far to rescale guided predictions (Lin et al. 2024), 0 (not) to 1.
            guidance_interval: the lowest and the highest noise level with text guidance, as shares
                of the T2I's training timesteps: 0 is clean, 1 is pure noise. Steps outside the
                interval cost half the work (Kynkäänniemi et al. 2024).
            guidance_type: what to move away from. "cfg" is the negative prompt, as in
                classifier-free guidance. "auto" is the prediction of `pipe.guide_unet` for the same
                prompt, as in autoguidance (Karras et al. 2024, arXiv 2406.02507); a style acts on
                that network too.
            guidance_eta, guidance_threshold, guidance_momentum: adaptive projected guidance (Sadat
                et al. 2024, arXiv 2410.02416), for strong guidance without strong colours. It acts
                on the difference between the two estimates of x_0, clip by clip. `guidance_eta`, 0
                to 1, weighs the part that is parallel to the conditional estimate.
                `guidance_threshold` is the largest root mean square of the difference, where pixels
                are from -1 to 1; 0 sets no limit. `guidance_momentum`, -1 to 0, weighs the
                differences of earlier steps. 1, 0 and 0 are plain guidance.
            noise_correlation, ssr_noise_correlation: between the noise of any two frames, 0 to 1,
                in the base model and in super-resolution (Ge et al. 2023). Equal noise keeps still
                parts of a video still; the base model needs some that differs to make motion. Noise
                that a scheduler adds on the way is never correlated.
            motion_scale, motion_interval: the factor of motion, and the noise levels at which it
                acts, as shares of the T2I's training timesteps. There, the difference of each frame
                of the estimate of x_0 from the mean frame is multiplied; 1 changes nothing.
            temporal_smoothing, smoothing_interval: how far each frame of the estimate of x_0 goes
                to the median of itself and its neighbours in time, 0 (not) to 1, and the noise
                levels at which it does. At low ones it takes out flicker, and some motion.
            spatial_smoothing: grey levels of 255, at least 0. In the base model's video, each pixel
                becomes the mean of itself and of those neighbours that differ by less, weighed by
                how little they differ. It takes out speckle; 0 changes nothing. Held pixels stay as
                they are.
            num_videos_per_prompt: videos per prompt, each with its own noise; the videos of one
                prompt are adjacent.
            height, width: in pixels; by default the T2I's sample_size.
            window_size, overlap, window_weights: windows of the base model, as in
                `LumiereUpscalePipeline`. By default a clip is one window up to the length that the
                model was trained on; longer clips go through in windows of that length that share 2
                frames.
            long_noise: the first noise of a clip of several windows: "independent", or
                "rescheduled", where each window has the noise of the first one in another order of
                frames (FreeNoise, Qiu et al. 2023, arXiv 2310.15169), so that the scene changes
                less from window to window.
            upscale: run super-resolution if the pipeline has it.
            ssr_steps, noise_level, ssr_window_size, ssr_overlap, ssr_window_weights,
                multidiffusion: as in `LumiereUpscalePipeline`.
            batch_size, ssr_batch_size: clips or windows in one forward pass of either network,
                doubled by guidance; None for all. If memory runs out, the call continues with half
                as many.
            generator: one for all videos, or one per video. With one for all, the first video
                equals the one that the seed makes alone; with one per video, every video does, to
                floating-point tolerance. On the CPU, torch uses only 32 bits of a seed.
            output_type: "pil", "np" or "pt"; or "latent", which ends before the VAE, the smoothing
                in space and super-resolution.
            return_dict: False for a plain tuple (frames,).
            callback_on_step_end: called after each step of the base model as callback(self, step,
                timestep, {"latents": x_t}). It returns the dict, in which it may replace tensors,
                or None for no change. If it sets `pipe._interrupt = True`, the call ends with the
                base model's current video; if it sets `pipe._guidance_scale`, the next steps have
                that scale.
            callback_on_step_end_tensor_inputs: the tensors in that dict. With latents alone,
                super-resolution calls the callback too, with that pipeline as the first argument.
            prompt_embeds, negative_prompt_embeds: (b, n, d) in place of sentences, with
            prompt_attention_mask, negative_prompt_attention_mask: (b, n), 1 = attend; by default 0
                for states of zeros, which text encoders write where they pad.
            latents: standard normal noise (b, c, t, h, w) for all videos, in place of the
                generator's; `noise_correlation` and `long_noise` do not change it.
            cross_attention_kwargs: {"scale": 0.5} weighs the LoRA adapters of the base network in
                this call, in addition to `set_adapters`. No other key is allowed.

        Raises:
            ValueError: if an input cannot be used; the message names the argument and how to fix
                it.
            torch.OutOfMemoryError: if a single clip or window does not fit into memory.
        """
        # --- check inputs -------------------------------------------------------------------------
        check_network(self.unet, "unet")
        settings = CallSettings.read(
            self.config,
            num_inference_steps=num_inference_steps,
            timestep_power=timestep_power,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            guidance_type=guidance_type,
            guidance_eta=guidance_eta,
            guidance_threshold=guidance_threshold,
            guidance_momentum=guidance_momentum,
            noise_correlation=noise_correlation,
            motion_scale=motion_scale,
            motion_interval=motion_interval,
            temporal_smoothing=temporal_smoothing,
            smoothing_interval=smoothing_interval,
            spatial_smoothing=spatial_smoothing,
            long_noise=long_noise,
            fps=fps,
            image_strength=image_strength,
            ssr_steps=ssr_steps,
            ssr_window_size=ssr_window_size,
            ssr_overlap=ssr_overlap,
            ssr_noise_correlation=ssr_noise_correlation,
        )
        check_output_type(output_type, keep_known)
        check_scheduler(self.scheduler, self.config.prediction_type)
        check_whole(1, num_videos_per_prompt=num_videos_per_prompt)
        check_whole_or_none(batch_size=batch_size, ssr_batch_size=ssr_batch_size)
        check_whole_or_none(window_size=window_size, height=height, width=width)
        check_generator(generator)
        has_negative = has_negative_prompt(negative_prompt, negative_prompt_embeds)
        self.check_guidance(settings.guidance_type, settings.guidance_scale, has_negative)
        callback = self._read_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        may_be_guided = callback.function is not None or self.is_guided(settings.guidance_scale)
        check_unguided(
            may_be_guided,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            guidance_eta=guidance_eta,
            guidance_threshold=guidance_threshold,
            guidance_momentum=guidance_momentum,
        )
        self._check_no_super_resolution(
            upscale,
            ssr_steps=ssr_steps,
            ssr_window_size=ssr_window_size,
            ssr_overlap=ssr_overlap,
            ssr_noise_correlation=ssr_noise_correlation,
        )
        prompts = read_prompts(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            guided=self.reads_negative(settings.guidance_type, settings.guidance_scale),
            has_encoder=self.text_encoder is not None,
            text_dim=text_dim(self.unet.unet.config),
        )
        adapter_scale = read_adapter_scale(cross_attention_kwargs, self.unet)
        alpha = self._read_alpha(style, alpha)
        mode = infer_mode(mode, image, video, mask, last_image)
        check_settings(
            mode, strength=strength, image_strength=image_strength, outpaint_scale=outpaint_scale
        )
        strength = read_share(DEFAULT_STRENGTH, strength=strength)
        outpaint_scale = read_share(DEFAULT_OUTPAINT_SCALE, outpaint_scale=outpaint_scale)
        self.check_mode(mode)
        pixels = read_source_pixels(
            mode=mode,
            image=image,
            last_image=last_image,
            video=video,
            mask=mask,
            outpaint_scale=outpaint_scale,
            num_prompts=len(prompts),
            videos_per_prompt=num_videos_per_prompt,
        )

        # --- plan: sizes, windows, seeds ----------------------------------------------------------
        num_videos = len(prompts) * num_videos_per_prompt
        num_frames = pixels.count_frames(num_frames, self.config.num_frames)
        windows = plan_base_windows(
            num_frames,
            self.config.num_frames,
            window_size=window_size,
            overlap=overlap,
            window_weights=window_weights,
            batch_size=batch_size,
        )
        space = LatentSpace(self.vae)
        size = space.frame_size(height, width, self.unet.unet.config.sample_size)
        latent_size = (size[0] // space.factor, size[1] // space.factor)
        shape = (num_videos, self.unet.in_channels, num_frames, *latent_size)
        check_latents(latents, shape, noise_correlation=noise_correlation, long_noise=long_noise)
        upscaler = self._upscaler_for(upscale, output_type)
        if upscaler is not None:
            upscale_plan = upscaler.plan(
                num_frames,
                size,
                num_inference_steps=settings.ssr_steps,
                noise_level=noise_level,
                noise_correlation=settings.ssr_noise_correlation,
                window_size=settings.ssr_window_size,
                overlap=settings.ssr_overlap,
                multidiffusion=multidiffusion,
                window_weights=ssr_window_weights,
                batch_size=ssr_batch_size,
            )
        device, dtype = self._execution_device, self.unet.dtype
        generators = video_generators(generator, num_videos)
        # The seeds are drawn now, so that they do not depend on the base model's steps.
        ssr_generators = video_generators(generators, num_videos)

        # --- encode prompts: once, one row per video ----------------------------------------------
        positive, negative = prompts.encode(self.text_encoder, num_videos_per_prompt)
        positive, negative = positive.to(device, dtype), negative.to(device, dtype)
        tensors = {"prompt_embeds": positive.embeds, "negative_prompt_embeds": negative.embeds}

        # --- C and M: both halves of guidance see them --------------------------------------------
        known = self._known_pixels(pixels, num_frames, size)
        tensors |= self._conditions(known, space, shape)

        # --- noise, or the noised source (SDEdit) -------------------------------------------------
        source, share = pixels.starting_video(num_frames, size, strength, settings.image_strength)
        timesteps = select_timesteps(
            self.scheduler, settings.num_inference_steps, device, share, settings.timestep_power
        )
        self._interrupt, self._num_timesteps = False, len(timesteps)
        draw = partial(settings.first_noise, shape, generators, device, windows, latents)
        start = partial(self._first_x_t, source, space, timesteps, draw)

        # --- denoise ------------------------------------------------------------------------------
        self._guidance_scale = settings.guidance_scale
        self._call_attention_kwargs = cross_attention_kwargs
        guidance = settings.text_guidance(
            positive, negative, self.guide_unet, self.scheduler.config.num_train_timesteps
        )
        self._can_guide = guidance.guide is not None or prompts.negative is not None
        held = self._held_pixels(known, guide_known)
        motion = settings.motion_control(self.scheduler.config.num_train_timesteps)
        warn_of_skipped_motion(motion, timesteps)
        predict = self._predictor(
            tensors, guidance, motion, windows, held is not None, adapter_scale
        )
        with (
            self._styled(guidance, style, alpha),
            self._titled_bar(len(timesteps), "base model") as progress,
        ):
            on_step = self._on_step(progress, callback, tensors)
            x_0 = denoise(
                self.scheduler, predict, start, timesteps, generators, on_step, self._is_stopped
            )
        if output_type == "latent":
            self.maybe_free_model_hooks()
            output = LumierePipelineOutput(frames=x_0, fps=settings.fps, mode=mode)
            return output if return_dict else (x_0,)
        x_0 = space.decode(x_0)
        if len(timesteps) and not self._interrupt:  # what no step has made stays as it is
            x_0 = smooth_in_space(x_0, settings.spatial_smoothing, mask_of(held))
        x_0, known_psnr = measure_known(x_0, known, keep_known)

        # --- super-resolution ---------------------------------------------------------------------
        base = x_0
        if upscaler is not None and not self._interrupt:
            scale = upscale_plan.size[1] / size[1]
            draw_known = partial(self._known_pixels, pixels, num_frames, size, scale)
            held = draw_known() if guide_known else None
            x_0 = self._upscale(upscaler, base, upscale_plan, ssr_generators, callback, held)
            if x_0 is not base:
                # Pixels that are not held are drawn only now, because they take memory.
                known = held or draw_known()
                x_0, known_psnr = measure_known(x_0, known, keep_known)

        # --- output -------------------------------------------------------------------------------
        self.maybe_free_model_hooks()
        frames = to_output(x_0, output_type)
        if not return_dict:
            return (frames,)
        return LumierePipelineOutput(
            frames=frames,
            fps=settings.fps,
            mode=mode,
            base_frames=None if x_0 is base else to_output(base, output_type),
            known_psnr=known_psnr,
            **known_output(known),
        )

    # --- as diffusers' pipelines: the text states of a call, and its guidance -------------------------

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode prompts, for calls with `prompt_embeds` and `negative_prompt_embeds`.

        The order of the arguments is that of AnimateDiffPipeline.

        Args:
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds: as in a call.
            device: of the result; by default the pipeline's.
            num_images_per_prompt: videos per prompt; the states of one prompt are adjacent.
            do_classifier_free_guidance: whether to encode what to avoid.
            lora_scale, clip_skip: None; our text encoders have no adapters, and skip no layer.

        Returns:
            Two tensors (b, n, d): what to see, and what to avoid, or None. They are zero where they
            are padded; a call attends to the other states.

        Raises:
            ValueError: as a call.
        """
        check_whole(1, num_images_per_prompt=num_images_per_prompt)
        for name, value in (("lora_scale", lora_scale), ("clip_skip", clip_skip)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value!r}, but our text encoders do not take it; leave it out"
                )
        prompts = read_prompts(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            guided=do_classifier_free_guidance,
            has_encoder=self.text_encoder is not None,
            text_dim=text_dim(self.unet.unet.config),
        )
        positive, negative = prompts.encode(self.text_encoder, num_images_per_prompt)
        device = self._execution_device if device is None else device
        negative_embeds = negative.embeds.to(device) if do_classifier_free_guidance else None
        return positive.embeds.to(device), negative_embeds

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call; a callback may set `_guidance_scale` between steps."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Return whether the network computes two predictions at a step."""
        return self.is_guided(self._guidance_scale)

    # --- parts of a call --------------------------------------------------------------------------

    def _current_scale(self) -> dict[str, Any]:
        """Return the guidance of the next step, which a callback may have changed."""
        check_range(0, guidance_scale=self._guidance_scale)
        if self.do_classifier_free_guidance and not self._can_guide:
            raise ValueError(
                "a callback switched guidance on, but this call has encoded nothing to avoid; pass "
                "negative_prompt_embeds and begin with a guidance_scale above 1"
            )
        if not self.takes_guidance_scale:
            return {"scale": self._guidance_scale}
        width = self.unet.unet.config.time_cond_proj_dim
        # As LatentConsistencyModelPipeline of diffusers embeds it.
        scale = [1000 * (self._guidance_scale - 1)]
        scales = torch.tensor(scale, dtype=torch.float32, device=self._execution_device)
        embedded = get_timestep_embedding(scales, width, downscale_freq_shift=1)
        return {"scale": 1.0, "timestep_cond": embedded.to(self.unet.dtype)}

    def _read_alpha(self, style: str | None, alpha: float | None) -> float:
        """Return the weight of a call's style; raise ValueError if there is none to weigh, or this
        pipeline has no such style.
        """
        if style is None and alpha is not None:
            raise ValueError(f"alpha is {alpha!r}, but no style is named; pass style too")
        alpha = DEFAULT_ALPHA if alpha is None else alpha
        if style is not None:
            self.styles.check(style, alpha)
        return alpha

    def _check_no_super_resolution(self, upscale: bool, **settings: Any) -> None:
        """Raise ValueError if settings of super-resolution are given, and a call has none."""
        if upscale and self.ssr_unet is None:
            check_left_out("this pipeline has no super-resolution", **settings)

    def _is_stopped(self) -> bool:
        return self._interrupt

    def _known_pixels(
        self, pixels: SourcePixels, num_frames: int, size: tuple[int, int], scale: float = 1.0
    ) -> KnownPixels | None:
        """Return the mode's known pixels, at the base size or `scale` times larger; None if
        there are none.
        """
        if pixels.mode not in CONDITIONED_MODES:
            return None
        pixels_at_size, known_mask = pixels.conditions(num_frames, size, scale)
        device = self._execution_device
        return KnownPixels(pixels_at_size.to(device), known_mask.to(device))

    def _conditions(
        self, known: KnownPixels | None, space: LatentSpace, shape: tuple[int, ...]
    ) -> dict[str, Tensor]:
        """Return C and M for the network, by the names that a callback sees; empty for a
        text-only network.
        """
        if not self.unet.config.conditioning_channels:
            return {}
        if known is None:
            c, m = conditioning.text_only(shape)
        else:
            c, m = space.condition(known.pixels, known.mask)
        # These are copies, because a callback may change them in place. They are float32, like
        # everything outside the network.
        device = self._execution_device
        return {
            "conditioning": c.to(device, copy=True),
            "known_mask": m.to(device, copy=True),
        }

    def _held_pixels(self, known: KnownPixels | None, guide_known: bool) -> KnownPixels | None:
        """Return the pixels that the estimate of x_0 is held to; None in latents."""
        return known if guide_known and self.vae is None else None

    def _upscaler_for(self, upscale: bool, output_type: str) -> LumiereUpscalePipeline | None:
        """Make the pipeline of super-resolution if a call enlarges its videos."""
        if not upscale or self.ssr_unet is None or output_type == "latent":
            return None
        check_scheduler(self.ssr_scheduler, self.config.ssr_prediction_type, "ssr_scheduler")
        return self.upscaler()

    def _first_x_t(
        self,
        source: Tensor | None,
        space: LatentSpace,
        timesteps: Tensor,
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """Make the first x_t: noise, or the source video noised to the first timestep."""
        noise = draw()
        if source is None:
            return noise.mul_(self.scheduler.init_noise_sigma)
        x_0 = space.encode(source.to(noise.device))
        if not len(timesteps):
            return x_0
        return self.scheduler.add_noise(x_0, noise, timesteps[:1].expand(len(x_0)))

    def _predictor(
        self,
        tensors: dict[str, Tensor],
        guidance: TextGuidance,
        motion: MotionControl,
        plan: WindowPlan,
        held: bool,
        adapter_scale: float = 1.0,
    ) -> Predict:
        """Make the function by which `denoise` gets the base network's prediction for whole clips.

        Args:
            tensors: the text states and, if the network takes them, C and M; a callback may replace
                them between steps.
            guidance: with the text states' masks, and the guidance's settings.
            motion: how far motion is scaled, and frames are smoothed.
            plan: the windows.
            held: whether to hold the estimate of x_0 to the known pixels.
            adapter_scale: the weight of the network's adapters, beside their own.
        """
        windows, weights, batches = plan.windows, plan.weights, BatchSize(plan.batch_size)

        def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
            current = replace(
                guidance,
                prompt_embeds=tensors["prompt_embeds"],
                negative_embeds=tensors["negative_prompt_embeds"],
                **self._current_scale(),
            )

            # Projected guidance needs whole clips, so windows keep both halves.
            projected = current.is_projected_at(timestep)
            predict_window = current.predict_halves if projected else current.predict

            def network(model_input: Tensor, rows: Tensor) -> Tensor:
                model_input, channels = model_input.to(self.unet.dtype), self.unet.in_channels
                with scaled_adapters(self.unet, adapter_scale):
                    return predict_window(self.unet, model_input, timestep, channels, rows)

            names = [name for name in ("conditioning", "known_mask") if name in tensors]
            conditions = [tensors[name] for name in names]
            inputs = [scaled_x_t, *conditions]
            output = predict_in_windows(network, inputs, windows, batches, weights)
            kind = self.config.prediction_type
            if projected:
                level = signal_level(self.scheduler, timestep)
                output = current.combine_projected(output, scaled_x_t, kind, *level)
            if motion.acts_at(timestep):
                level = signal_level(self.scheduler, timestep)
                output = motion.change(output, scaled_x_t, timestep, kind, *level, windows)
            if not held:
                return output
            return hold_known(self.scheduler, kind, output, scaled_x_t, timestep, *conditions)

        return predict

    @contextmanager
    def _styled(self, guidance: TextGuidance, style: str | None, alpha: float) -> Iterator[None]:
        """Blend a style, if there is one, into the networks while this context is open."""
        with ExitStack() as stack:
            if style is not None:
                stack.enter_context(self.styles.applied(self.unet, style, alpha))
            if style is not None and guidance.guide is not None:
                owner = "guide_unet (guidance_type 'cfg' does without it)"
                stack.enter_context(self.styles.applied(guidance.guide, style, alpha, owner))
            yield

    def _upscale(
        self,
        upscaler: LumiereUpscalePipeline,
        base: Tensor,
        plan: UpscalePlan,
        generators: list[torch.Generator],
        callback: StepCallback,
        held_pixels: KnownPixels | None,
    ) -> Tensor:
        """Enlarge the base model's video (b, 3, t, h, w); returns it as it is if interrupted."""
        if not set(callback.tensor_names) <= set(upscaler._callback_tensor_inputs):
            callback = NO_CALLBACK  # it needs tensors that super-resolution does not have
        enlarged = upscaler.upscale(base, plan, generators, callback, held_pixels, self._is_stopped)
        self._interrupt = self._interrupt or upscaler.interrupt
        return base if self._interrupt else enlarged
