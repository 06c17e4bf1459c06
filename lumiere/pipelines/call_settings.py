"""The settings of one call of `LumierePipeline`, with the pipeline's defaults, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.long_noise import LONG_NOISE, reschedule_noise
from lumiere.diffusion.motion_control import MotionControl
from lumiere.diffusion.noise import draw_noise
from lumiere.diffusion.projection import Projection
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.argument_checks import (
    check_choice,
    check_interval,
    check_range,
    check_whole,
)
from lumiere.pipelines.plans import WindowPlan
from lumiere.pipelines.prompts import TextStates


@dataclass(frozen=True)
class CallSettings:
    """The settings of a call that a pipeline has defaults for.

    Attributes: as the arguments of `LumierePipeline.__call__`.

    Raises:
        ValueError: if a value cannot be used; the message names it.
    """

    num_inference_steps: int
    timestep_power: float
    guidance_scale: float
    guidance_rescale: float
    guidance_interval: Sequence[float]
    guidance_type: str
    guidance_eta: float
    guidance_threshold: float
    guidance_momentum: float
    noise_correlation: float
    motion_scale: float
    motion_interval: Sequence[float]
    temporal_smoothing: float
    smoothing_interval: Sequence[float]
    spatial_smoothing: float
    long_noise: str
    fps: int
    image_strength: float
    ssr_steps: int
    ssr_window_size: int
    ssr_overlap: int
    ssr_noise_correlation: float

    def __post_init__(self) -> None:
        check_range(0, guidance_scale=self.guidance_scale)
        check_range(1, timestep_power=self.timestep_power)
        check_range(1, fps=self.fps)
        check_range(0, 1, guidance_rescale=self.guidance_rescale)
        check_range(0, 1, image_strength=self.image_strength)
        check_interval(0, 1, guidance_interval=self.guidance_interval)
        check_range(0, 1, guidance_eta=self.guidance_eta)
        check_range(0, guidance_threshold=self.guidance_threshold)
        check_range(-1, 0, guidance_momentum=self.guidance_momentum)
        check_choice(LONG_NOISE, long_noise=self.long_noise)
        check_range(0, 1, noise_correlation=self.noise_correlation)
        check_range(0, motion_scale=self.motion_scale)
        check_interval(0, 1, motion_interval=self.motion_interval)
        check_range(0, 1, temporal_smoothing=self.temporal_smoothing)
        check_interval(0, 1, smoothing_interval=self.smoothing_interval)
        check_range(0, spatial_smoothing=self.spatial_smoothing)
        check_whole(1, num_inference_steps=self.num_inference_steps)
        check_whole(1, ssr_steps=self.ssr_steps, ssr_window_size=self.ssr_window_size)
        check_whole(0, ssr_overlap=self.ssr_overlap)
        check_range(0, 1, ssr_noise_correlation=self.ssr_noise_correlation)

    @classmethod
    def read(cls, defaults: Mapping[str, Any], **given: Any) -> Self:
        """Take the given settings, and the defaults in the place of those that are None.

        Args:
            defaults: with a value for each setting; `pipe.config`.
            given: a value or None for each setting.
        """
        return cls(
            **{name: defaults[name] if value is None else value for name, value in given.items()}
        )

    def text_guidance(
        self,
        positive: TextStates,
        negative: TextStates,
        guide_unet: SpaceTimeUNet | None,
        num_train_timesteps: int,
    ) -> TextGuidance:
        """Make the call's guidance.

        Args:
            positive, negative: a row per video.
            guide_unet: the pipeline's weaker network; only guidance of type "auto" takes it.
            num_train_timesteps: of the scheduler.
        """
        low, high = self.guidance_interval
        return TextGuidance(
            positive.embeds,
            positive.mask,
            negative.embeds,
            negative.mask,
            self.guidance_scale,
            self.guidance_rescale,
            (low * num_train_timesteps, high * num_train_timesteps),
            guide_unet if self.guidance_type == "auto" else None,
            Projection(self.guidance_eta, self.guidance_threshold, self.guidance_momentum),
        )

    def motion_control(self, num_train_timesteps: int) -> MotionControl:
        """Make the call's control of motion, for a scheduler of so many timesteps."""
        low, high = self.motion_interval
        smooth_low, smooth_high = self.smoothing_interval
        return MotionControl(
            self.motion_scale,
            (low * num_train_timesteps, high * num_train_timesteps),
            self.temporal_smoothing,
            (smooth_low * num_train_timesteps, smooth_high * num_train_timesteps),
        )

    def first_noise(
        self,
        shape: tuple[int, ...],
        generators: list[torch.Generator],
        device: torch.device,
        windows: WindowPlan,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Draw the noise that videos start from, (b, c, t, h, w), one generator per video; or copy
        `latents`, which are noise already.
        """
        if latents is not None:
            return latents.to(device, torch.float32, copy=True)
        noise = draw_noise(shape, generators, device, self.noise_correlation)
        if self.long_noise == "rescheduled":
            reschedule_noise(noise, windows.windows, generators)
        return noise
