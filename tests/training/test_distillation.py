"""Multistep consistency distillation: its segments, its fixed points, and what a student learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn
from torch.utils.data import default_collate

from lumiere.config import DistilConfig, LaunchConfig, TextOptimConfig
from lumiere.data.shards import ALL
from lumiere.diffusion.denoising import sample_whole
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.objective import make_scheduler
from lumiere.diffusion.schedulers import hold_known
from lumiere.models import SpaceTimeUNet
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.training.distillation_task import (
    DistillationTask,
    Trajectory,
    make_student,
    trailing_ddim,
)
from lumiere.training.loop import train
from lumiere.training.parallel import Parallel
from lumiere.training.preview import FewStepPreview
from lumiere.training.seeding import generator_for

FRAMES, SIZE, TOKENS, DIM = 3, 8, 4, 32
MIX = {"text_only": 2.0, "first_frame": 1.0, "inpainting_box": 1.0}
OPTIM = TextOptimConfig(
    steps=6, batch_size=4, learning_rate=2e-3, warmup_steps=2, ema_decay=0.5, checkpoint_every=2,
    log_every=1, validate_every=3, text_dropout=0.0,
)  # fmt: skip
SETTINGS = DistilConfig(
    num_inference_steps=2, teacher_steps=10, guidance_scale=2.0, guidance_rescale=0.0,
    guidance_interval=(0.2, 0.9),
)  # fmt: skip


class FewClips:
    """Some smooth clips, each with a caption of its own."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        colours = torch.randint(40, 216, (number, 3, FRAMES, 1, 1), generator=generator)
        self.videos = colours.expand(-1, -1, -1, SIZE, SIZE).to(torch.uint8)
        self.embeds = torch.randn(number, 1, TOKENS, DIM, generator=generator)
        self.shards, self.num_frames = [""] * number, FRAMES
        self.buckets = [0] * number
        self.null_text = torch.zeros(TOKENS, DIM), torch.tensor([1, 1, 0, 0])

    def __len__(self) -> int:
        return len(self.videos)

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        return self.videos[i][:, frames]

    def text(self, i: int) -> tuple[Tensor, Tensor]:
        return self.embeds[i], torch.ones(1, TOKENS, dtype=torch.int64)


def make_network() -> SpaceTimeUNet:
    torch.manual_seed(0)
    unet = SpaceTimeUNet.from_unet2d(
        build_text_to_image_unet(SIZE, (16, 32), 1, DIM), conditioning_channels=4
    )
    with torch.no_grad():  # away from zero, so that all layers matter
        for parameter in unet.temporal_parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return unet


def make_task(
    settings: DistilConfig = SETTINGS, optim: TextOptimConfig = OPTIM, **changes: Any
) -> DistillationTask:
    if "teacher" not in changes:
        changes["teacher"] = make_network()
    if "network" not in changes:
        changes["network"] = make_student(changes["teacher"], settings.trained)
    task = DistillationTask(
        "distil", train_data=FewClips(4), validation_data=FewClips(2), config=optim,
        mask_weights=MIX, settings=settings, **{"scheduler": make_scheduler(), **changes},
    )  # fmt: skip
    task.validation_clips = 4
    return task


def batch_of(task: DistillationTask, step: int = 0) -> dict[str, Tensor]:
    size = task.config.batch_size
    return default_collate([task.example(step * size + i) for i in range(size)])


