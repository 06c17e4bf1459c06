"""Every mode of the paper through one call: text, pictures and videos in, videos out (paper, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import lumiere.compat  # noqa: F401  before diffusers

import torch
from diffusers import AutoencoderKL, SchedulerMixin
from torch import Tensor

from lumiere import conditioning
from lumiere.diffusion.sampling import (
    BatchSize,
    TextGuidance,
    check_prediction_type,
    denoise,
    draw_noise,
    hold_known,
    predict_in_windows,
    select_timesteps,
    video_generators,
)
from lumiere.diffusion.windows import temporal_windows
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.base import Callback, check_generator, check_range, check_whole, check_whole_or_none
from lumiere.pipelines.inputs import CONDITIONED_MODES, fit, infer_mode, read_given
from lumiere.pipelines.latents import LatentSpace
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, check_output_type, psnr_of_known, to_output
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.prompts import read_prompts
from lumiere.pipelines.stored import StoredPipeline
from lumiere.pipelines.styles import StyleBook
from lumiere.text import TextEncoder


class LumierePipeline(StoredPipeline):
    """Text to video, image to video, inpainting, outpainting, cinemagraphs and video to video, each of them styled.

    The mode follows from what is given (`infer_mode`) or is named. Modes that are given pixels need a network with
    conditioning channels; that network does text to video as well.
    """

    model_cpu_offload_seq = "unet->vae->ssr_unet"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "vae", "ssr_unet", "ssr_scheduler"]
    _callback_tensor_inputs: ClassVar[list[str]] = [
        "x_t", "prompt_embeds", "negative_prompt_embeds", "conditioning", "known_mask",
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
        ssr_overlap: int = 2,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.0,
        guidance_rescale: float = 0.7,
        image_strength: float = 1.0,
        ssr_steps: int = 8,
        prediction_type: str | None = None,
        ssr_prediction_type: str | None = None,
        vae: AutoencoderKL | None = None,
    ) -> None:
        """
        Args:
            unet: the base network, with 0 or 4 conditioning channels; 5 in latents.
            scheduler: any diffusers scheduler of the T2I's prediction type.
            text_encoder: what the T2I was trained with; without it, a call takes prompt_embeds.
            ssr_unet, ssr_scheduler: super-resolution; both or none.
            num_frames, fps: what `unet` was trained on; the defaults of a call, as all that follow.
            ssr_window_size, ssr_overlap: windows that suit `ssr_unet`.
            num_inference_steps, guidance_scale, guidance_rescale, image_strength, ssr_steps: what suits the networks.
            prediction_type, ssr_prediction_type: the networks'; by default their schedulers'.
            vae: of a T2I that works in latents; super-resolution works in pixels.

        Raises:
            ValueError: on networks that do not fit.
        """
        super().__init__()
        if unet.config.conditioning_channels not in (0, unet.in_channels + 1):
            raise ValueError(
                f"unet has {unet.config.conditioning_channels} conditioning channels; "
                f"expected 0 or {unet.in_channels + 1}"
            )
        if vae is not None and vae.config.latent_channels != unet.in_channels:
            raise ValueError(f"vae has {vae.config.latent_channels} latent channels, unet takes {unet.in_channels}")
        if (ssr_unet is None) != (ssr_scheduler is None):
            raise ValueError("ssr_unet and ssr_scheduler belong together; pass both or none")
        self.register_modules(
            unet=unet, scheduler=scheduler, text_encoder=text_encoder, vae=vae,
            ssr_unet=ssr_unet, ssr_scheduler=ssr_scheduler,
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
            image_strength=image_strength,
            ssr_steps=ssr_steps,
            prediction_type=prediction_type or scheduler.config.prediction_type,
            ssr_prediction_type=ssr_prediction_type,
        )
        self.styles = StyleBook()

    # --- generation ---------------------------------------------------------------------------------------------------

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
        overlap: int = 2,
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
            guide_known: hold the estimate of x_0 to the given pixels at every step, in pixel space; False trusts the
                network's own painting of C.
            keep_known: put the given pixels back exactly at the end, after super-resolution too; `known_psnr` tells how
                far off they were before.
            style, alpha: a style of `pipe.styles` and its weight, 0 to 1; the paper picks 0.5 to 1 by hand.
            num_inference_steps: denoising steps of the base model.
            guidance_scale: 1 switches text guidance off.
            guidance_rescale: 0 to 1.
            num_videos_per_prompt: each with noise of its own.
            height, width: in pixels; by default the T2I's sample_size.
            window_size, overlap: base model in windows, for clips longer than trained; by default in one.
            upscale: run super-resolution where the pipeline has it.
            ssr_steps, noise_level, ssr_window_size, ssr_overlap, ssr_window_weights, multidiffusion: as in
                `LumiereUpscalePipeline`.
            batch_size, ssr_batch_size: clips or windows in one forward pass of either network, each of them twice with
                guidance; None for all. Where memory runs out, it goes on with half as many.
            generator: one for all, or one per video; a video does not depend on the batch that it is in, to
                floating-point tolerance.
            output_type: "pt", "np" or "pil".
            return_dict: False for a plain tuple (frames,).
            callback_on_step_end: called after each step of the base model as callback(self, step, timestep,
                {"x_t": x_t}); of super-resolution, with that pipeline as its first argument. It returns the dict,
                in which tensors may be others, or None for no change.
            callback_on_step_end_tensor_inputs: which tensors the dict holds; super-resolution has x_t alone.
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
        check_range(0, 1, guidance_rescale=guidance_rescale, outpaint_scale=outpaint_scale, strength=strength)
        check_range(0, 1, image_strength=image_strength)
        check_whole(1, num_inference_steps=num_inference_steps, num_videos_per_prompt=num_videos_per_prompt)
        check_whole_or_none(batch_size=batch_size, ssr_batch_size=ssr_batch_size, window_size=window_size)
        check_whole(1, ssr_steps=ssr_steps, ssr_window_size=ssr_window_size)
        check_whole(0, overlap=overlap, ssr_overlap=ssr_overlap)
        check_generator(generator)
        self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        prompts = read_prompts(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds,
            prompt_attention_mask, negative_prompt_attention_mask,
            guided=guidance_scale != 1, has_encoder=self.text_encoder is not None, text_dim=self._text_dim(),
        )  # fmt: skip
        num_videos = len(prompts) * num_videos_per_prompt
        if style is not None:
            self.styles.check(style, alpha)
        mode = infer_mode(mode, image, video, mask, last_image)
        if mode in CONDITIONED_MODES and not self.unet.config.conditioning_channels:
            raise ValueError(f"mode {mode!r} needs a network with conditioning channels; load the conditioned model")
        given = read_given(mode, image, video, mask, outpaint_scale, len(prompts), num_videos_per_prompt, last_image)
        num_frames = self._count_frames(num_frames, given.video)
        windows = temporal_windows(
            num_frames, num_frames if window_size is None else window_size, 0 if window_size is None else overlap
        )
        space = LatentSpace(self.vae)
        size = self._size(height, width, space.factor)
        upscaler = self.upscaler() if upscale and self.ssr_unet is not None else None
        if upscaler is not None:
            upscaler.plan(num_frames, noise_level, ssr_window_size, ssr_overlap, multidiffusion, ssr_window_weights)
            upscaler.enlarged_size(size)
        device, dtype = self._execution_device, self.unet.dtype
        generators = video_generators(generator, num_videos)
        ssr_generators = video_generators(generators, num_videos)  # drawn now: the base model's steps do not matter

        # --- encode prompts: once, one row per video ---------------------------------------------------------------
        (positive, mask_of), (negative, mask_of_negative) = (
            (embeds.to(device, dtype), mask.to(device))
            for embeds, mask in prompts.encode(self.text_encoder, num_videos_per_prompt)
        )
        tensors = {"prompt_embeds": positive, "negative_prompt_embeds": negative}

        # --- C and M: given to both halves of guidance ------------------------------------------------------------
        latent_size = (size[0] // space.factor, size[1] // space.factor)
        shape = (num_videos, self.unet.in_channels, num_frames, *latent_size)
        known = known_mask = None
        if mode in CONDITIONED_MODES:
            known, known_mask = (tensor.to(device) for tensor in given.known(num_frames, size))
        if self.unet.config.conditioning_channels:
            if known is None or known_mask is None:
                c, m = conditioning.text_only(shape)
            else:
                c, m = space.condition(known, known_mask)
            tensors |= {"conditioning": c.to(device, dtype), "known_mask": m.to(device, dtype)}

        # --- noise, or the noised source (SDEdit) --------------------------------------------------------------------
        source, share = None, 1.0
        if given.video is not None and mode == "video_to_video":
            source, share = fit(given.video, size), strength
        elif image_strength < 1:
            source = given.still(num_frames, size)
            share = 1.0 if source is None else image_strength
        timesteps = select_timesteps(self.scheduler, num_inference_steps, device, share)
        x_t = draw_noise(shape, generators, device)
        if source is not None:
            source = space.encode(source.to(device))
            if len(timesteps):
                source = self.scheduler.add_noise(source, x_t, timesteps[:1].expand(num_videos))
            x_t = source
        else:
            x_t = x_t * self.scheduler.init_noise_sigma

        # --- denoise --------------------------------------------------------------------------------------------------
        batches = BatchSize(batch_size)
        guided = guide_known and known is not None and self.vae is None

        def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
            guidance = TextGuidance(
                tensors["prompt_embeds"], mask_of, tensors["negative_prompt_embeds"], mask_of_negative,
                guidance_scale, guidance_rescale,
            )  # fmt: skip

            def network(model_input: Tensor, rows: Tensor) -> Tensor:
                return guidance.predict(self.unet, model_input.to(dtype), timestep, rows)

            conditions = [tensors[name] for name in ("conditioning", "known_mask") if name in tensors]
            output = predict_in_windows(network, [scaled_x_t, *conditions], windows, batches)
            if not guided:
                return output
            c, m = (tensor.float() for tensor in conditions)
            return hold_known(self.scheduler, self.config.prediction_type, output, scaled_x_t, timestep, c, m)

        styled = nullcontext() if style is None else self.styles.applied(self.unet, style, alpha)
        with styled, self.progress_bar(total=len(timesteps)) as progress:
            progress.set_description("base model")
            on_step = self._on_step(progress, callback_on_step_end, callback_on_step_end_tensor_inputs, tensors)
            x_0 = space.decode(denoise(self.scheduler, predict, x_t, timesteps, generators, on_step))
        known_psnr = None
        if known is not None and known_mask is not None:
            known_psnr = psnr_of_known(x_0, known, known_mask)
            if keep_known:
                x_0 = known + (1 - known_mask) * x_0  # C is the clean video times M

        # --- super-resolution -----------------------------------------------------------------------------------------
        base = x_0
        if upscaler is not None:
            x_0 = upscaler.upscale(
                base, ssr_generators, ssr_steps, noise_level, None, ssr_window_size, ssr_overlap, multidiffusion,
                ssr_window_weights, ssr_batch_size, callback_on_step_end, callback_on_step_end_tensor_inputs,
            )  # fmt: skip
            if known is not None:
                large, large_mask = (t.to(device) for t in given.known(num_frames, size, x_0.shape[-1] / size[1]))
                known_psnr = psnr_of_known(x_0, large, large_mask)
                if keep_known:
                    x_0 = large + (1 - large_mask) * x_0

        # --- output ---------------------------------------------------------------------------------------------------
        self.maybe_free_model_hooks()
        frames = to_output(x_0, output_type)
        if not return_dict:
            return (frames,)
        return LumierePipelineOutput(
            frames=frames,
            fps=fps,
            mode=mode,
            base_frames=None if upscaler is None else to_output(base, output_type),
            known=None if known is None else to_output(known),
            known_mask=None if known_mask is None else known_mask.transpose(1, 2),
            known_psnr=known_psnr,
        )

    def upscaler(self) -> LumiereUpscalePipeline:
        """Super-resolution as a pipeline of its own, of the same networks.

        Raises:
            ValueError: when this pipeline has none.
        """
        if self.ssr_unet is None:
            raise ValueError("this pipeline has no super-resolution; load one that was saved with ssr_unet")
        pipe = LumiereUpscalePipeline(
            self.ssr_unet, self.ssr_scheduler, self.config.ssr_window_size, self.config.ssr_prediction_type
        )
        pipe.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipe

    # --- paragraphs of __call__ --------------------------------------------------------------------------------------

    def _or_default(self, name: str, value: Any) -> Any:
        """A setting of the call, or the pipeline's own."""
        return self.config[name] if value is None else value

    def _count_frames(self, num_frames: int | None, video: Tensor | None) -> int:
        """How many frames to make; a video tells it."""
        if num_frames is None:
            return self.config.num_frames if video is None else video.shape[2]
        check_whole(1, num_frames=num_frames)
        if video is not None and num_frames != video.shape[2]:
            raise ValueError(
                f"num_frames is {num_frames}, but video has {video.shape[2]} frames; cut it, or leave num_frames out"
            )
        return num_frames

    def _size(self, height: int | None, width: int | None, factor: int) -> tuple[int, int]:
        """Height and width of the base model's frames in pixels, `factor` of them to a latent."""
        own = self.unet.unet.config.sample_size
        own_height, own_width = (own, own) if isinstance(own, int) else own
        size = (own_height * factor if height is None else height, own_width * factor if width is None else width)
        check_whole(1, height=size[0], width=size[1])
        if size[0] % factor or size[1] % factor:
            raise ValueError(f"height, width are {size[0]}, {size[1]}; allowed: multiples of {factor}")
        return size

    def _text_dim(self) -> int | None:
        """How wide the text states are, if the T2I's config tells."""
        config = self.unet.unet.config
        dim = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
        return dim if isinstance(dim, int) else None
