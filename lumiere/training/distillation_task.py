"""Distils a sampler of many steps with guidance into a network that needs few steps without it.

Multistep consistency distillation (Heek, Hoogeboom and Salimans 2024, arXiv 2403.06807). The
teacher's DDIM trajectory is cut into `num_inference_steps` segments. They end at the timesteps that
DDIM visits in so many trailing steps, so the plain DDIM scheduler can sample the student;
`student_sampler` samples it better. At every point of a segment, the student learns the x_0 with
which one DDIM step reaches the segment's end. Its target comes from one step of the teacher,
followed by the student's own prediction there.

Notation: x_t = alpha_t x_0 + sigma_t noise; t is a point of the trajectory, s the point after one
step of the teacher, and e the end of the segment, t > s >= e. The end of the last segment is -1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin
from torch import Tensor, nn

from lumiere.config import DistilConfig
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.latents import LatentShapes
from lumiere.diffusion.schedulers import check_prediction_type
from lumiere.models import SpaceTimeUNet
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.diffusion_task import Batch, NetworkInput
from lumiere.training.throughput import count_flops


def make_student(teacher: SpaceTimeUNet, trained: str) -> SpaceTimeUNet:
    """Copy a teacher. In the copy, the parameters to train need a gradient.

    Args:
        teacher: a Space-Time U-Net; it does not change.
        trained: "all" for all weights, or "temporal" to keep the image model frozen.
    """
    student = copy.deepcopy(teacher)
    for parameter in student.temporal_parameters():
        parameter.requires_grad_(True)
    for parameter in student.spatial_parameters():
        parameter.requires_grad_(trained == "all")
    return student


def trailing_ddim(scheduler: SchedulerMixin, is_latent: bool) -> DDIMScheduler:
    """Make the sampler of the teacher: DDIM with trailing timesteps, which begin at pure
    noise.

    Args:
        scheduler: has the noise schedule and the prediction type.
        is_latent: never clip x_0, because latents exceed the range of pixels.
    """
    settings: dict[str, Any] = {"timestep_spacing": "trailing"}
    if is_latent:
        settings["clip_sample"] = False
    return DDIMScheduler.from_config(scheduler.config, **settings)


class Trajectory:
    """The timesteps of a DDIM sampler with many steps, cut into segments."""

    def __init__(
        self, scheduler: DDIMScheduler, num_inference_steps: int, teacher_steps: int
    ) -> None:
        """
        Args:
            scheduler: the sampler, as `trailing_ddim` makes it.
            num_inference_steps: the number of segments, which is the number of the student's steps.
            teacher_steps: the number of the teacher's steps.

        Raises:
            ValueError: if the steps do not divide the schedule and each other evenly, because DDIM
                then visits timesteps other than those that its steps lead to.
        """
        total = scheduler.config.num_train_timesteps
        if total % teacher_steps or teacher_steps % num_inference_steps:
            raise ValueError(
                f"teacher_steps is {teacher_steps}; allowed: a multiple of num_inference_steps "
                f"({num_inference_steps}) that divides the schedule's {total} timesteps"
            )
        self.stride, self.segment = total // teacher_steps, total // num_inference_steps
        # The last entry is the level after the last step, so that -1 is its index.
        levels = [scheduler.alphas_cumprod, scheduler.final_alpha_cumprod.reshape(1)]
        self.alphas_cumprod = torch.cat([each.float().cpu() for each in levels])

    def snap(self, timesteps: Tensor) -> Tensor:
        """Move timesteps up to the nearest point of the trajectory."""
        return timesteps - timesteps % self.stride + self.stride - 1

    def following(self, timesteps: Tensor) -> Tensor:
        """Return s, where one step of the teacher leads."""
        return timesteps - self.stride

    def ends(self, timesteps: Tensor) -> Tensor:
        """Return e, where the segments of the timesteps end."""
        return timesteps - timesteps % self.segment - 1

    def levels(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t (b, 1, ...), broadcastable to `ndim` axes."""
        alpha_squared = self.alphas_cumprod.to(timesteps.device)[timesteps]
        alpha_squared = alpha_squared.view(-1, *[1] * (ndim - 1))
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def step(self, x_t: Tensor, pred_x_0: Tensor, timesteps: Tensor, target: Tensor) -> Tensor:
        """Make a DDIM step (Song et al. 2021, eta 0) from `timesteps` to `target`.

        The noise follows from x_t and the clipped x_0, as with `use_clipped_model_output`; otherwise
        two steps could not always be joined.
        """
        alpha_t, sigma_t = self.levels(timesteps, x_t.ndim)
        alpha_s, sigma_s = self.levels(target, x_t.ndim)
        return alpha_s * pred_x_0 + sigma_s * (x_t - alpha_t * pred_x_0) / sigma_t

    def join(self, first: Tensor, second: Tensor, timesteps: Tensor) -> Tensor:
        """Return the x_0 with which one DDIM step replaces two.

        DDIM is linear in x_t / sigma_t: a step adds (alpha_s / sigma_s - alpha_t / sigma_t) pred_x_0
        to it. So the result is a weighted mean, and stays in the range of the two predictions.

        Args:
            first: the prediction of x_0 at t, for the step to s.
            second: the prediction at s, for the step to e. It is ignored where s = e.
            timesteps: t, (b,).
        """
        s, e = self.following(timesteps), self.ends(timesteps)
        alpha_t, sigma_t = self.levels(timesteps, first.ndim)
        alpha_s, sigma_s = self.levels(s, first.ndim)
        alpha_e, sigma_e = self.levels(e, first.ndim)
        # Multiplied by the sigmas, because sigma_e is 0 in the last segment.
        share = (alpha_s * sigma_t - alpha_t * sigma_s) * sigma_e
        whole = (alpha_e * sigma_t - alpha_t * sigma_e) * sigma_s
        is_last = (s == e).view_as(share)
        return torch.where(
            is_last, first, torch.lerp(second, first, share / whole.clamp(min=1e-12))
        )