# --- the trajectory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_segments_end_where_the_schedulers_few_steps_do(steps: int) -> None:
    scheduler = trailing_ddim(make_scheduler(), is_latent=False)
    trajectory = Trajectory(scheduler, steps, 20)
    scheduler.set_timesteps(20)
    points = scheduler.timesteps
    assert torch.equal(trajectory.following(points), torch.tensor([*points[1:], -1]))
    assert torch.equal(trajectory.snap(torch.arange(1000)).unique(), points.sort().values)
    scheduler.set_timesteps(steps)
    ends = torch.tensor([*scheduler.timesteps[1:], -1])
    assert torch.equal(trajectory.ends(scheduler.timesteps), ends)
    assert torch.equal(trajectory.ends(points), ends.repeat_interleave(20 // steps))


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("zero_snr", [True, False])
def test_a_step_is_the_schedulers(zero_snr: bool, final: bool) -> None:
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=zero_snr, prediction_type="sample", clip_sample=False,
        timestep_spacing="trailing", set_alpha_to_one=final,
    )  # fmt: skip
    trajectory = Trajectory(scheduler, 4, 20)
    scheduler.set_timesteps(4)
    x_t, x_0 = torch.randn(2, 1, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        expected = scheduler.step(x_0, timestep, x_t).prev_sample
        t = timestep[None]
        torch.testing.assert_close(trajectory.step(x_t, x_0, t, trajectory.ends(t)), expected)


@pytest.mark.parametrize("final", [True, False])
def test_one_step_with_the_joined_prediction_replaces_two(final: bool) -> None:
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", set_alpha_to_one=final
    )
    trajectory = Trajectory(scheduler, 2, 10)
    t = torch.arange(99, 1000, 100)
    generator = torch.Generator().manual_seed(0)
    x_t, first, second = torch.randn(3, len(t), 3, 2, 4, 4, generator=generator).clamp(-1, 1)
    s, e = trajectory.following(t), trajectory.ends(t)
    x_s = trajectory.step(x_t, first, t, s)
    is_last = (s == e).view(-1, 1, 1, 1, 1)
    x_e = torch.where(is_last, x_s, trajectory.step(x_s, second, s.clamp(min=0), e))
    joined = trajectory.join(first, second, t)
    torch.testing.assert_close(trajectory.step(x_t, joined, t, e), x_e, atol=1e-5, rtol=1e-4)
    assert joined.abs().max() <= 1 and torch.equal(joined[0], first[0])
    assert torch.equal(trajectory.join(first, first, t), first)


@pytest.mark.parametrize("steps, teacher_steps", [(4, 64), (4, 10), (3, 20)])
def test_steps_that_ddim_would_not_visit_are_refused(steps: int, teacher_steps: int) -> None:
    with pytest.raises(ValueError, match=f"teacher_steps is {teacher_steps}; allowed: a multiple"):
        Trajectory(make_scheduler(), steps, teacher_steps)


def test_noise_prediction_without_signal_is_refused() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="epsilon")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        make_task(scheduler=scheduler)


# --- targets ---------------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """The exact network for clips that are `x_0` or `-x_0` with equal probability, or `x_0` alone,
    in the scheduler's prediction type.
    """

    device = torch.device("cpu")

    def __init__(self, scheduler: DDIMScheduler, x_0: Tensor, is_alone: bool = False) -> None:
        super().__init__()
        self.kind, self.is_alone = scheduler.config.prediction_type, is_alone
        self.register_buffer("x_0", x_0)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod)

    def forward(self, sample: Tensor, timestep: Tensor, **_: Any) -> Any:
        x_t = sample[:, :3]
        alpha_squared = self.alphas_cumprod[timestep].view(-1, 1, 1, 1, 1)
        alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        projection = (x_t * self.x_0).sum((1, 2, 3, 4), keepdim=True)
        share = (projection * alpha / sigma**2).tanh()
        x_0 = self.x_0 * (1.0 if self.is_alone else share) + 0 * x_t
        x_0 = x_0 + self.x_0 * self.correction(projection, share, alpha)
        noise = (x_t - alpha * x_0) / sigma
        outputs = {"sample": x_0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x_0}
        return SimpleNamespace(sample=outputs[self.kind])

    def correction(self, projection: Tensor, share: Tensor, alpha: Tensor) -> Tensor:
        return torch.zeros_like(share)


class OracleStudent(Oracle):
    """It starts as the oracle and can learn to depart from it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.last = nn.Linear(32, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def correction(self, projection: Tensor, share: Tensor, alpha: Tensor) -> Tensor:
        levels = alpha.expand_as(share)
        features = torch.cat([projection, (4 * projection).tanh(), share, levels], dim=1).flatten(1)
        return self.last(self.layers(features)).view_as(share)


def make_toy(steps: int) -> DistillationTask:
    """A task on two clips, with the exact teacher. They differ so little that a few steps of the
    teacher do not decide between them.
    """
    scheduler = make_scheduler()
    grey = 134 / 127.5 - 1
    x_0 = torch.full((1, 3, FRAMES, SIZE, SIZE), grey)
    optim = dataclasses.replace(
        OPTIM, steps=steps, batch_size=16, learning_rate=1e-2, ema_decay=0.9, log_every=steps // 4
    )
    teacher: Any = Oracle(scheduler, x_0)
    student: Any = OracleStudent(scheduler, x_0)
    settings = dataclasses.replace(SETTINGS, guidance_scale=1.0, teacher_steps=8)
    task = make_task(settings, optim, network=student, teacher=teacher, scheduler=scheduler)
    task.mask_weights = {"text_only": 1.0}
    values = torch.tensor([134, 121, 134, 121], dtype=torch.uint8).view(4, 1, 1, 1, 1)
    task.train_data.videos = values.expand(4, 3, FRAMES, SIZE, SIZE)
    return task


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "epsilon"])
def test_the_oracle_of_a_single_clip_has_no_loss(kind: str) -> None:
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=kind,
        rescale_betas_zero_snr=kind != "epsilon",
    )  # fmt: skip
    x_0 = torch.linspace(-0.9, 0.9, FRAMES)[None, None, :, None, None].expand(1, 3, -1, SIZE, SIZE)
    oracle: Any = Oracle(scheduler, x_0, True)
    task = make_task(network=oracle, teacher=oracle, scheduler=scheduler)
    task.train_data.videos = ((x_0 + 1) * 127.5).expand(4, -1, -1, -1, -1).to(torch.uint8)
    task.mask_weights = {"text_only": 1.0}
    losses = torch.cat([task.losses(oracle, batch_of(task, step)) for step in range(5)])
    assert losses.max() < (1e-3 if kind == "epsilon" else 1e-8)


