"""Sampling with any diffusers scheduler: timesteps, steps, and x_0 held to known pixels.

Any diffusers scheduler works if it expects what the network predicts; `check_prediction_type`
refuses the others and says what to use instead.
"""

from __future__ import annotations

import copy
import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

logger = logging.getLogger(__name__)

# These need the history of all earlier steps, so they cannot start in the middle.
FROM_NOISE_ALONE = ("LMSDiscreteScheduler", "PNDMScheduler")
# Settings of schedulers that choose noise levels by themselves.
OWN_SPACINGS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
STEP_ARGUMENTS = ["model_output", "timestep", "sample"]
WORKING = (
    "DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler or UniPCMultistepScheduler"
)


def check_prediction_type(scheduler: SchedulerMixin, expected: str, name: str) -> None:
    """Raise ValueError unless a scheduler expects what the network was trained to predict.

    Args:
        scheduler: a diffusers scheduler.
        expected: the network's prediction type.
        name: the scheduler's name in messages.
    """
    kind, settings = type(scheduler).__name__, _settings(scheduler)
    if "prediction_type" not in settings:
        raise ValueError(
            f"{name} is a {kind}, which has no prediction_type, but the model predicts "
            f"{expected!r}; take a diffusion scheduler, such as {WORKING}"
        )
    if settings["prediction_type"] != expected:
        raise ValueError(
            f"{name} is a {kind} with prediction_type {settings['prediction_type']!r}, but the "
            f"model predicts {expected!r}; make it with {kind}.from_config(config of the scheduler "
            "that was saved)"
        )
    if expected == "epsilon" and settings.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"{name} is a {kind} with zero terminal SNR, where the noise says nothing about the "
            f"video, but the model predicts 'epsilon'; make it with "
            f"{kind}.from_config({name}.config, rescale_betas_zero_snr=False)"
        )
    if "sigma_data" in settings:
        raise ValueError(
            f"{name} is a {kind}, which scales the model's input and output as EDM does, but the "
            f"model was trained without; take another, such as {WORKING}"
        )
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{name} is a {kind}, which has no noise schedule of diffusion (alphas_cumprod); take "
            f"another, such as {WORKING}"
        )
    if list(inspect.signature(scheduler.step).parameters)[:3] != STEP_ARGUMENTS:
        raise ValueError(
            f"{name} is a {kind}, which steps in another way than by model output, timestep and "
            f"sample; take another, such as {WORKING}"
        )
    variance = settings.get("variance_type")
    if variance in ("learned", "learned_range"):
        raise ValueError(
            f"{name} is a {kind} with variance_type {variance!r}, but a learned variance is not "
            f"used; make it with {kind}.from_config({name}.config, variance_type='fixed_small')"
        )


def has_flow_sigmas(scheduler: SchedulerMixin) -> bool:
    """Return whether a scheduler of diffusion mixes video and noise as flow matching does."""
    return bool(_settings(scheduler).get("use_flow_sigmas"))


def has_continuous_timesteps(scheduler: SchedulerMixin) -> bool:
    """Return whether a scheduler numbers noise levels as EDM does; diffusers does so for
    v-prediction alone.
    """
    settings = _settings(scheduler)
    is_continuous = settings.get("timestep_type") == "continuous"
    return is_continuous and settings.get("prediction_type") == "v_prediction"


def _settings(scheduler: SchedulerMixin) -> dict[str, Any]:
    """Return the settings that a scheduler's class has.

    `from_config` keeps those of another class too, which do nothing, such as the prediction type in
    a flow scheduler; and it cannot change them.
    """
    own = inspect.signature(type(scheduler).__init__).parameters
    return {name: value for name, value in scheduler.config.items() if name in own}


