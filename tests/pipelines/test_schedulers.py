"""Every scheduler that fits the prediction type leads to the same videos, from exactly zero terminal SNR too."""

from __future__ import annotations

import inspect
import itertools
from functools import partial
from typing import Any, ClassVar

import diffusers
import pytest
import torch
from torch import Tensor

from lumiere.diffusion.denoising import denoise
from lumiere.diffusion.noise import draw_noise
from lumiere.diffusion.objective import Objective, make_scheduler
from lumiere.diffusion.schedulers import (
    Stepper,
    check_prediction_type,
    hold_known,
    power_timesteps,
    select_timesteps,
    signal_level,
)
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.component_checks import check_scheduler
from tests.pipelines.test_modes import IMAGE, STEPS, VIDEO, seed

SOLVERS = [
    "DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "UniPCMultistepScheduler",
]  # fmt: skip
# Those that tell their estimate of x_0.
STEPPERS = [
    "DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler",
]  # fmt: skip
# These add noise at every step.
ANCESTRAL = {"EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}
CPU = torch.device("cpu")


def made_by(name: str, base: Any, **settings: Any) -> Any:
    return getattr(diffusers, name).from_config(base.config, **settings)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_solvers_of_one_equation_end_at_one_video(name: str, prediction_type: str) -> None:
    """The network is exact for x_0 ~ N(mean, 0.3^2), whose probability flow leads from noise e to mean + 0.3 e."""
    zero_snr = prediction_type == "v_prediction"
    base = diffusers.DDIMScheduler.from_config(
        make_scheduler().config,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
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
    made = denoise(
        scheduler, network, lambda: noise * scheduler.init_noise_sigma, timesteps, [seed()]
    )
    distance = (made - (mean + 0.3 * noise)).square().mean().sqrt()
    assert distance < 0.06 and (made - mean).std() > 0.2


@pytest.mark.parametrize(
    "name", sorted({*SOLVERS, *STEPPERS, "DEISMultistepScheduler"} - ANCESTRAL)
)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_steps_of_some_frames_at_a_time_are_those_of_the_video(
    name: str, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of schedulers that remember what they saw; and no x_t that was shown is written to later."""
    settings = {
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": False,
        "clip_sample": False,
    }
    scheduler = made_by(name, make_scheduler(), beta_schedule="linear", **settings)
    noise = draw_noise((2, 3, 5, 4, 4), [seed(), seed(1)], CPU)
    seen: list[tuple[Tensor, Tensor]] = []

    def network(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        return (0.5 * scaled_x_t).tanh() - 0.1

    def on_step(step: int, timestep: Tensor, x_t: Tensor) -> Tensor:
        seen.append((x_t, x_t.clone()))
        return x_t

    made: list[Tensor] = []
    for part_size in (2**20, 2 * 3 * 4 * 4):
        monkeypatch.setattr(Stepper, "part_size", part_size)
        timesteps = select_timesteps(scheduler, 6, CPU)
        start = partial(torch.mul, noise, scheduler.init_noise_sigma)
        made.append(denoise(scheduler, network, start, timesteps, [seed(), seed(1)], on_step))
    torch.testing.assert_close(made[1], made[0])
    assert all(torch.equal(x_t, copied) for x_t, copied in seen)


class OneSeed:
    """A scheduler with one seed for all its noise, as those have that need torchsde."""

    config: ClassVar = {"noise_sampler_seed": None, "thresholding": False}

    def __init__(self, noise_sampler_seed: int | None = None, thresholding: bool = False) -> None:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError


def test_only_settings_that_need_the_whole_video_mean_one_part() -> None:
    """Copies of a scheduler with one seed would add the same noise to every part. Settings that a
    scheduler only keeps for another class do nothing.
    """
    base = make_scheduler()
    kept = made_by("DPMSolverMultistepScheduler", base, thresholding=True, noise_sampler_seed=1)
    video = torch.empty(1, 3, 4, 1024, 1024, device="meta")
    parts = []
    for scheduler in (
        object.__new__(OneSeed),
        kept,
        diffusers.EulerDiscreteScheduler.from_config({**kept.config, "noise_sampler_seed": 1}),
    ):
        parts.append(len(Stepper(scheduler, [seed()])._parts(video)))
    assert parts == [1, 1, 4]


def test_dynamic_thresholding_sees_the_whole_video(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made_by("DDIMScheduler", make_scheduler(), thresholding=True, clip_sample=False)
    made: list[Tensor] = []
    for part_size in (2**20, 1):
        monkeypatch.setattr(Stepper, "part_size", part_size)
        timesteps = select_timesteps(scheduler, 3, CPU)
        noise = partial(draw_noise, (1, 3, 5, 4, 4), [seed()], CPU)
        made.append(denoise(scheduler, lambda x_t, timestep: -3 * x_t, noise, timesteps, [seed()]))
    assert torch.equal(*made)


@pytest.mark.parametrize("name", [*SOLVERS, "EulerAncestralDiscreteScheduler"])
def test_every_mode_of_start_with_every_scheduler(pipe: LumierePipeline, name: str) -> None:
    def edit() -> Tensor:
        return pipe(
            "a cat",
            video=VIDEO,
            strength=0.25,
            num_inference_steps=8,
            output_type="pt",
            upscale=False,
            generator=seed(),
        ).frames

    ours = edit()
    pipe.scheduler, pipe.ssr_scheduler = (
        made_by(name, each) for each in (pipe.scheduler, pipe.ssr_scheduler)
    )
    for given in ({}, {"image": IMAGE}, {"video": VIDEO, "strength": 0.5}):
        output = pipe("a cat", generator=seed(), **given, **STEPS)
        assert output.frames.isfinite().all() and output.frames.std() > 0.01
        assert torch.equal(output.frames, pipe("a cat", generator=seed(), **given, **STEPS).frames)
    edited = edit()
    assert (edited - VIDEO).square().mean().sqrt() < 0.25 and (
        edited - ours
    ).square().mean().sqrt() < 0.25


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("name", STEPPERS)
def test_held_pixels_are_what_the_scheduler_reads_at_every_step(
    name: str, prediction_type: str, spacing: str
) -> None:
    """Midpoints of second-order schedulers included, which stand between two of their levels."""
    settings = {
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": False,
    }
    # Linear: with cosine's last beta some of them divide zero by zero.
    scheduler = made_by(
        name, make_scheduler(), **settings, beta_schedule="linear", clip_sample=False
    )
    known = torch.linspace(-0.9, 0.9, 96).view(1, 3, 2, 4, 4)
    seen: list[Tensor] = []
    plain = scheduler.step

    def step(*args: Any, return_dict: bool, **kwargs: Any) -> tuple[Tensor]:
        output = plain(*args, **kwargs)
        seen.append(output.pred_original_sample)
        return (output.prev_sample,)

    def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        everywhere = torch.ones(1, 1, 2, 4, 4)
        output = torch.zeros_like(known)
        return hold_known(
            scheduler, prediction_type, output, scaled_x_t, timestep, known, everywhere
        )

    step.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    scheduler.step = step
    timesteps = select_timesteps(scheduler, 5, CPU)
    x_t = draw_noise(known.shape, [seed()], CPU) * scheduler.init_noise_sigma
    denoise(scheduler, predict, lambda: x_t, timesteps, [seed()])
    assert len(seen) == len(timesteps)
    for pred_x_0 in seen:
        torch.testing.assert_close(pred_x_0, known, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [*SOLVERS, "KDPM2DiscreteScheduler"])
def test_levels_of_noise_are_the_schedulers_own(name: str) -> None:
    """What is held is x_t's own share of the given pixels, also where timesteps repeat themselves (Karras' sigmas)."""
    base = make_scheduler()
    scheduler = made_by(
        name, base, **({} if name == "DDIMScheduler" else {"use_karras_sigmas": True})
    )
    levels: list[float] = []

    def predict(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = signal_level(scheduler, timestep)
        torch.testing.assert_close(alpha**2 + sigma**2, torch.tensor(1.0))
        levels.append(alpha.item())
        return torch.zeros_like(scaled_x_t)

    timesteps = select_timesteps(scheduler, 30, CPU)
    denoise(scheduler, predict, lambda: torch.zeros(1, 3, 2, 4, 4), timesteps, [seed()])
    assert (
        levels == sorted(levels)
        and len(set(levels)) >= 25
        and levels[0] < 0.01
        and levels[-1] > 0.9
    )


def test_a_scheduler_that_cannot_go_from_noise_to_a_video(pipe: LumierePipeline) -> None:
    for name in ("KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepInverseScheduler"):
        pipe.scheduler = made_by(name, make_scheduler())
        with pytest.raises(
            ValueError,
            match=f"scheduler is a {name}, whose timesteps do not lead .* such as DDIMSch",
        ):
            pipe("a cat", **STEPS)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            made_by("EDMEulerScheduler", make_scheduler()),
            "EDMEulerScheduler, which scales .* take another, such as",
        ),
        (
            diffusers.DDIMScheduler(prediction_type="epsilon"),
            "a DDIMScheduler with prediction_type 'epsilon', but",
        ),
        (
            diffusers.EulerDiscreteScheduler(),
            "prediction_type 'epsilon', but the model predicts 'v_prediction'",
        ),
        (
            made_by("FlowMatchEulerDiscreteScheduler", make_scheduler()),
            "FlowMatch.*has no prediction_type.*take a dif",
        ),
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
    with pytest.raises(
        ValueError, match=r"zero terminal SNR.*DDIMScheduler\.from_config\(scheduler\.config, resc"
    ):
        check_prediction_type(scheduler, "epsilon", "scheduler")


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}),
        ("DDPMScheduler", {"variance_type": "learned_range"}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}),
    ],
)
def test_settings_that_only_another_class_has_do_nothing(
    first: str, settings: dict[str, Any]
) -> None:
    """`from_config` keeps them in the config, and cannot change them."""
    kept = made_by(first, make_scheduler(), **settings)
    scheduler = made_by("HeunDiscreteScheduler", kept)
    name = next(iter(settings))
    assert scheduler.config[name] == settings[name]
    check_scheduler(scheduler, scheduler.config.prediction_type)
    with pytest.raises(ValueError, match=f"^scheduler is a {first} with"):
        check_scheduler(kept, kept.config.prediction_type)


def test_timesteps_are_continuous_for_v_prediction_alone() -> None:
    settings = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    plain = made_by("EulerDiscreteScheduler", make_scheduler(), **settings)
    scheduler = made_by("EulerDiscreteScheduler", plain, timestep_type="continuous")
    check_scheduler(scheduler, "epsilon")
    timesteps = [select_timesteps(each, 4, CPU, power=2.0) for each in (plain, scheduler)]
    assert torch.equal(*timesteps)


@pytest.mark.parametrize("name", ["LMSDiscreteScheduler", "PNDMScheduler"])
def test_schedulers_that_need_all_their_steps_do_not_start_from_a_picture(
    pipe: LumierePipeline, name: str
) -> None:
    pipe.scheduler = made_by(
        name, pipe.scheduler, beta_schedule="linear", rescale_betas_zero_snr=False
    )
    assert (
        pipe("a cat", upscale=False, num_inference_steps=8, output_type="pt")
        .frames.isfinite()
        .all()
    )
    with pytest.raises(
        ValueError, match=f"scheduler is a {name}, which cannot begin in the middle; set strength"
    ):
        pipe("a cat", video=VIDEO, strength=0.5, num_inference_steps=8, output_type="pt")


def test_a_power_of_one_is_trailing_spacing() -> None:
    scheduler = diffusers.DDPMScheduler.from_config(make_scheduler().config)
    for num_inference_steps in (1, 4, 20, 50):
        scheduler.set_timesteps(num_inference_steps)
        expected = scheduler.timesteps.tolist()
        assert power_timesteps(num_inference_steps, 1000, 1.0) == expected


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_a_higher_power_visits_low_noise_more_often(power: float) -> None:
    timesteps = power_timesteps(20, 1000, power)
    assert timesteps[0] == 999 and timesteps == sorted(set(timesteps), reverse=True)
    gaps = [a - b for a, b in itertools.pairwise(timesteps)]
    assert gaps == sorted(gaps, reverse=True)
    assert timesteps[10] == round(1000 * 0.5**power) - 1
    assert len(power_timesteps(1000, 1000, power)) < 1000  # none twice


def test_a_power_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power is 0\.5; allowed: at least 1"):
        power_timesteps(4, 1000, 0.5)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_any_spacing_samples_the_distribution(name: str, power: float) -> None:
    """The network is exact for x_0 ~ N(0.2, 0.3^2)."""
    base = diffusers.DDIMScheduler.from_config(make_scheduler().config, clip_sample=False)
    objective = Objective(base)

    def network(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        timesteps = timestep.long().view(1)
        alpha, sigma = objective.levels(timesteps, 5)
        gain = 0.09 * alpha / (0.09 * alpha**2 + sigma**2)
        x_0 = 0.2 + gain * (scaled_x_t - alpha * 0.2)
        return objective.target(x_0, (scaled_x_t - alpha * x_0) / sigma, timesteps)

    scheduler = made_by(name, base)
    noise = draw_noise((1, 3, 8, 16, 16), [seed()], CPU)
    timesteps = select_timesteps(scheduler, 50, CPU, power=power)
    assert timesteps.tolist() == power_timesteps(50, 1000, power)
    made = denoise(scheduler, network, lambda: noise, timesteps, [seed()])
    assert made.mean() == pytest.approx(0.2, abs=0.02)
    assert made.std() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_strength_is_the_noise_level_to_begin_with(power: float) -> None:
    scheduler = diffusers.DDPMScheduler.from_config(make_scheduler().config)
    for strength in (0.3, 0.5, 0.7):
        timesteps = select_timesteps(scheduler, 40, CPU, strength, power)
        assert timesteps[0] == pytest.approx(1000 * strength, abs=50)
    assert len(select_timesteps(scheduler, 40, CPU, 0.0, power)) == 0
    assert select_timesteps(scheduler, 100, CPU, 0.5, 3.0)[0] == pytest.approx(499, abs=15)


def test_a_scheduler_without_timesteps_keeps_its_spacing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for scheduler in (
        make_scheduler(),
        made_by("LCMScheduler", make_scheduler()),
        made_by("EulerDiscreteScheduler", make_scheduler(), timestep_type="continuous"),
        made_by("DPMSolverMultistepScheduler", make_scheduler(), use_karras_sigmas=True),
    ):
        caplog.clear()
        own = select_timesteps(scheduler, 4, CPU).tolist()
        assert not caplog.records
        assert select_timesteps(scheduler, 4, CPU, power=2.0).tolist() == own
        assert f"{type(scheduler).__name__} takes no timesteps" in caplog.text
        half = select_timesteps(scheduler, 4, CPU, 0.5).tolist()
        assert select_timesteps(scheduler, 4, CPU, 0.5, 2.0).tolist() == half
