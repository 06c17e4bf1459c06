"""The training objective, in terms of the text-to-image model's own noise scheduler.

The T2I's weights are frozen, and they fix the noise schedule and the prediction type. So this
module reads both from the T2I's diffusers scheduler. Notation: x_t = alpha_t x_0 + sigma_t noise,
alpha_t^2 + sigma_t^2 = 1, SNR = alpha_t^2 / sigma_t^2.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def make_scheduler() -> DDIMScheduler:
    """Make the scheduler of a T2I trained here: cosine, v-prediction, zero terminal SNR.

    Zero terminal SNR lets sampling start from pure noise; the paper's terminal SNR is "near 0".
    Cosine: Nichol and Dhariwal 2021; v-prediction: Salimans and Ho 2022; zero terminal SNR with
    trailing timesteps: Lin et al. 2023.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
        set_alpha_to_one=True,
    )


def without_variance(model_output: Tensor, num_channels: int) -> Tensor:
    """Drop a learned variance: keep the first `num_channels` channels, which are the prediction.

    A network that learned its variance (Nichol and Dhariwal 2021; DeepFloyd IF) outputs as many
    channels again after them, which interpolate the log-variance of a step. The loss and the
    samplers ignore those.

    Args:
        model_output: (b, c or 2 c, ...).
        num_channels: c, channels of the image.

    Raises:
        ValueError: if the number of channels is neither c nor 2 c.
    """
    if model_output.shape[1] not in (num_channels, 2 * num_channels):
        raise ValueError(
            f"model_output has {model_output.shape[1]} channels; expected {num_channels}, "
            f"or {2 * num_channels} with a learned variance"
        )
    return model_output[:, :num_channels]


class Objective:
    """Noising, target and weight of a diffusion loss."""

    def __init__(self, scheduler: SchedulerMixin, min_snr_gamma: float = 0.0) -> None:
        """
        Args:
            scheduler: a diffusers scheduler.
            min_snr_gamma: 0 for no weighting (Hang et al. 2023).

        Raises:
            ValueError: if the prediction type is not among `PREDICTION_TYPES`.
        """
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type {self.prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}"
            )
        self.num_timesteps: int = scheduler.config.num_train_timesteps
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.float().clone()
        self.min_snr_gamma = min_snr_gamma

    def levels(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t (b, 1, ...), broadcastable to `ndim` axes."""
        alpha_squared = self.alphas_cumprod.to(timesteps.device)[timesteps].view(
            -1, *[1] * (ndim - 1)
        )
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Compute x_t = alpha_t x_0 + sigma_t noise, in x_0's dtype."""
        alpha, sigma = self.levels(timesteps, x_0.ndim)
        return (alpha * x_0 + sigma * noise).to(x_0.dtype)

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the output that the network is trained to predict."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        alpha, sigma = self.levels(timesteps, x_0.ndim)
        return alpha * noise - sigma * x_0

    def pred_x_0(self, model_output: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Estimate x_0 from a network output, in x_t's dtype; the inverse of `target`."""
        model_output = without_variance(model_output, x_t.shape[1])
        if self.prediction_type == "sample":
            return model_output
        alpha, sigma = self.levels(timesteps, x_t.ndim)
        if self.prediction_type == "epsilon":
            return ((x_t - sigma * model_output) / alpha).to(x_t.dtype)
        return (alpha * x_t - sigma * model_output).to(x_t.dtype)

    def weight(self, timesteps: Tensor) -> Tensor:
        """Return the loss weight of each sample (b,): min-SNR, which is min(SNR, gamma) in x_0
        space, or 1.
        """
        if self.min_snr_gamma == 0:
            return torch.ones(len(timesteps), dtype=torch.float32)
        alpha, sigma = self.levels(timesteps, 1)
        snr = (alpha / sigma.clamp(min=1e-6)) ** 2
        clipped = snr.clamp(max=self.min_snr_gamma)
        # The loss in x_0 space is SNR + 1 (v), SNR (epsilon) or 1 (sample) times smaller than in
        # the output's space.
        return {
            "epsilon": clipped / snr.clamp(min=1e-6),
            "sample": clipped,
            "v_prediction": clipped / (snr + 1),
        }[self.prediction_type]

    def losses(self, model_output: Tensor, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Compute the weighted mean squared error of each sample (b,), float32, without a
        learned variance.
        """
        model_output = without_variance(model_output, x_0.shape[1])
        error = (model_output.float() - self.target(x_0, noise, timesteps).float()) ** 2
        return error.flatten(1).mean(1) * self.weight(timesteps).to(error.device)
