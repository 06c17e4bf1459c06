"""The training loop: one, visible, for every network that is trained here.

A task says what is trained and what its loss is at a step; the loop does the rest: learning rate, clipping,
averaging, logging, validation at fixed noise, checkpoints, resumption, and stopping when the loss blows up.
Every random draw comes from the seed and an example's position in the stream, so a run killed anywhere resumes to the
same bits, and several processes learn the same as one.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from lumiere.config import LaunchConfig, OptimConfig, RuntimeConfig
from lumiere.training.checkpoint import (
    last_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from lumiere.training.divergence import LossWatch, TrainingDiverged
from lumiere.training.ema import EMA
from lumiere.training.loader import Positions, make_loader, to_device
from lumiere.training.parallel import Parallel
from lumiere.training.seeding import generator_for
from lumiere.training.throughput import StepClock, memory_bytes, peak_flops

Log = Callable[[dict[str, float], int], None]
Batch = dict[str, Tensor]
DEFAULT_LAUNCH, DEFAULT_RUNTIME = LaunchConfig(), RuntimeConfig()
RISING = "rising"  # folder beside the good checkpoints, which a state that may be of a blow-up does not replace

logger = logging.getLogger(__name__)


class Task(Protocol):
    """What the loop trains."""

    name: str
    network: Any

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer sees, by name."""

    def example(self, position: int) -> Batch:
        """The training example at a position of the stream, on the CPU, all randomness drawn from the position."""

    def held_out(self) -> int:
        """How many validation examples there are."""

    def validation_example(self, i: int) -> Batch:
        """One of them, with fixed noise and timestep."""

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        """Each example's loss (b,); `network` is the task's own as the processes of a training share it."""

    def flops(self, batch: Batch) -> int:
        """Of the forward and backward pass of a batch on the CPU; 0 where unknown."""


class Preview(Protocol):
    """What is shown of a network in training."""

    every: int  # steps

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        """With the averaged weights in the network, which is in evaluation mode; all processes call it."""


class Interrupted(SystemExit):
    """SIGTERM: the state was saved, the same command goes on."""


@dataclass
class TrainingResult:
    """What a training did."""

    steps: int
    resumed_from: int
    seconds: float
    losses: list[tuple[int, float]] = field(
        default_factory=list
    )  # (step, mean loss since the last entry)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def summary(self) -> str:
        """Steps and the last loss, in words."""
        what, entries = (
            ("held-out loss", self.validation) if self.validation else ("loss", self.losses)
        )
        return (
            f"{what} {entries[-1][1]:.4f} after {self.steps} steps"
            if entries
            else f"{self.steps} steps"
        )


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to learning_rate * final_learning_rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (
        config.final_learning_rate + (1 - config.final_learning_rate) * cosine
    )


def make_optimizer(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or Adafactor (Shazeer and Stern 2018), which keeps a row and a column of a weight's last two axes."""
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )


