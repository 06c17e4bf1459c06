"""Every scheduler that fits the prediction type leads to the same videos, from exactly zero terminal SNR too."""

from __future__ import annotations

import lumiere.compat  # noqa: F401  before diffusers

import diffusers
import pytest
import torch
from torch import Tensor

from lumiere.diffusion.objective import Objective, make_scheduler
from lumiere.diffusion.sampling import check_prediction_type, denoise, draw_noise, select_timesteps
from lumiere.pipelines import LumierePipeline
from tests.pipelines.test_modes import IMAGE, STEPS, VIDEO, seed

SOLVERS = [
    "DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "UniPCMultistepScheduler",
]  # fmt: skip
CPU = torch.device("cpu")


def made_by(name: str, base: object) -> object:
    return getattr(diffusers, name).from_config(base.config)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_solvers_of_one_equation_end_at_one_video(name: str, prediction_type: str) -> None:
    """The network is exact for x_0 ~ N(mean, 0.3^2), whose probability flow leads from noise e to mean + 0.3 e."""
    zero_snr = prediction_type == "v_prediction"
    base = diffusers.DDIMScheduler.from_config(
        make_scheduler().config, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr, clip_sample=False
    )
    objective = Objective(base)
    mean = torch.linspace(-0.5, 0.5, 96).view(1, 3, 2, 4, 4)

    def network(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = objective.levels(timestep.long().view(1), 5)
        x_0 = mean + 0.09 * alpha / (0.09 * alpha**2 + sigma**2) * (scaled_x_t - alpha * mean)
        return objective.target(x_0, (scaled_x_t - alpha * x_0) / sigma, timestep.long().view(1))

    scheduler = made_by(name, base)
    check_prediction_type(scheduler, prediction_type, "scheduler")
    noise = draw_noise(mean.shape, [seed()], CPU)
    timesteps = select_timesteps(scheduler, 50, CPU)
    made = denoise(scheduler, network, noise * scheduler.init_noise_sigma, timesteps, [seed()])
    distance = (made - (mean + 0.3 * noise)).square().mean().sqrt()
    assert distance < 0.06 and (made - mean).std() > 0.2


@pytest.mark.parametrize("name", [*SOLVERS, "EulerAncestralDiscreteScheduler"])
def test_every_mode_of_start_with_every_scheduler(pipe: LumierePipeline, name: str) -> None:
    ours = pipe("a cat", video=VIDEO, strength=0.25, num_inference_steps=8, upscale=False, generator=seed()).frames
    pipe.scheduler, pipe.ssr_scheduler = (made_by(name, each) for each in (pipe.scheduler, pipe.ssr_scheduler))
    for given in ({}, {"image": IMAGE}, {"video": VIDEO, "strength": 0.5}):
        output = pipe("a cat", generator=seed(), **given, **STEPS)
        assert output.frames.isfinite().all() and output.frames.std() > 0.01
        assert torch.equal(output.frames, pipe("a cat", generator=seed(), **given, **STEPS).frames)
    edited = pipe("a cat", video=VIDEO, strength=0.25, num_inference_steps=8, upscale=False, generator=seed()).frames
    assert (edited - VIDEO).square().mean().sqrt() < 0.25 and (edited - ours).square().mean().sqrt() < 0.25


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.DDIMScheduler(prediction_type="epsilon"), "a DDIMScheduler with prediction_type 'epsilon', but"),
        (diffusers.EulerDiscreteScheduler(), "prediction_type 'epsilon', but the model predicts 'v_prediction'"),
        (made_by("FlowMatchEulerDiscreteScheduler", make_scheduler()), "FlowMatch.*has no prediction_type.*take a dif"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_one_clear_error(
    pipe: LumierePipeline, scheduler: object, message: str
) -> None:
    own, pipe.scheduler = pipe.scheduler, scheduler
    with pytest.raises(ValueError, match=message):
        pipe("a cat")
    pipe.scheduler, pipe.ssr_scheduler = own, scheduler
    with pytest.raises(ValueError, match=message):
        pipe("a cat")


def test_noise_prediction_knows_nothing_at_zero_terminal_snr() -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type="epsilon", rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match=r"zero terminal SNR.*DDIMScheduler\.from_config\(scheduler\.config, resc"):
        check_prediction_type(scheduler, "epsilon", "scheduler")
