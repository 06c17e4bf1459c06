"""The training loop: whatever ends a run, the same command resumes it to the same bits."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lumiere.config import LaunchConfig, OptimConfig, TextOptimConfig
from lumiere.errors import TrainingDiverged
from lumiere.training import checkpoint
from lumiere.training.checkpoint import load_checkpoint
from lumiere.training.diffusion_task import Batch
from lumiere.training.divergence import LossWatch
from lumiere.training.ema import EMA
from lumiere.training.image_task import TextToImageTask
from lumiere.training.loop import RISING, Interrupted, Preview, train
from lumiere.training.optimizer import learning_rate
from lumiere.training.parallel import Parallel, warn_of_slow_bf16
from lumiere.training.state import TrainingResult
from tests import forked
from tests.conftest import REPOSITORY
from tests.training.small_task import CONFIG, Stop, at_step, make_task

METRICS = {
    "loss",
    "grad_norm",
    "learning_rate",
    "steps_per_second",
    "clips_per_second",
    "data_wait_share",
}
METRICS |= {"tflops", "mfu", "memory_gb"}
Outcome = tuple[dict[str, Tensor], TrainingResult, list[tuple[dict[str, float], int]], bytes]


def run(
    scratch: Path,
    task: TextToImageTask | None = None,
    config: TextOptimConfig = CONFIG,
    preview: Preview | None = None,
) -> Outcome:
    """Weights, result, what was logged, and the bytes of the last checkpoint's tensors."""
    task = task or make_task()
    task.config = config
    logged: list[tuple[dict[str, float], int]] = []
    result = train(
        task, scratch, lambda metrics, step: logged.append((metrics, step)), preview=preview
    )
    weights = {name: value.clone() for name, value in task.network.state_dict().items()}
    return (
        weights,
        result,
        logged,
        (scratch / f"step-{config.steps:07d}" / checkpoint.TENSORS_FILE).read_bytes(),
    )