def test_a_target_is_made_by_the_pipelines_own_steps() -> None:
    """Guided where its interval says so, held to the known pixels, and joined as DDIM would."""
    settings = dataclasses.replace(SETTINGS, guidance_rescale=0.7)
    task = make_task(settings, scheduler=DDIMScheduler.from_config(
        make_scheduler().config, clip_sample=False
    ))  # fmt: skip
    torch.manual_seed(1)
    with torch.no_grad():  # unlike the teacher
        for parameter in task.network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    inputs = task.noised(batch_of(task)).inputs
    inputs.timesteps = torch.tensor(
        [999, 899, 599, 99]
    )  # two are guided; the last two end segments
    with torch.no_grad():
        target = task.target(task.network, inputs)
    scheduler = task.scheduler
    null = [value[None] for value in task.train_data.null_text]
    assert inputs.conditioning is not None and inputs.conditioning[:, 3:].any()
    for row, timestep in enumerate(inputs.timesteps):
        one = slice(row, row + 1)
        guidance = TextGuidance(
            inputs.prompt_embeds[one], inputs.prompt_mask[one], *null, 2.0, 0.7, (200.0, 900.0)
        )
        c, m = inputs.conditioning[one].split([3, 1], dim=1)
        x_t, end, steps = inputs.sample[one], int(task.trajectory.ends(timestep)), 10

        def predict(network: Any, t: Tensor, x_t: Tensor, guidance: Any, c: Any, m: Any) -> Tensor:
            output = guidance.predict(network, torch.cat([x_t, c, m], dim=1), t, 3)
            return hold_known(scheduler, "v_prediction", output, x_t, t, c, m)

        with torch.no_grad():
            scheduler.set_timesteps(steps)
            output = predict(task.teacher, timestep, x_t, guidance, c, m)
            x_e, following = scheduler.step(output, timestep, x_t).prev_sample, timestep - 100
            if following != end:
                unguided = dataclasses.replace(guidance, scale=1.0)
                output = predict(task.network, following, x_e, unguided, c, m)
                x_0 = scheduler.step(output, following, x_e).pred_original_sample
                e = torch.tensor([end])
                x_e = task.trajectory.step(x_e, x_0, following[None], e)
            got = task.trajectory.step(x_t, target[one], timestep[None], torch.tensor([end]))
        torch.testing.assert_close(got, x_e, atol=1e-4, rtol=1e-4)
        assert torch.equal(target[one][m.expand_as(c) > 0.5], c[m.expand_as(c) > 0.5])


