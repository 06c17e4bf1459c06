"""Every mode of the paper through one call: text, pictures and videos in, videos out (paper, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from lumiere import conditioning
from lumiere.diffusion.denoising import denoise, predict_in_windows
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.latents import LatentSpace
from lumiere.diffusion.memory import BatchSize
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.diffusion.schedulers import check_prediction_type, hold_known, select_timesteps
from lumiere.diffusion.windows import named_weights, temporal_windows
from lumiere.pipelines.base import (
    Callback,
    check_generator,
    check_range,
    check_whole,
    check_whole_or_none,
)
from lumiere.pipelines.components import StoredPipeline
from lumiere.pipelines.inputs import CONDITIONED_MODES, infer_mode, read_given
from lumiere.pipelines.known_pixels import KnownPixels
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, check_output_type, to_output
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.prompts import read_prompts, text_dim


class LumierePipeline(StoredPipeline):
    """Text to video, image to video, inpainting, outpainting, cinemagraphs and video to video, each of them styled.

    The mode follows from what is given (`infer_mode`) or is named. Modes that are given pixels need a network with
    conditioning channels; that network does text to video as well.
    """

    _callback_tensor_inputs: ClassVar[list[str]] = [
        "x_t", "prompt_embeds", "negative_prompt_embeds", "conditioning", "known_mask",
    ]  # fmt: skip

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
        strength: float = 0.6,
        image_strength: float | None = None,
        outpaint_scale: float = 0.75,
        guide_known: bool = True,
        keep_known: bool = False,
        style: str | None = None,
        alpha: float = 0.75,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        window_size: int | None = None,
        overlap: int | None = None,
        window_weights: str = "mean",
        upscale: bool = True,
        ssr_steps: int | None = None,
        noise_level: int = 50,
        ssr_window_size: int | None = None,
        ssr_overlap: int | None = None,
        ssr_window_weights: str = "mean",
        multidiffusion: bool = True,
        batch_size: int | None = 4,
        ssr_batch_size: int | None = 4,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("x_t",),
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
    ) -> LumierePipelineOutput | tuple[Any]:
        """Generate videos.

        Settings that are None by default are those that the pipeline was made with (`pipe.config`).

        Args:
            prompt: what to see; several make several videos.
            negative_prompt: what to move away from, one for all or one per prompt; by default the empty sentence.
            num_frames: by default the video's own, if there is one.
            fps: told in the output.
            image: (b, 3, h, w) in [0, 1], an array (h, w, 3), or PIL: the first frame, or the picture to move.
            last_image: image to video: the last frame, beside the first or in its place.
            video: (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (t, h, w, 3), or a list of frames of any kind.
            mask: 1 where to generate, as large as the image or video, still (h, w) or moving: (t, h, w), or a list.
            mode: a key of `inputs.MODES`; by default what the inputs mean.
            strength: video_to_video: how much of the denoising is done anew, 0 to 1.
            image_strength: the same where a picture is given: below 1 the clip starts from the picture on every frame,
                noised, and not from noise alone.
            outpaint_scale: outpainting: the share of each side that the video takes.
            guide_known: hold the estimate of x_0 to the given pixels at every step, of super-resolution too; False
                trusts the base network's own painting of C. A base model of latents is not held: see `known_psnr`.
            keep_known: put the given pixels back exactly at the end, after super-resolution too; `known_psnr` tells how
                far off they were before.
            style, alpha: a style of `pipe.styles` and its weight, 0 to 1; the paper picks 0.5 to 1 by hand.
            num_inference_steps: denoising steps of the base model.
            guidance_scale: 1 switches text guidance off.
            guidance_rescale: 0 to 1.
            num_videos_per_prompt: each with noise of its own; videos of one prompt follow each other.
            height, width: in pixels; by default the T2I's sample_size.
            window_size, overlap, window_weights: base model in windows, as in `LumiereUpscalePipeline`; by default in
                one up to the length that it was trained on, and beyond in windows of that length; overlap by default 2.
            upscale: run super-resolution where the pipeline has it.
            ssr_steps, noise_level, ssr_window_size, ssr_overlap, ssr_window_weights, multidiffusion: as in
                `LumiereUpscalePipeline`.
            batch_size, ssr_batch_size: clips or windows in one forward pass of either network, each of them twice with
                guidance; None for all. Where memory runs out, it goes on with half as many.
            generator: one for all, whose first video is that seed's alone; or one per video, each of which is its
                seed's alone, in whatever batch it is made, to floating-point tolerance. Of a seed, torch uses 32 bits
                on the CPU.
            output_type: "pt", "np" or "pil".
            return_dict: False for a plain tuple (frames,).
            callback_on_step_end: called after each step of the base model as callback(self, step, timestep,
                {"x_t": x_t}). It returns the dict, in which tensors may be others, or None for no change. Where it
                or anybody else sets `pipe._interrupt = True`, the call ends with the base model's video as it is then.
            callback_on_step_end_tensor_inputs: which tensors the dict holds. With x_t alone, super-resolution calls it
                too, with that pipeline as its first argument.
            prompt_embeds, negative_prompt_embeds: (b, n, d) in place of sentences, with
            prompt_attention_mask, negative_prompt_attention_mask: (b, n), 1 = attend; all by default.

        Raises:
            ValueError: on input that cannot be used, naming the argument and the cure.
            torch.OutOfMemoryError: where one clip or window at a time is too much.
        """
        # --- check inputs ----------------------------------------------------------------------------------------
        num_inference_steps = self._or_default("num_inference_steps", num_inference_steps)
        guidance_scale = self._or_default("guidance_scale", guidance_scale)
        guidance_rescale = self._or_default("guidance_rescale", guidance_rescale)
        fps = self._or_default("fps", fps)
        image_strength = self._or_default("image_strength", image_strength)
        ssr_steps = self._or_default("ssr_steps", ssr_steps)
        ssr_window_size = self._or_default("ssr_window_size", ssr_window_size)
        ssr_overlap = self._or_default("ssr_overlap", ssr_overlap)
        check_output_type(output_type)
        check_prediction_type(self.scheduler, self.config.prediction_type, "scheduler")
        check_range(1, guidance_scale=guidance_scale, fps=fps)
        check_range(
            0,
            1,
            guidance_rescale=guidance_rescale,
            outpaint_scale=outpaint_scale,
            strength=strength,
        )
        check_range(0, 1, image_strength=image_strength)
        check_whole(
            1, num_inference_steps=num_inference_steps, num_videos_per_prompt=num_videos_per_prompt
        )
        check_whole_or_none(
            batch_size=batch_size, ssr_batch_size=ssr_batch_size, window_size=window_size
        )
        check_whole_or_none(height=height, width=width)
        check_whole(1, ssr_steps=ssr_steps, ssr_window_size=ssr_window_size)
        check_whole(0, overlap=0 if overlap is None else overlap, ssr_overlap=ssr_overlap)
        check_generator(generator)
        shown = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        prompts = read_prompts(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds,
            prompt_attention_mask, negative_prompt_attention_mask,
            guided=guidance_scale != 1, has_encoder=self.text_encoder is not None,
            text_dim=text_dim(self.unet.unet.config),
        )  # fmt: skip
        num_videos = len(prompts) * num_videos_per_prompt
        if style is not None:
            self.styles.check(style, alpha)
        mode = infer_mode(mode, image, video, mask, last_image)
        if mode in CONDITIONED_MODES and not self.unet.config.conditioning_channels:
            raise ValueError(
                f"mode {mode!r} needs a network with conditioning channels; load the conditioned model"
            )
        given = read_given(
            mode,
            image,
            video,
            mask,
            outpaint_scale,
            len(prompts),
            num_videos_per_prompt,
            last_image,
        )
        num_frames = given.count_frames(num_frames, self.config.num_frames)
        if window_size is None:
            window_size = self.config.num_frames
            overlap = 0 if num_frames <= window_size else overlap
        if overlap is None:
            overlap = min(2, window_size - 1)
        windows = temporal_windows(num_frames, window_size, overlap)
        weights = named_weights(windows, window_weights)
        space = LatentSpace(self.vae)
        size = space.frame_size(height, width, self.unet.unet.config.sample_size)
        upscaler = self.upscaler() if upscale and self.ssr_unet is not None else None
        if upscaler is not None:
            upscaler.plan(
                num_frames,
                noise_level,
                ssr_window_size,
                ssr_overlap,
                multidiffusion,
                ssr_window_weights,
            )
            upscaler.enlarged_size(size)
        device, dtype = self._execution_device, self.unet.dtype
        generators = video_generators(generator, num_videos)
        ssr_generators = video_generators(
            generators, num_videos
        )  # drawn now: the base model's steps do not matter

        # --- encode prompts: once, one row per video ---------------------------------------------------------------
        (positive, mask_of), (negative, mask_of_negative) = (
            (embeds.to(device, dtype), mask.to(device))
            for embeds, mask in prompts.encode(self.text_encoder, num_videos_per_prompt)
        )
        tensors = {"prompt_embeds": positive, "negative_prompt_embeds": negative}

        # --- C and M: given to both halves of guidance ------------------------------------------------------------
        latent_size = (size[0] // space.factor, size[1] // space.factor)
        shape = (num_videos, self.unet.in_channels, num_frames, *latent_size)
        known = None
        if mode in CONDITIONED_MODES:
            known = KnownPixels(*(tensor.to(device) for tensor in given.known(num_frames, size)))
        if self.unet.config.conditioning_channels:
            c, m = (
                conditioning.text_only(shape)
                if known is None
                else space.condition(known.pixels, known.mask)
            )
            # Copies: a callback may change them in place. In float32, as all but the network.
            tensors |= {
                "conditioning": c.to(device, copy=True),
                "known_mask": m.to(device, copy=True),
            }

        # --- noise, or the noised source (SDEdit) --------------------------------------------------------------------
        source, share = given.start(num_frames, size, strength, image_strength)
        timesteps = select_timesteps(self.scheduler, num_inference_steps, device, share)
        self._interrupt, self._num_timesteps = False, len(timesteps)

        def start() -> Tensor:
            noise = draw_noise(shape, generators, device)
            if source is None:
                return noise.mul_(self.scheduler.init_noise_sigma)
            x_0 = space.encode(source.to(device))
            return (
                self.scheduler.add_noise(x_0, noise, timesteps[:1].expand(num_videos))
                if len(timesteps)
                else x_0
            )

        # --- denoise --------------------------------------------------------------------------------------------------
        batches = BatchSize(batch_size)
        guided = guide_known and known is not None and self.vae is None

        def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
            guidance = TextGuidance(
                tensors["prompt_embeds"], mask_of, tensors["negative_prompt_embeds"], mask_of_negative,
                guidance_scale, guidance_rescale,
            )  # fmt: skip

            def network(model_input: Tensor, rows: Tensor) -> Tensor:
                return guidance.predict(
                    self.unet, model_input.to(dtype), timestep, self.unet.in_channels, rows
                )

            conditions = [
                tensors[name] for name in ("conditioning", "known_mask") if name in tensors
            ]
            output = predict_in_windows(
                network, [scaled_x_t, *conditions], windows, batches, weights
            )
            if not guided:
                return output
            return hold_known(
                self.scheduler,
                self.config.prediction_type,
                output,
                scaled_x_t,
                timestep,
                *conditions,
            )

        styled = nullcontext() if style is None else self.styles.applied(self.unet, style, alpha)
        with styled, self.progress_bar(total=len(timesteps)) as progress:
            progress.set_description("base model")
            on_step = self._on_step(progress, callback_on_step_end, shown, tensors)
            x_0 = space.decode(
                denoise(
                    self.scheduler,
                    predict,
                    start,
                    timesteps,
                    generators,
                    on_step,
                    lambda: self._interrupt,
                )
            )
        known_psnr = None if known is None else known.psnr(x_0)
        if known is not None and keep_known:
            x_0 = known.put_back(x_0)

        # --- super-resolution -----------------------------------------------------------------------------------------
        base = x_0
        if upscaler is not None and not self._interrupt:
            scale = upscaler.enlarged_size(size)[1] / size[1]

            def enlarged() -> KnownPixels | None:
                if known is None:
                    return None
                return KnownPixels(
                    *(tensor.to(device) for tensor in given.known(num_frames, size, scale))
                )

            large = enlarged() if guide_known else None
            sees_all = set(shown) <= set(upscaler._callback_tensor_inputs)
            x_0 = upscaler.upscale(
                base, ssr_generators, ssr_steps, noise_level, None, ssr_window_size, ssr_overlap, multidiffusion,
                ssr_window_weights, ssr_batch_size, callback_on_step_end if sees_all else None, shown,
                known=large, interrupted=lambda: self._interrupt,
            )  # fmt: skip
            self._interrupt = self._interrupt or upscaler.interrupt
            if self._interrupt:
                x_0 = base
            elif known is not None:
                known = large or enlarged()
                assert known is not None
                known_psnr = known.psnr(x_0)
                x_0 = known.put_back(x_0) if keep_known else x_0

        # --- output ---------------------------------------------------------------------------------------------------
        self.maybe_free_model_hooks()
        frames = to_output(x_0, output_type)
        if not return_dict:
            return (frames,)
        return LumierePipelineOutput(
            frames=frames,
            fps=fps,
            mode=mode,
            base_frames=None if x_0 is base else to_output(base, output_type),
            known=None if known is None else to_output(known.pixels),
            known_mask=None if known is None else known.mask.transpose(1, 2),
            known_psnr=known_psnr,
        )

    def upscaler(self) -> LumiereUpscalePipeline:
        """Super-resolution as a pipeline of its own, of the same networks.

        Raises:
            ValueError: when this pipeline has none.
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
        )
        pipe.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipe

    def _or_default(self, name: str, value: Any) -> Any:
        """A setting of the call, or the pipeline's own."""
        return self.config[name] if value is None else value