def same(one: Outcome, other: Outcome) -> bool:
    """Bit by bit: weights, optimizer, average; and number by number: the two logs."""
    return (
        all(torch.equal(value, other[0][name]) for name, value in one[0].items())
        and one[3] == other[3]
        and one[1].losses == other[1].losses
        and one[1].validation == other[1].validation
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(tmp_path_factory.mktemp("uninterrupted"))


def run_apart(where: str, scratch: Path, expected: int) -> str:
    """`small_task` as a program, with as many threads as here; what it prints."""
    log = scratch.with_suffix(".log")
    threads = {"LUMIERE_NUM_THREADS": str(torch.get_num_threads())}
    command = ["tests.training.small_task", where, str(scratch)]
    return forked.start(command, log, REPOSITORY, threads).wait(expected)


def stop() -> None:
    raise Stop


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_tells(uninterrupted: Outcome) -> None:
    weights, result, logged, _ = uninterrupted
    assert [step for step, _ in result.losses] == [3, 6, 9, 12]
    assert [step for step, _ in result.validation] == [5, 10, 12]
    assert all(math.isfinite(loss) for _, loss in result.losses + result.validation)
    assert any(
        not torch.equal(value, weights[name])
        for name, value in make_task().network.state_dict().items()
    )
    metrics = [entry for entry, _ in logged if "loss" in entry]
    assert all(entry.keys() == METRICS for entry in metrics)
    assert all(0 < entry["mfu"] < 2 and 0 <= entry["data_wait_share"] <= 1 for entry in metrics)
    assert metrics[-1]["learning_rate"] == learning_rate(CONFIG, 11)


def test_two_runs_are_the_same_bits(uninterrupted: Outcome, tmp_path: Path) -> None:
    assert same(run(tmp_path), uninterrupted)


@pytest.mark.parametrize("step", [0, 3, 4, 5, 9, 11])
def test_a_resumed_run_ends_in_the_same_bits(
    step: int, uninterrupted: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        run(tmp_path, at_step(make_task(), step, stop))
    resumed = run(tmp_path)
    assert resumed[1].resumed_from == step // 4 * 4
    assert same(resumed, uninterrupted)
    expected = [
        (m["loss"], s) for m, s in uninterrupted[2] if "loss" in m and s > resumed[1].resumed_from
    ]
    assert [(m["loss"], s) for m, s in resumed[2] if "loss" in m] == expected


def test_a_run_stopped_again_and_again_ends_in_the_same_bits(
    uninterrupted: Outcome, tmp_path: Path
) -> None:
    every_step = dataclasses.replace(CONFIG, checkpoint_every=1)
    for step in range(1, 12):
        with pytest.raises(Stop):
            run(tmp_path, at_step(make_task(), step, stop), every_step)
    assert same(run(tmp_path), uninterrupted)


@pytest.mark.parametrize("where", ["step", "save"])
def test_a_run_killed_anywhere_ends_in_the_same_bits(
    where: str, uninterrupted: Outcome, tmp_path: Path
) -> None:
    run_apart(where, tmp_path, expected=-signal.SIGKILL)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-1] == "step-0000004" and len(names) == (2 if where == "save" else 1)
    resumed = run(tmp_path)
    assert resumed[1].resumed_from == 4 and same(resumed, uninterrupted)
    assert not list(tmp_path.glob(".writing-*"))


def test_a_finished_run_is_not_trained_again(uninterrupted: Outcome, tmp_path: Path) -> None:
    run(tmp_path)
    again = run(tmp_path, at_step(make_task(), 0, stop))
    assert again[1].resumed_from == 12 and again[2] == [] and same(again, uninterrupted)


def test_sigterm_saves_at_once_and_leaves_with_143(uninterrupted: Outcome, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path, at_step(make_task(), 6, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert interrupted.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = run(tmp_path)
    assert resumed[1].resumed_from == 7 and same(resumed, uninterrupted)


def test_a_signal_to_all_of_a_trainings_processes_saves(
    uninterrupted: Outcome, tmp_path: Path
) -> None:
    """Workers outlive it."""
    run_apart("group", tmp_path, expected=143)
    resumed = run(tmp_path)
    assert 0 < resumed[1].resumed_from < 12 and same(resumed, uninterrupted)


def test_sigterm_in_the_last_step_is_not_swallowed(uninterrupted: Outcome, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, at_step(make_task(), 11, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert same(run(tmp_path), uninterrupted)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no state", "half a state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, uninterrupted: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        run(tmp_path, at_step(make_task(), 9, stop))
    newest = tmp_path / "step-0000008"
    tensors, state = newest / checkpoint.TENSORS_FILE, newest / checkpoint.STATE_FILE
    whole = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        tensors.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "no state":
        state.unlink()
    else:
        state.write_bytes(state.read_bytes()[:50])
    resumed = run(tmp_path)
    assert resumed[1].resumed_from == 4 and same(resumed, uninterrupted)


# --- previews --------------------------------------------------------------------------------------------------------


class ShownAt:
    """A preview every two steps, which does something at one step."""

    every = 2

    def __init__(self, step: int, action: Callable[[], None] = lambda: None) -> None:
        self.step, self.action = step, action
        self.steps: list[int] = []

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        assert not network.training
        self.steps.append(step)
        torch.rand(7)  # what the next steps draw is not changed
        if step == self.step:
            self.action()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OSError("No space left on device")]
)
def test_a_preview_that_fails_costs_a_warning(
    error: Exception, uninterrupted: Outcome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        assert (tmp_path / "step-0000008").exists()  # the state is saved before
        raise error

    preview = ShownAt(8, fail)
    assert same(run(tmp_path, preview=preview), uninterrupted) and preview.steps == [
        2,
        4,
        6,
        8,
        10,
        12,
    ]
    assert (
        f"the preview of step 8 failed; training continues without it: {type(error).__name__}: {error}"
        in caplog.text
    )


@pytest.mark.parametrize("step, shown", [(8, [10, 12]), (6, [6, 8, 10, 12])])
def test_a_run_killed_in_a_preview_leaves_it_out_or_makes_it_again(
    step: int, shown: list[int], uninterrupted: Outcome, tmp_path: Path
) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, preview=ShownAt(step, kill))
    preview = ShownAt(0)
    resumed = run(tmp_path, preview=preview)
    assert (
        resumed[1].resumed_from == step // 4 * 4
        and same(resumed, uninterrupted)
        and preview.steps == shown
    )


def test_a_signal_is_not_kept_waiting_by_a_preview(tmp_path: Path) -> None:
    preview = ShownAt(0)
    with pytest.raises(Interrupted):
        run(
            tmp_path,
            at_step(make_task(), 5, lambda: os.kill(os.getpid(), signal.SIGTERM)),
            preview=preview,
        )
    assert preview.steps == [2, 4]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_validation_takes_no_more_at_once_than_training_does(parts: int, tmp_path: Path) -> None:
    task, sizes = make_task(), {True: set(), False: set()}
    plain = task.losses

    def losses(network: nn.Module, batch: Batch) -> Tensor:
        sizes[network.training].add(len(batch["video"]))
        return plain(network, batch)

    task.losses = losses  # type: ignore[method-assign]
    train(task, tmp_path, launch=LaunchConfig(gradient_accumulation=parts))
    assert sizes[True] == sizes[False] == {CONFIG.batch_size // parts}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoints_there(
    uninterrupted: Outcome, tmp_path: Path
) -> None:
    printed = run_apart("full", tmp_path, expected=1)
    assert "Traceback" not in printed, printed
    (line,) = (line for line in printed.splitlines() if "error" in line)
    assert line.startswith(f"error: {tmp_path}: the state of step 8 cannot be written: ")
    assert "File too large" in line and "make room, then run the same command" in line
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000004"]
    resumed = run(tmp_path)
    assert resumed[1].resumed_from == 4 and same(resumed, uninterrupted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_with_its_last_good_checkpoint(
    value: float, tmp_path: Path
) -> None:
    task = make_task()
    before = signal.getsignal(signal.SIGTERM)

    plain, calls = task.losses, []

    def losses(network: nn.Module, batch: Batch) -> Tensor:
        calls.extend([1] * network.training)
        return plain(network, batch) * (value if len(calls) == 10 else 1)

    task.losses = losses  # type: ignore[method-assign]
    expected = rf"small: loss (nan|-?inf).* at step 9, .*lower learning_rate.*at step 0; .* {tmp_path}/step-0000008"
    with pytest.raises(TrainingDiverged, match=expected):
        run(tmp_path, task)
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 8
    tensors = load_file(tmp_path / "step-0000008" / checkpoint.TENSORS_FILE)
    assert tensors and all(tensor.isfinite().all() for tensor in tensors.values())
    assert signal.getsignal(signal.SIGTERM) is before


class Parabola:
    """(w - 1)^2 from 0; from step `bad` on its gradient is pushed the wrong way."""

    name = "parabola"

    def __init__(self, bad: int, config: OptimConfig) -> None:
        self.network, self.bad, self.config = nn.Module(), bad, config
        self.network.weight = nn.Parameter(torch.zeros(3))

    @property
    def weight(self) -> Tensor:
        return self.network.weight

    def example(self, position: int) -> Batch:
        return {"step": torch.tensor(position // self.config.batch_size)}

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        loss = ((self.weight - 1).square().mean() + 0.01).expand(self.config.batch_size)
        return loss if int(batch["step"][0]) < self.bad else 2 * loss.detach() - loss

    def held_out(self) -> int:
        return 0

    def validation_example(self, i: int) -> Batch:
        raise NotImplementedError("nothing is held out")

    def batches_of_each_shape(self, batch_size: int) -> list[Batch]:
        return [self.example(0)]

    def flops(self, batch: Batch) -> int:
        return 0


def watch_of(found: Any, config: OptimConfig) -> LossWatch:
    watch = LossWatch(config)
    watch.load_state_dict(found["watch"])
    return watch


def test_a_loss_that_blows_up_stops_the_run_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    config = OptimConfig(
        steps=2000,
        warmup_steps=10,
        learning_rate=0.02,
        checkpoint_every=20,
        final_learning_rate=1.0,
    )
    with pytest.raises(
        TrainingDiverged, match=r"parabola: the smoothed loss rose from 0\.\d+ to \d"
    ):
        train(Parabola(300, config), tmp_path)
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] < 362
    watch = watch_of(found, config)
    assert watch.smoothed < 1.1 * watch.best  # not one of the blow-up's own
    risen = load_checkpoint(tmp_path / RISING)
    assert risen is not None and risen["step"] > found["step"]
    with pytest.raises(
        TrainingDiverged,
        match=f"the last good state stays in {tmp_path}/step-{found['step']:07d}",
    ):
        train(Parabola(300, config), tmp_path)  # goes on from the rise, and soon says the same


def test_a_short_training_that_blows_up_is_told(tmp_path: Path) -> None:
    config = OptimConfig(
        steps=60, warmup_steps=10, learning_rate=0.1, checkpoint_every=20, final_learning_rate=1.0
    )
    with pytest.raises(TrainingDiverged, match="the smoothed loss rose"):
        train(Parabola(25, config), tmp_path)
    found = load_checkpoint(tmp_path)
    assert found is not None and 20 <= found["step"] < 60 and not watch_of(found, config).is_rising


def test_sigterm_saves_while_the_loss_rises_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    config = OptimConfig(
        steps=400, warmup_steps=10, learning_rate=0.02, checkpoint_every=20, final_learning_rate=1.0
    )
    task, steps = Parabola(200, config), []
    plain = task.losses

    def losses(network: nn.Module, batch: Batch) -> Tensor:
        steps.append(int(batch["step"][0]))
        if steps[-1] in (271, 273, 275):  # of a rise from step 270 on
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(network, batch)

    task.losses = losses  # type: ignore[method-assign]
    for step in (272, 274, 276):
        with pytest.raises(Interrupted):
            train(task, tmp_path)
        assert steps[-1] == step - 1 and (tmp_path / RISING / f"step-{step:07d}").exists()
        task.network.weight.data.fill_(7)  # the state is that of the checkpoint
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 260 and not watch_of(found, config).is_rising
    assert steps == list(range(276))
    with pytest.raises(TrainingDiverged):
        train(task, tmp_path)


def test_a_signal_in_the_last_validation_is_not_swallowed(
    uninterrupted: Outcome, tmp_path: Path
) -> None:
    task = make_task()
    plain = task.validation_example

    def validation_example(i: int) -> Batch:
        if (tmp_path / "step-0000008").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(i)

    task.validation_example = validation_example  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run(tmp_path, task)
    assert same(run(tmp_path), uninterrupted)


def test_a_noisy_start_is_no_divergence(tmp_path: Path) -> None:
    config = OptimConfig(steps=60, warmup_steps=10, learning_rate=0.02, checkpoint_every=60)
    assert train(Parabola(1000, config), tmp_path).steps == 60


def test_without_held_out_data_there_is_no_validation(tmp_path: Path) -> None:
    outcome = run(tmp_path, make_task(held_out=0))
    assert outcome[1].validation == [] and all(
        "validation_loss" not in metrics for metrics, _ in outcome[2]
    )


def test_no_steps_leave_the_weights_as_they_are(tmp_path: Path) -> None:
    task = make_task()
    task.config = dataclasses.replace(CONFIG, steps=0)
    result = train(task, tmp_path)
    assert result.losses == []
    fresh = make_task().network.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in task.network.state_dict().items())


# --- averages and learning rates -------------------------------------------------------------------------------------


def test_the_average_follows_its_formula_and_is_what_a_run_leaves(tmp_path: Path) -> None:
    config = OptimConfig(
        steps=30, warmup_steps=0, learning_rate=0.1, ema_decay=0.8, checkpoint_every=30
    )
    task = Parabola(1000, config)
    average, live = torch.zeros(3), []
    plain = task.losses

    def losses(network: nn.Module, batch: Batch) -> Tensor:
        live.append(task.weight.detach().clone())
        return plain(network, batch)

    task.losses = losses  # type: ignore[method-assign]
    train(task, tmp_path)
    found = load_checkpoint(tmp_path)
    assert found is not None
    for step, weight in enumerate([*live[1:], found["weights"]["weight"]]):
        decay = min(0.8, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(task.weight.detach(), average)
    assert torch.equal(found["ema"]["weight"], task.weight)


def test_swapping_twice_is_nothing() -> None:
    weights = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    before = {name: weight.clone() for name, weight in weights.items()}
    ema = EMA({name: weight + 1 for name, weight in weights.items()}, 0.9)
    ema.swap(weights)
    assert torch.equal(weights["a"], before["a"] + 1) and torch.equal(ema.average["a"], before["a"])
    ema.swap(weights)
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())


def test_without_decay_the_average_is_the_weight() -> None:
    weights = {"a": torch.randn(5)}
    ema = EMA({"a": torch.randn(5)}, 0.0)
    ema.update(weights, 0)
    assert torch.equal(ema.average["a"], weights["a"])


def test_the_learning_rate_warms_up_and_falls_to_its_share() -> None:
    config = OptimConfig(steps=100, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.25)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (1 + 0.25) / 2) and rates[100] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(dataclasses.replace(config, warmup_steps=0), 0) == 2.0


# --- how it is computed ----------------------------------------------------------------------------------------------


def test_adafactor_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, optimizer="adafactor", learning_rate=1e-2)
    whole = run(tmp_path / "whole", config=config)
    with pytest.raises(Stop):
        run(tmp_path / "resumed", at_step(make_task(), 9, stop), config)
    assert same(run(tmp_path / "resumed", config=config), whole)
    found = load_checkpoint(tmp_path / "whole")
    assert found is not None
    kept = sum(t.numel() for entry in found["optimizer"].values() for t in entry.values())
    assert kept < 0.5 * sum(p.numel() for p in make_task().network.parameters())  # AdamW: 2


def test_half_precision_keeps_weights_whole_and_the_loss_near(
    uninterrupted: Outcome, tmp_path: Path
) -> None:
    task = make_task()
    result = train(task, tmp_path, launch=LaunchConfig(precision="bf16"))
    assert all(value.dtype == torch.float32 for value in task.network.state_dict().values())
    losses = [[loss for _, loss in one.losses] for one in (result, uninterrupted[1])]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize(
    "device, dtype, capabilities, warns",
    [
        ("cpu", torch.bfloat16, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ("cpu", torch.float32, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ("cpu", torch.bfloat16, {"avx2": True, "avx512_bf16": True, "amx_bf16": False}, False),
        ("cpu", torch.bfloat16, {"avx2": True, "avx512_bf16": False, "amx_bf16": True}, False),
        ("cuda", torch.bfloat16, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
    ],
)
def test_bf16_on_a_cpu_where_it_is_slow_is_warned_of(
    device: str, dtype: torch.dtype, capabilities: dict[str, bool], warns: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    warn_of_slow_bf16(torch.device(device), dtype)
    assert ("longer than in fp32; set launch.precision to fp32" in caplog.text) == warns


def test_checkpointing_of_activations_changes_nothing(tmp_path: Path) -> None:
    outcomes = []
    for checkpointing in (False, True):
        task = make_task()
        train(
            task,
            tmp_path / str(checkpointing),
            launch=LaunchConfig(gradient_checkpointing=checkpointing),
        )
        outcomes.append({name: value.clone() for name, value in task.network.state_dict().items()})
    for name, value in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_on_a_gpu_resumes(precision: str, tmp_path: Path) -> None:
    launch = LaunchConfig(precision=precision)
    whole = train(make_task(), tmp_path / "whole", launch=launch)
    with pytest.raises(Stop):
        train(at_step(make_task(), 9, stop), tmp_path / "resumed", launch=launch)
    resumed = train(make_task(), tmp_path / "resumed", launch=launch)
    assert resumed.resumed_from == 8
    assert [loss for _, loss in resumed.losses] == pytest.approx(
        [loss for _, loss in whole.losses], rel=1e-2
    )


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 2; allowed: a multiple of 4"):
        train(make_task(), tmp_path, launch=LaunchConfig(gradient_accumulation=4))