def train(
    task: Task,
    config: OptimConfig,
    scratch: Path,
    log: Log = lambda metrics, step: None,
    launch: LaunchConfig = DEFAULT_LAUNCH,
    runtime: RuntimeConfig = DEFAULT_RUNTIME,
    preview: Preview | None = None,
) -> TrainingResult:
    """Train `task`, leaving the averaged (EMA) weights in its network, in every process.

    Args:
        task: what is trained.
        config: the loop's settings.
        scratch: folder for training state, one for all processes; a checkpoint found there is resumed.
        log: called with metrics and the step they belong to, by the first process.
        launch: how it is computed.
        runtime: workers, memory and patience.
        preview: called every so many steps, after the state is saved: a resumed run leaves it out or makes it again.
            Where it fails there is a warning, and the training goes on.

    Raises:
        TrainingDiverged: the loss is NaN, or above `divergence_factor` times its best, or fp16 finds no finite
            gradient; the message says where.
        DiskError: the state cannot be written (a full disk); in every process.
        Interrupted: SIGTERM came; the state was saved first.
        ValueError: the processes do not divide a batch evenly.
    """
    # --- what is trained, and how -------------------------------------------------------------------------------
    parallel = Parallel(launch, runtime.timeout_s)
    parts = launch.gradient_accumulation
    found = _newest_checkpoint(scratch)
    steps = range(found[1]["step"] if found else 0, config.steps)
    positions = Positions(steps, config.batch_size, parts, parallel.rank, parallel.world_size)
    flops = (
        task.flops(default_collate([task.example(i) for i in next(iter(positions))]))
        if steps
        else 0
    )
    network = parallel.prepare(task.network)
    parameters = task.trained_parameters()
    plain_optimizer = make_optimizer(config, list(parameters.values()))
    optimizer = parallel.prepare_optimizer(plain_optimizer)
    ema = EMA(dict(parameters), config.ema_decay)
    result = TrainingResult(steps=config.steps, resumed_from=0, seconds=0.0)
    watch = LossWatch(config, scales_loss=launch.precision == "fp16")
    window: list[float] = []  # losses since the last entry of the log

    # --- resume ---------------------------------------------------------------------------------------------------
    if found is not None:
        tensors, state = found
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(parallel.like(tensors[f"weights/{name}"], parameter))
                ema.average[name].copy_(parallel.like(tensors[f"ema/{name}"], parameter))
        restore_optimizer(plain_optimizer, tensors, parallel.like)
        parallel.restore_scaler(state["scaler"])
        watch.restore(state["watch"])
        result.resumed_from, window = state["step"], state["window"]
        result.seconds = state["seconds"]
        result.losses = [tuple(entry) for entry in state["losses"]]
        result.validation = [tuple(entry) for entry in state["validation"]]
        del tensors, state
        if parallel.is_main:
            print(
                f"{task.name}: going on from step {result.resumed_from} of {config.steps}",
                flush=True,
            )
    found = None
    parallel.wait()  # until all have read it

    def save(step: int) -> None:
        tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in parameters.items()}
        tensors |= {f"ema/{name}": a for name, a in ema.average.items()} | optimizer_tensors(
            plain_optimizer
        )
        whole = {}
        for (
            name,
            tensor,
        ) in tensors.items():  # one at a time: that much more memory is needed on the device
            gathered = parallel.whole(tensor)
            if parallel.is_main:
                whole[name] = gathered.cpu()
        state = {
            "watch": watch.state(), "window": window, "losses": result.losses, "validation": result.validation,
            "seconds": seconds_before + time.monotonic() - started, "scaler": parallel.scaler_state(),
        }  # fmt: skip

        def write() -> None:
            if watch.is_rising:
                save_checkpoint(scratch / RISING, step, whole, state)
            else:
                save_checkpoint(scratch, step, whole, state)
                shutil.rmtree(scratch / RISING, ignore_errors=True)

        parallel.first(write)

    def validate(step: int) -> None:
        if not task.held_out():
            return
        with _averaged(ema, parameters, network), torch.no_grad():
            loss = _validation_loss(task, network, parallel, positions.size)
        result.validation.append((step, loss))
        if parallel.is_main:
            log({"validation_loss": loss}, step)

    # --- steps ------------------------------------------------------------------------------------------------------
    seconds_before, started = result.seconds, time.monotonic()
    batches = iter(make_loader(task, positions, runtime, parallel.device))
    peak = peak_flops(parallel.device, parallel.dtype) if flops else 0.0
    clock = StepClock(
        flops * parts * parallel.world_size, config.batch_size, peak * parallel.world_size
    )
    bar = tqdm(
        total=config.steps, initial=result.resumed_from, desc=task.name, unit="step", mininterval=1.0,
        disable=not parallel.is_main,
    )  # fmt: skip
    with bar as progress, _TerminationFlag() as terminated:
        clock.start(result.resumed_from)
        for step in steps:
            rate = learning_rate(config, step)
            for group in plain_optimizer.param_groups:
                group["lr"] = rate
            plain_optimizer.zero_grad(set_to_none=True)
            torch.manual_seed(
                generator_for(task.name, config.seed, parallel.rank, step).initial_seed()
            )  # for dropout
            local = 0.0  # this process' share of the loss
            for part in range(parts):
                with clock.waiting():
                    batch = to_device(next(batches), parallel.device)
                with parallel.accumulate(network, last=part == parts - 1):
                    with parallel.autocast():
                        loss = task.losses(network, batch).mean() / parts
                    parallel.backward(loss)
                local += float(loss.detach())
            grad_norm = parallel.clip_grad_norm(list(parameters.values()), config.max_grad_norm)
            value, signals = parallel.sum(local / parallel.world_size, float(bool(terminated)))
            trouble = watch.add(value, grad_norm)
            if trouble:
                raise TrainingDiverged(
                    f"{task.name}: {trouble} at step {step}, learning rate {rate:.2e}; {_cure(scratch, launch)}"
                )
            optimizer.step()
            ema.update(dict(parameters), step)

            window.append(value)
            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                mean = sum(window) / len(window)
                result.losses.append((done, mean))
                metrics = {
                    "loss": mean,
                    "grad_norm": grad_norm,
                    "learning_rate": rate,
                } | clock.rates(done)
                if parallel.is_main:
                    log(metrics | {"memory_gb": memory_bytes(parallel.device) / 1e9}, done)
                progress.set_postfix(loss=f"{mean:.4f}", refresh=False)
                window = []
            if done % config.validate_every == 0 or last:
                with clock.paused():
                    validate(done)
            if signals or done % config.checkpoint_every == 0 or last:
                with clock.paused():
                    save(done)
            progress.update()
            if signals:
                raise Interrupted(143)
            if preview is not None and preview.every and (done % preview.every == 0 or last):
                with clock.paused(), _averaged(ema, parameters, network), torch.no_grad():
                    _show(preview, network, parallel, done)
        if watch.is_rising and parallel.is_main:
            logger.warning(
                "%s: the smoothed loss ends at %.4f, its best was %.4f; look at its curve before the weights are used",
                task.name, watch.smoothed, watch.best,
            )  # fmt: skip
        if parallel.sum(float(bool(terminated)))[0]:  # in the last step, after it was asked
            raise Interrupted(143)

    # --- what is kept: the average ------------------------------------------------------------------------------------
    ema.swap(dict(parameters))
    parallel.restore(task.network)
    result.seconds = seconds_before + time.monotonic() - started
    return result


