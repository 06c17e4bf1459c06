"""Every mode of the paper through one call: text, pictures and videos in, videos out (paper, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from lumiere import conditioning
from lumiere.diffusion.sampling import (
    TextGuidance,
    check_prediction_type,
    denoise,
    draw_noise,
    predict_in_windows,
    select_timesteps,
    video_generators,
)
from lumiere.diffusion.windows import temporal_windows
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.base import Callback, LumiereBasePipeline, check_callables, check_range, check_whole
from lumiere.pipelines.inputs import (
    CONDITIONED_MODES,
    fit,
    infer_mode,
    read_given,
    read_negatives,
    read_prompt,
)
from lumiere.pipelines.pipeline_output import LumierePipelineOutput, check_output_type, to_output
from lumiere.pipelines.pipeline_ssr import LumiereUpscalePipeline
from lumiere.pipelines.styles import FOLDER as STYLES_FOLDER
from lumiere.pipelines.styles import StyleBook
from lumiere.text import TextEncoder, load_text_encoder

TEXT_ENCODER_FOLDER = "text_encoder"


class LumierePipeline(LumiereBasePipeline):
    """Text to video, image to video, inpainting, outpainting, cinemagraphs and video to video, each of them styled.

    The mode follows from what is given (`infer_mode`) or is named. Modes that are given pixels need a network with
    conditioning channels; that network does text to video as well.
    """

    model_cpu_offload_seq = "unet->ssr_unet"
    _optional_components = ["text_encoder", "ssr_unet", "ssr_scheduler"]  # noqa: RUF012  diffusers' own attribute

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
        ssr_steps: int = 8,
        prediction_type: str | None = None,
        ssr_prediction_type: str | None = None,
    ) -> None:
        """
        Args:
            unet: the base network, with 0 or 4 conditioning channels.
            scheduler: any diffusers scheduler of the T2I's prediction type.
            text_encoder: what the T2I was trained with; required to generate.
            ssr_unet, ssr_scheduler: super-resolution; both or none.
            num_frames, fps: what `unet` was trained on; the defaults of a call, as all that follow.
            ssr_window_size, ssr_overlap: windows that suit `ssr_unet`.
            num_inference_steps, guidance_scale, guidance_rescale, ssr_steps: what suits the networks.
            prediction_type, ssr_prediction_type: the networks'; by default their schedulers'.

        Raises:
            ValueError: on networks that do not fit.
        """
        super().__init__()
        if unet.config.conditioning_channels not in (0, unet.in_channels + 1):
            raise ValueError(
                f"unet has {unet.config.conditioning_channels} conditioning channels; "
                f"expected 0 or {unet.in_channels + 1}"
            )
        if (ssr_unet is None) != (ssr_scheduler is None):
            raise ValueError("ssr_unet and ssr_scheduler belong together; pass both or none")
        self.register_modules(
            unet=unet, scheduler=scheduler, text_encoder=text_encoder, ssr_unet=ssr_unet, ssr_scheduler=ssr_scheduler
        )
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
            ssr_steps=ssr_steps,
            prediction_type=prediction_type or scheduler.config.prediction_type,
            ssr_prediction_type=ssr_prediction_type,
        )
        self.styles = StyleBook()

    # --- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in diffusers, with the text encoder's config and the styles in folders of their own."""
        folder, text_encoder = Path(save_directory), self.text_encoder
        # diffusers saves and loads the kinds of component that it knows; a text encoder is none of them.
        self.register_modules(text_encoder=None)
        try:
            super().save_pretrained(folder, **kwargs)
        finally:
            self.register_modules(text_encoder=text_encoder)
        if text_encoder is not None:
            text_encoder.save_pretrained(folder / TEXT_ENCODER_FOLDER)
        self.styles.save(folder / STYLES_FOLDER)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> LumierePipeline:
        """Load what `save_pretrained` wrote; components may be given instead, as in diffusers.

        Raises:
            ValueError: when that is not such a folder.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / cls.config_name).is_file():
            raise ValueError(
                f"{folder}: no {cls.config_name}; expected a folder written by {cls.__name__}.save_pretrained"
            )
        if "text_encoder" not in kwargs and (folder / TEXT_ENCODER_FOLDER).is_dir():
            kwargs["text_encoder"] = load_text_encoder(folder / TEXT_ENCODER_FOLDER)
        pipe = super().from_pretrained(str(folder), **kwargs)
        pipe.styles.load(folder / STYLES_FOLDER)
        return pipe

    def add_style(self, name: str, weights: str | Path | Mapping[str, Tensor], alpha: float = 1.0) -> None:
        """Name a style: a safetensors file, or the state dict, of the T2I fine-tuned on it; or, with `alpha` below 1,
        a finished blend of it, which serves that alpha alone.

        Raises:
            ValueError: on a name that cannot be a file's, or no such file.
        """
        self.styles.add(name, weights, alpha)

    # --- generation ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        fps: int | None = None,
        image: Any = None,
        video: Any = None,
        mask: Any = None,
        mode: str | None = None,
        strength: float = 0.6,
        outpaint_scale: float = 0.75,
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
        multidiffusion: bool = True,
        max_windows_per_batch: int | None = 4,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
    ) -> LumierePipelineOutput | tuple[Any]:
        """Generate videos.

        Settings that are None by default are those that the pipeline was made with (`pipe.config`).

        Args:
            prompt: what to see; several make several videos.
            negative_prompt: what to move away from, one for all or one per prompt; by default the empty sentence.
            num_frames: by default the video's own, if there is one.
            fps: told in the output.
            image: (b, 3, h, w) in [0, 1], an array (h, w, 3), or PIL: the first frame, or the picture to move.
            video: (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (t, h, w, 3), or a list of frames of any kind.
            mask: 1 where to generate, as large as the image or video, still (h, w) or moving (t, h, w).
            mode: a key of `inputs.MODES`; by default what the inputs mean.
            strength: video_to_video: how much of the denoising is done anew, 0 to 1.
            outpaint_scale: outpainting: the share of each side that the video takes.
            keep_known: put the given pixels back exactly at the end.
            style, alpha: a style of `pipe.styles` and its weight, 0 to 1; the paper picks 0.5 to 1 by hand.
            num_inference_steps: denoising steps of the base model.
            guidance_scale: 1 switches text guidance off.
            guidance_rescale: 0 to 1.
            num_videos_per_prompt: each with noise of its own.
            height, width: by default the T2I's sample_size.
            window_size, overlap: base model in windows, for clips longer than trained; by default in one.
            upscale: run super-resolution where the pipeline has it.
            ssr_steps, noise_level, ssr_window_size, ssr_overlap, multidiffusion: as in `LumiereUpscalePipeline`.
            max_windows_per_batch: clips or windows in one forward pass, at both resolutions; None for all.
            generator: one for all, or one per video; a video does not depend on the batch that it is in, to
                floating-point tolerance.
            output_type: "pt", "np" or "pil".
            return_dict: False for a plain tuple (frames,).
            callback_on_step_end: called after each step of the base model as callback(self, step, timestep,
                {"x_t": x_t}); of super-resolution, with that pipeline as its first argument. It returns the dict,
                in which x_t may be another, or None for no change.

        Raises:
            ValueError: on input that cannot be used, naming the argument and the cure.
        """
        # --- check inputs ----------------------------------------------------------------------------------------
        num_inference_steps = self._or_default("num_inference_steps", num_inference_steps)
        guidance_scale = self._or_default("guidance_scale", guidance_scale)
        guidance_rescale = self._or_default("guidance_rescale", guidance_rescale)
        fps = self._or_default("fps", fps)
        ssr_steps = self._or_default("ssr_steps", ssr_steps)
        ssr_window_size = self._or_default("ssr_window_size", ssr_window_size)
        ssr_overlap = self._or_default("ssr_overlap", ssr_overlap)
        check_output_type(output_type)
        check_prediction_type(self.scheduler, self.config.prediction_type, "scheduler")
        check_range(1, guidance_scale=guidance_scale, fps=fps)
        check_range(0, 1, guidance_rescale=guidance_rescale, outpaint_scale=outpaint_scale, strength=strength)
        check_whole(1, num_inference_steps=num_inference_steps, num_videos_per_prompt=num_videos_per_prompt)
        check_whole(1, max_windows_per_batch=1 if max_windows_per_batch is None else max_windows_per_batch)
        check_whole(1, window_size=1 if window_size is None else window_size)
        check_whole(1, ssr_steps=ssr_steps, ssr_window_size=ssr_window_size)
        check_whole(0, overlap=overlap, ssr_overlap=ssr_overlap)
        check_callables(generator, callback_on_step_end)
        prompts = read_prompt(prompt)
        negatives = read_negatives(negative_prompt, len(prompts))
        num_videos = len(prompts) * num_videos_per_prompt
        if style is not None:
            self.styles.check(style, alpha)
        mode = infer_mode(mode, image, video, mask)
        if mode in CONDITIONED_MODES and not self.unet.config.conditioning_channels:
            raise ValueError(f"mode {mode!r} needs a network with conditioning channels; load the conditioned model")
        given = read_given(mode, image, video, mask, outpaint_scale, len(prompts), num_videos_per_prompt)
        num_frames = self._count_frames(num_frames, given.video)
        windows = temporal_windows(
            num_frames, num_frames if window_size is None else window_size, 0 if window_size is None else overlap
        )
        size = self._size(height, width)
        upscaler = self.upscaler() if upscale and self.ssr_unet is not None else None
        if upscaler is not None:
            upscaler.plan(num_frames, noise_level, ssr_window_size, ssr_overlap, multidiffusion, max_windows_per_batch)
            upscaler.enlarged_size(size)
        device, dtype = self._execution_device, self.unet.dtype
        generators = video_generators(generator, num_videos)
        ssr_generators = video_generators(generators, num_videos)  # drawn now: the base model's steps do not matter

        # --- encode prompts: once, one row per video ---------------------------------------------------------------
        embeds, masks = self._encode([*prompts, *negatives], num_videos_per_prompt)
        (positive, negative), (mask_of, mask_of_negative) = embeds.chunk(2), masks.chunk(2)
        guidance = TextGuidance(positive, mask_of, negative, mask_of_negative, guidance_scale, guidance_rescale)

        # --- C and M: given to both halves of guidance ------------------------------------------------------------
        shape = (num_videos, self.unet.in_channels, num_frames, *size)
        known = known_mask = None
        if mode in CONDITIONED_MODES:
            known, known_mask = (tensor.to(device) for tensor in given.known(num_frames, size))
        conditions: list[Tensor] = []
        if self.unet.config.conditioning_channels:
            pair = conditioning.text_only(shape) if known is None or known_mask is None else (known, known_mask)
            conditions = [tensor.to(device, dtype) for tensor in pair]

        # --- noise, or the noised source (SDEdit) --------------------------------------------------------------------
        edited = mode == "video_to_video"
        timesteps = select_timesteps(self.scheduler, num_inference_steps, device, strength if edited else 1.0)
        x_t = draw_noise(shape, generators, device)
        if given.video is not None and edited:
            source = fit(given.video, size).to(device)
            if len(timesteps):
                source = self.scheduler.add_noise(source, x_t, timesteps[:1].expand(num_videos))
            x_t = source
        else:
            x_t = x_t * self.scheduler.init_noise_sigma

        # --- denoise --------------------------------------------------------------------------------------------------
        def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
            def network(model_input: Tensor, rows: Tensor) -> Tensor:
                return guidance.predict(self.unet, model_input, timestep, rows)

            model_input = torch.cat([scaled_x_t.to(dtype), *conditions], dim=1)
            return predict_in_windows(network, model_input, windows, max_windows_per_batch)

        styled = nullcontext() if style is None else self.styles.applied(self.unet, style, alpha)
        with styled, self.progress_bar(total=len(timesteps)) as progress:
            progress.set_description("base model")
            on_step = self._on_step(progress, callback_on_step_end)
            x_0 = denoise(self.scheduler, predict, x_t, timesteps, generators, on_step).clamp(-1, 1)
        if keep_known and known is not None and known_mask is not None:
            x_0 = known + (1 - known_mask) * x_0  # C is the clean video times M

        # --- super-resolution -----------------------------------------------------------------------------------------
        base = x_0
        if upscaler is not None:
            x_0 = upscaler.upscale(
                base, ssr_generators, ssr_steps, noise_level, None, ssr_window_size, ssr_overlap, multidiffusion,
                max_windows_per_batch, callback_on_step_end,
            )  # fmt: skip
            if keep_known and known is not None:
                large, large_mask = (t.to(device) for t in given.known(num_frames, size, x_0.shape[-1] / size[1]))
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

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the base model's frames."""
        own = self.unet.unet.config.sample_size
        own_height, own_width = (own, own) if isinstance(own, int) else own
        size = (own_height if height is None else height, own_width if width is None else width)
        check_whole(1, height=size[0], width=size[1])
        return size

    def _encode(self, sentences: list[str], per_prompt: int) -> tuple[Tensor, Tensor]:
        """Text states and masks of all sentences in one go, each repeated for its videos."""
        if self.text_encoder is None:
            raise ValueError("this pipeline has no text_encoder; set pipe.text_encoder = load_text_encoder(name)")
        embeds, mask = self.text_encoder.encode(sentences)
        embeds = embeds.to(self._execution_device, self.unet.dtype).repeat_interleave(per_prompt, dim=0)
        return embeds, mask.to(self._execution_device).repeat_interleave(per_prompt, dim=0)