def select_timesteps(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    device: torch.device,
    strength: float = 1.0,
    power: float = 1.0,
) -> Tensor:
    """Return the timesteps to visit, from noisy to clean.

    Args:
        scheduler: any diffusers scheduler; its state is reset.
        num_inference_steps: steps from pure noise.
        device: where the timesteps go.
        strength: the noise level to begin with (SDEdit), as a share of the timesteps; it is
            rounded to whole steps, so the result may be empty.
        power: of `power_timesteps`; 1 leaves the spacing to the scheduler. So does a scheduler that
            takes no timesteps, with a warning.

    Raises:
        ValueError: if a value is out of range, or the scheduler cannot step from noise to a video.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; allowed: at least 1")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; allowed: 0 (keep the video) to 1 (ignore it)")
    kind = type(scheduler).__name__
    power = _set_timesteps(scheduler, num_inference_steps, device, power)
    # Ancestral KDPM2 gives non-finite timesteps for some noise schedules; inverse schedulers run
    # from video to noise.
    timesteps = scheduler.timesteps
    if not (timesteps.isfinite().all() and timesteps[0] >= timesteps[-1]):
        raise ValueError(
            f"scheduler is a {kind}, whose timesteps do not lead from noise to a video with this "
            f"noise schedule; take another, such as {WORKING}"
        )
    # Steps that fall together are the last ones, so they do not change how many come first.
    skipped = num_inference_steps - round(num_inference_steps * strength ** (1 / power))
    skipped *= getattr(scheduler, "order", 1)  # second order: every step but one is listed twice
    if skipped and kind in FROM_NOISE_ALONE:
        raise ValueError(
            f"scheduler is a {kind}, which cannot begin in the middle; set strength and "
            f"image_strength to 1, or take another, such as {WORKING}"
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return timesteps[skipped:]


def power_timesteps(num_inference_steps: int, num_train_timesteps: int, power: float) -> list[int]:
    """Return timesteps whose shares of the schedule are (i / n) ** power, from noisy to clean.

    Power 1 gives diffusers' trailing spacing. A higher power visits low noise levels more often,
    which cleans backgrounds, and high ones, where text guidance acts, less often. Timesteps that
    would be visited twice are visited once.

    Raises:
        ValueError: if the power is below 1.
    """
    if not power >= 1:
        raise ValueError(f"power is {power}; allowed: at least 1")
    shares = [(i / num_inference_steps) ** power for i in range(num_inference_steps, 0, -1)]
    timesteps = [max(round(num_train_timesteps * share) - 1, 0) for share in shares]
    return list(dict.fromkeys(timesteps))


def _set_timesteps(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device, power: float
) -> float:
    """Set a scheduler's timesteps, with a spacing of its own if it takes no other.

    Returns:
        The power that acts: 1 for the scheduler's own spacing.
    """
    if power == 1:
        scheduler.set_timesteps(num_inference_steps, device=device)
        return 1.0
    timesteps = power_timesteps(num_inference_steps, scheduler.config.num_train_timesteps, power)
    if not takes_timesteps(scheduler):
        logger.warning(
            "%s takes no timesteps, so its own spacing is used in place of timestep_power %g",
            type(scheduler).__name__,
            power,
        )
        scheduler.set_timesteps(num_inference_steps, device=device)
        return 1.0
    scheduler.set_timesteps(device=device, timesteps=timesteps)
    return power


def takes_timesteps(scheduler: SchedulerMixin) -> bool:
    """Return whether a scheduler can visit any timesteps.

    Those of consistency models visit only some, and other spacings of sigmas exclude timesteps.
    """
    arguments = inspect.signature(scheduler.set_timesteps).parameters
    if "timesteps" not in arguments or "original_inference_steps" in arguments:
        return False
    if has_continuous_timesteps(scheduler):
        return False
    settings = _settings(scheduler)
    return not any(settings.get(name) for name in OWN_SPACINGS)


class Stepper:
    """Steps of any diffusers scheduler, some frames at a time.

    A scheduler's intermediate results take several times the memory of its input, so a large video
    goes through in parts. Every part has a scheduler of its own, which remembers only its frames.
    The parts of a video do not depend on the batch that it is in.
    """

    part_size = 2**20  # numbers of a video

    def __init__(self, scheduler: SchedulerMixin, generators: list[torch.Generator]) -> None:
        """`generators`: one per video, for schedulers that add noise as they go."""
        self.scheduler = scheduler
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self.options = {"generator": generators} if takes_generator else {}
        self.schedulers: list[SchedulerMixin] = []

    def step(self, model_output: Tensor, timestep: Tensor, x_t: Tensor) -> Tensor:
        """Compute the next x_t, float32, in the memory of `model_output` if possible; all (b, c,
        t, h, w).
        """
        parts = self._parts(x_t)
        if len(parts) == 1:
            return self._step(self.scheduler, model_output.float(), timestep, x_t)
        if not self.schedulers:  # after scale_model_input, which some schedulers must see first
            self.schedulers = [self.scheduler, *(copy.deepcopy(self.scheduler) for _ in parts[1:])]
        result = model_output
        if result.dtype != torch.float32:
            result = torch.empty_like(x_t, dtype=torch.float32)
        for scheduler, frames in zip(self.schedulers, parts, strict=True):
            # Copies: some schedulers remember their arguments, and `result` overwrites the memory.
            output_part = model_output[:, :, frames].to(torch.float32, copy=True)
            x_t_part = x_t[:, :, frames].to(torch.float32, copy=True)
            result[:, :, frames] = self._step(scheduler, output_part, timestep, x_t_part)
        return result

    def _step(
        self, scheduler: SchedulerMixin, model_output: Tensor, timestep: Tensor, x_t: Tensor
    ) -> Tensor:
        stepped = scheduler.step(model_output, timestep, x_t, return_dict=False, **self.options)
        return stepped[0]

    def _parts(self, x_t: Tensor) -> list[slice]:
        """Split a video into the frames that go through the scheduler together."""
        num_frames, settings = x_t.shape[2], _settings(self.scheduler)
        length = max(1, self.part_size // x_t[0, :, 0].numel())
        # Thresholding needs a quantile of the whole video. With `noise_sampler_seed`, one seed
        # makes the noise of the whole video.
        if settings.get("thresholding") or "noise_sampler_seed" in settings:
            length = num_frames
        return [slice(start, start + length) for start in range(0, num_frames, length)]


def signal_level(scheduler: SchedulerMixin, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scheduler's current alpha_t and sigma_t, alpha_t^2 + sigma_t^2 = 1, 0-d each.

    Args:
        scheduler: with its timesteps set.
        timestep: the current timestep, 0-d. It may lie between two training timesteps, and the
            scheduler may list it twice.
    """
    if not hasattr(scheduler, "sigmas"):
        alpha_squared = scheduler.alphas_cumprod[int(timestep)].float()
    else:  # these schedulers count in sigma_t / alpha_t
        # Some schedulers step in x_t / alpha_t and scale it for the network, midpoints included, so
        # the factor reveals the level. The others step in x_t, from one of their levels to the
        # next.
        one = torch.ones((), dtype=torch.float32)
        alpha_squared = scheduler.scale_model_input(one, timestep) ** 2
        if alpha_squared == 1:
            index = scheduler.step_index
            if index is None:
                index = scheduler.begin_index or 0
            alpha_squared = 1 / (1 + scheduler.sigmas[index].float() ** 2)
    alpha_squared = alpha_squared.to(timestep.device)
    return alpha_squared.sqrt(), (1 - alpha_squared).sqrt().clamp(min=1e-6)


def hold_known(
    scheduler: SchedulerMixin,
    prediction_type: str,
    model_output: Tensor,
    scaled_x_t: Tensor,
    timestep: Tensor,
    conditioning: Tensor,
    known_mask: Tensor,
) -> Tensor:
    """Change the model output so that its estimate of x_0 equals the known pixels.

    At every step, the known part of x_t then equals the known pixels with the right amount of
    noise, as in training, and the network paints the rest to match.

    Args:
        scheduler: with its timesteps set.
        prediction_type: the network's prediction type.
        model_output: (b, c, t, h, w).
        scaled_x_t: the network's input, same shape.
        timestep: 0-d.
        conditioning: C, (b, c, t, h, w).
        known_mask: M, (b, 1, t, h, w), 1 = known.

    Returns:
        (b, c, t, h, w), float32.
    """
    if prediction_type == "sample":
        held = conditioning
    else:
        alpha, sigma = signal_level(scheduler, timestep)
        if prediction_type == "epsilon":
            held = (scaled_x_t - alpha * conditioning) / sigma
        else:  # v = alpha noise - sigma x_0
            held = (alpha * scaled_x_t - conditioning) / sigma
    return torch.where(known_mask > 0.5, held, model_output.float())