def test_examples_lie_on_the_trajectory_and_cover_it() -> None:
    task = make_task()
    drawn = [int(task.example(i)["timesteps"]) for i in range(80)]
    held_out = [int(task.validation_example(i)["timesteps"]) for i in range(4)]
    assert set(drawn) == set(range(99, 1000, 100)) and set(held_out) <= set(drawn)
    # Stratified: a quarter of the examples of each step lies in each quarter, up to rounding.
    for step in range(0, 80, 4):
        batch = sorted(drawn[step : step + 4])
        assert all(abs(t - 250 * i - 125) <= 225 for i, t in enumerate(batch))


def test_operations_of_the_teacher_and_of_the_second_prediction_count() -> None:
    batch = batch_of(make_task())
    unguided = dataclasses.replace(SETTINGS, guidance_scale=1.0)
    without, with_guidance = make_task(unguided).flops(batch), make_task().flops(batch)
    # Training takes about three forward passes, and the rest two, or 2.7 with guidance on 7 of 10.
    assert with_guidance / without == pytest.approx(5.7 / 5, rel=0.03)


# --- training --------------------------------------------------------------------------------------------------------


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("trained", ["all", "temporal"])
def test_only_what_is_named_is_trained(trained: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, trained=trained)
    task = make_task(settings, dataclasses.replace(OPTIM, steps=2))
    teacher, before = weights_of(task.teacher), weights_of(task.network)
    assert all(torch.equal(value, before[name]) for name, value in teacher.items())
    train(task, tmp_path)
    after = weights_of(task.network)
    assert all(
        torch.equal(value, teacher[name]) for name, value in task.teacher.state_dict().items()
    )
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    spatial = {name for name in after if name.startswith("unet.")}
    assert moved - spatial
    assert bool(moved & spatial) == (trained == "all")


def test_autocast_keeps_the_gradients() -> None:
    task = make_task(dataclasses.replace(SETTINGS, guidance_scale=1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        task.losses(task.network, batch_of(task)).mean().backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters())


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = make_toy(steps=8)
    result = train(whole, tmp_path / "whole")
    stopped = make_toy(steps=8)
    plain = stopped.example

    def example(position: int) -> dict[str, Tensor]:
        if position == 5 * stopped.config.batch_size:
            raise KeyboardInterrupt
        return plain(position)

    stopped.example = example  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tmp_path / "stopped")
    resumed = make_toy(steps=8)
    again = train(resumed, tmp_path / "stopped")
    assert again.resumed_from == 4
    assert (again.losses, again.validation) == (result.losses, result.validation)
    expected, found = weights_of(whole.network), weights_of(resumed.network)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def sample(task: DistillationTask, network: Any, steps: int) -> Tensor:
    """Sample clips in some steps of the scheduler, from the same noise each time."""
    noise = torch.randn(64, 3, FRAMES, SIZE, SIZE, generator=generator_for("sample"))
    with torch.no_grad():
        return sample_whole(
            task.scheduler, lambda x, t: network(x, t[None]).sample, noise, [], steps,
            [torch.Generator()] * 64,
        )  # fmt: skip


def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    task = make_toy(steps=150)
    wanted = sample(task, task.teacher, 8)
    before = (sample(task, task.network, 2) - wanted).square().mean()
    assert torch.equal(sample(task, task.network, 2), sample(task, task.teacher, 2))
    result = train(task, tmp_path)
    after = (sample(task, task.network, 2) - wanted).square().mean()
    assert after < 0.5 * before
    assert result.losses[-1][1] < result.losses[0][1]


def test_a_preview_uses_the_students_sampler_without_guidance(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, timestep_power=2.0)
    task, shown, batches, timesteps = make_task(settings), [], [], []

    def record(_: nn.Module, args: Any) -> None:
        batches.append(len(args[0]))
        timesteps.append(int(args[1].flatten()[0]))

    task.network.register_forward_pre_hook(record)
    runtime = SimpleNamespace(sample_every=1, sample_guidance_scale=3.0)
    preview = FewStepPreview(task, runtime, tmp_path, shown.append, 8)
    with torch.no_grad():
        preview(task.network, Parallel(LaunchConfig()), 1)
    assert [path.name for path in shown] == ["distil-0000001.mp4"]
    examples = len(preview._examples())
    assert batches == [1] * 2 * examples and timesteps == [999, 249] * examples
    assert isinstance(preview.scheduler, DDPMScheduler)