def _newest_checkpoint(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The good ones' newest that can be read, or that of a rise where it is newer."""
    folders = sorted(
        (scratch, scratch / RISING), key=lambda folder: getattr(last_checkpoint(folder), "name", "")
    )
    return load_checkpoint(folders[1]) or load_checkpoint(folders[0])


@contextmanager
def _averaged(ema: EMA, parameters: dict[str, nn.Parameter], network: nn.Module) -> Iterator[None]:
    """With the averages as the network's weights, in evaluation mode."""
    ema.swap(dict(parameters))
    network.eval()
    try:
        yield
    finally:
        network.train()
        ema.swap(dict(parameters))


def _validation_loss(task: Task, network: nn.Module, parallel: Parallel, batch_size: int) -> float:
    """Mean loss over the held-out examples, spread over the processes; each does as many batches as the others.

    Batches are of the training's size: memory holds those.
    """
    total, rounds = 0.0, math.ceil(task.held_out() / (batch_size * parallel.world_size))
    for i in range(rounds):
        first = (i * parallel.world_size + parallel.rank) * batch_size
        chosen = range(first, first + batch_size)
        examples = [task.validation_example(min(k, task.held_out() - 1)) for k in chosen]
        counts = torch.tensor([float(k < task.held_out()) for k in chosen])
        with parallel.autocast():
            losses = task.losses(network, to_device(default_collate(examples), parallel.device))
        total += float((losses.float().cpu() * counts).sum())
    return parallel.sum(total)[0] / task.held_out()


def _show(preview: Preview, network: nn.Module, parallel: Parallel, step: int) -> None:
    """A preview; nothing is learned from it, so whatever goes wrong, memory among it, costs a warning."""
    try:
        preview(network, parallel, step)
    except Exception as error:
        if parallel.is_sharded:  # the others wait for this process in the middle of it
            raise
        logger.warning(
            "no preview of step %d; going on without: %s: %s", step, type(error).__name__, error
        )


def _cure(scratch: Path, launch: LaunchConfig) -> str:
    """What can be done; other params are another training, and nothing of this one's state is used again."""
    precision = ", or set launch.precision to bf16 or fp32" if launch.precision == "fp16" else ""
    kept = last_checkpoint(scratch)
    kept_here = (
        f"; the last good state stays in {kept}, until other trainings have left theirs"
        if kept
        else ""
    )
    return (
        f"lower learning_rate or max_grad_norm{precision}, which starts again at step 0{kept_here}"
    )


class _TerminationFlag:
    """True once SIGTERM came; the handler is only set in a main thread, where Python allows it."""

    def __enter__(self) -> _TerminationFlag:
        self._set = False
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, *_: object) -> None:
        self._set = True

    def __bool__(self) -> bool:
        return self._set