@dataclass(eq=False, repr=False)
class DistillationTask(ConditionedTask):
    """Trains a student on clips that are noised to points of the teacher's trajectory.

    The loss is the objective's own, such as the error of v for v-prediction, whose weight on the
    error of x_0 is 1 / sigma_t^2. So errors weigh the same in the network's output at all points,
    as they did when the teacher was trained; a plain error of x_0 would train the first segment
    almost alone.

    Attributes:
        teacher: a conditioned Space-Time U-Net; it is not trained. Every process holds all of it.
        settings: the segments, and the guidance of the teacher.
        trajectory: the teacher's steps.
    """

    teacher: SpaceTimeUNet = field(kw_only=True)
    settings: DistilConfig = field(kw_only=True)
    trajectory: Trajectory = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = trailing_ddim(self.scheduler, is_latent=self.vae is not None)
        super().__post_init__()
        check_prediction_type(self.scheduler, self.objective.prediction_type, "the scheduler")
        self.teacher.requires_grad_(False).eval()
        self.trajectory = Trajectory(
            self.scheduler, self.settings.num_inference_steps, self.settings.teacher_steps
        )

    def student_sampler(self) -> DDPMScheduler:
        """Make the sampler that suits the student: with fresh noise at every step, which
        docs/sampling.md compares with DDIM.
        """
        return DDPMScheduler.from_config(self.scheduler.config, variance_type="fixed_small")

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of each example (b,); `network` is the student, perhaps wrapped."""
        inputs = self.noised(batch).inputs
        with torch.no_grad():
            x_0 = self.target(network, inputs)
        # Autocast remembers weights that it has cast, and those of `target` have no gradient.
        torch.clear_autocast_cache()
        alpha, sigma = self.trajectory.levels(inputs.timesteps, x_0.ndim)
        noise = (inputs.sample - alpha * x_0) / sigma
        return self.objective.losses(inputs.call(network), x_0, noise, inputs.timesteps)

    def target(self, student: nn.Module, inputs: NetworkInput) -> Tensor:
        """Return the x_0 to predict (b, c, t, h, w), from a step of the teacher and the student's
        prediction after it.
        """
        timesteps = inputs.timesteps
        teacher_x_0 = self._pred_x_0(self._teacher_output(inputs), inputs)
        following = self.trajectory.following(timesteps)
        x_s = self.trajectory.step(inputs.sample, teacher_x_0, timesteps, following)
        # After the last step there is nothing to predict; `join` ignores that prediction.
        later = replace(inputs, sample=x_s, timesteps=following.clamp(min=0))
        student_x_0 = self._pred_x_0(later.call(student), later)
        return self.trajectory.join(teacher_x_0, student_x_0, timesteps)

    def flops(self, batch: Batch) -> int:
        """Count the operations of a step: the student's training, its prediction after the
        teacher's step, and the teacher's, whose guidance doubles a share of the steps.
        """
        shapes = copy.copy(self)
        shapes.space = LatentShapes(self.space.vae)
        arguments = shapes.noised(batch).inputs.arguments()
        forward = count_flops(self.teacher, *arguments, backward=False)
        points = torch.arange(self.objective.num_timesteps - 1, 0, -self.trajectory.stride)
        guided = self._is_guided(points).float().mean().item()
        return count_flops(self.network, *arguments) + round((2 + guided) * forward)

    def _noise_level(
        self, place: int, total: int, key: tuple[int | str, ...], generator: torch.Generator
    ) -> Batch:
        """Draw a point of the trajectory, stratified as in the base class."""
        level = super()._noise_level(place, total, key, generator)
        return level | {"timesteps": self.trajectory.snap(level["timesteps"])}

    def _pred_x_0(self, model_output: Tensor, inputs: NetworkInput) -> Tensor:
        """Estimate x_0 as the sampler does: clipped if its scheduler clips, and held to the known
        pixels, which a latent model is not.
        """
        pred = self.objective.pred_x_0(model_output, inputs.sample, inputs.timesteps)
        settings = self.scheduler.config
        if settings.thresholding:
            pred = self.scheduler._threshold_sample(pred)
        elif settings.clip_sample:
            pred = pred.clamp(-settings.clip_sample_range, settings.clip_sample_range)
        if self.vae is not None or inputs.conditioning is None:
            return pred
        known, known_mask = inputs.conditioning.split([pred.shape[1], 1], dim=1)
        return torch.where(known_mask > 0.5, known, pred)

    def _teacher_output(self, inputs: NetworkInput) -> Tensor:
        """Predict with the teacher, guided by the text where its sampler guides."""
        if self.teacher.device != inputs.sample.device:
            self.teacher.to(inputs.sample.device)
        output = inputs.call(self.teacher)
        guided = self._is_guided(inputs.timesteps)
        if not guided.any():
            return output
        assert inputs.prompt_embeds is not None and inputs.prompt_mask is not None
        null_embeds, null_mask = self.train_data.null_text
        negative_embeds = null_embeds.to(inputs.prompt_embeds).expand_as(inputs.prompt_embeds)
        negative_mask = null_mask.to(inputs.prompt_mask).expand_as(inputs.prompt_mask)
        unconditional = NetworkInput(
            inputs.model_input[guided],
            inputs.timesteps[guided],
            prompt_embeds=negative_embeds[guided],
            prompt_mask=negative_mask[guided],
        )
        guidance = TextGuidance(
            inputs.prompt_embeds,
            inputs.prompt_mask,
            negative_embeds,
            negative_mask,
            self.settings.guidance_scale,
            self.settings.guidance_rescale,
        )
        num_channels = inputs.sample.shape[1]  # a learned variance comes after them
        negative = unconditional.call(self.teacher)[:, :num_channels].float()
        output = output[:, :num_channels].float().clone()
        output[guided] = guidance.combine(negative, output[guided])
        return output

    def _is_guided(self, timesteps: Tensor) -> Tensor:
        """Return where the teacher's sampler guides, (b,), as `TextGuidance.acts_at` does."""
        low, high = (
            share * self.objective.num_timesteps for share in self.settings.guidance_interval
        )
        is_on = self.settings.guidance_scale != 1
        return (low <= timesteps) & (timesteps <= high) & is_on
