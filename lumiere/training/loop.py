"""The training loop: one, visible, for every network that is trained here.

A task says what is trained and what its loss is at a step; the loop does the rest: learning rate, clipping,
averaging, logging, validation at fixed noise, checkpoints, resumption, and stopping when the loss blows up.
Every random draw comes from the seed and an example's position in the stream, so a run killed anywhere resumes to the
same bits, and several processes learn the same as one.
"""

from __future__ import annotations

import math
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

from lumiere.config import ConfigError, LaunchConfig, OptimConfig, RuntimeConfig
from lumiere.training.checkpoint import (
    last_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from lumiere.training.ema import EMA
from lumiere.training.loader import Positions, make_loader, to_device
from lumiere.training.parallel import Parallel
from lumiere.training.seeding import generator_for
from lumiere.training.throughput import StepClock, memory_bytes, peak_flops

Log = Callable[[dict[str, float], int], None]
Batch = dict[str, Tensor]
DEFAULT_LAUNCH, DEFAULT_RUNTIME = LaunchConfig(), RuntimeConfig()


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
        """With the averaged weights in the network; all processes call it."""


class TrainingDiverged(ConfigError):
    """The loss became NaN or blew up, which other params mend; the last good checkpoint is kept."""


class Interrupted(SystemExit):
    """SIGTERM: the state was saved, the same command goes on."""


@dataclass
class TrainingResult:
    """What a training did."""

    steps: int
    resumed_from: int
    seconds: float
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, mean loss since the last entry)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def summary(self) -> str:
        """Steps and the last loss, in words."""
        what, entries = ("held-out loss", self.validation) if self.validation else ("loss", self.losses)
        return f"{what} {entries[-1][1]:.4f} after {self.steps} steps" if entries else f"{self.steps} steps"


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, then a cosine from learning_rate to learning_rate * final_learning_rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


def make_optimizer(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or Adafactor (Shazeer and Stern 2018), which keeps a row and a column of a weight's last two axes."""
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99))


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
        preview: called every so many steps.

    Raises:
        TrainingDiverged: the loss is NaN, or above `divergence_factor` times its best; the message says where.
        Interrupted: SIGTERM came; the state was saved first.
        ValueError: the processes do not divide a batch evenly.
    """
    # --- what is trained, and how -------------------------------------------------------------------------------
    parallel = Parallel(launch, runtime.timeout_s)
    parts = launch.gradient_accumulation
    found = load_checkpoint(scratch)
    steps = range(found[1]["step"] if found else 0, config.steps)
    positions = Positions(steps, config.batch_size, parts, parallel.rank, parallel.world_size)
    flops = task.flops(default_collate([task.example(i) for i in next(iter(positions))])) if steps else 0
    network = parallel.prepare(task.network)
    parameters = task.trained_parameters()
    plain_optimizer = make_optimizer(config, list(parameters.values()))
    optimizer = parallel.prepare_optimizer(plain_optimizer)
    ema = EMA(dict(parameters), config.ema_decay)
    result = TrainingResult(steps=config.steps, resumed_from=0, seconds=0.0)
    smoothed = best = None
    settling = config.warmup_steps + min(50, (config.steps - config.warmup_steps) // 4)  # steps of a noisy mean
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
        result.resumed_from, smoothed, best = state["step"], state["smoothed"], state["best"]
        window = state["window"]
        result.seconds = state["seconds"]
        result.losses = [tuple(entry) for entry in state["losses"]]
        result.validation = [tuple(entry) for entry in state["validation"]]
        del tensors, state
        if parallel.is_main:
            print(f"{task.name}: going on from step {result.resumed_from} of {config.steps}", flush=True)
    found = None
    parallel.wait()  # until all have read it

    def save(step: int) -> None:
        tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in parameters.items()}
        tensors |= {f"ema/{name}": a for name, a in ema.average.items()} | optimizer_tensors(plain_optimizer)
        whole = {}
        for name, tensor in tensors.items():  # one at a time: that much more memory is needed on the device
            gathered = parallel.whole(tensor)
            if parallel.is_main:
                whole[name] = gathered.cpu()
        state = {"smoothed": smoothed, "best": best, "window": window, "losses": result.losses}
        state |= {"validation": result.validation, "seconds": seconds_before + time.monotonic() - started}
        if parallel.is_main:
            save_checkpoint(scratch, step, whole, state | {"scaler": parallel.scaler_state()})
        parallel.wait()

    def validate(step: int) -> None:
        if not task.held_out():
            return
        with _averaged(ema, parameters), torch.no_grad():
            loss = _validation_loss(task, network, parallel, positions.size)
        result.validation.append((step, loss))
        if parallel.is_main:
            log({"validation_loss": loss}, step)

    # --- steps ------------------------------------------------------------------------------------------------------
    seconds_before, started = result.seconds, time.monotonic()
    batches = iter(make_loader(task, positions, runtime, parallel.device))
    peak = peak_flops(parallel.device, parallel.dtype) if flops else 0.0
    clock = StepClock(flops * parts * parallel.world_size, config.batch_size, peak * parallel.world_size)
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
            torch.manual_seed(generator_for(task.name, config.seed, parallel.rank, step).initial_seed())  # for dropout
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
            if not math.isfinite(value) or not (math.isfinite(grad_norm) or launch.precision == "fp16"):
                raise TrainingDiverged(
                    f"{task.name}: loss {value}, gradient norm {grad_norm} at step {step}, "
                    f"learning rate {rate:.2e}; {_cure(scratch)}"
                )
            optimizer.step()
            ema.update(dict(parameters), step)

            smoothed = value if smoothed is None else 0.98 * smoothed + 0.02 * value
            if step >= config.warmup_steps:
                best = smoothed if best is None else min(best, smoothed)
            # A blow-up shows late: half-way there (on a log scale) nothing is saved or kept any more.
            rising = best is not None and smoothed > math.sqrt(config.divergence_factor) * best
            limit = math.sqrt(config.divergence_factor) if step + 1 == config.steps else config.divergence_factor
            if best is not None and step > settling and smoothed > limit * best:
                raise TrainingDiverged(
                    f"{task.name}: the smoothed loss rose from {best:.4f} to {smoothed:.4f} by step {step}, "
                    f"learning rate {rate:.2e}; {_cure(scratch)}"
                )
            window.append(value)
            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                mean = sum(window) / len(window)
                result.losses.append((done, mean))
                metrics = {"loss": mean, "grad_norm": grad_norm, "learning_rate": rate} | clock.rates(done)
                if parallel.is_main:
                    log(metrics | {"memory_gb": memory_bytes(parallel.device) / 1e9}, done)
                progress.set_postfix(loss=f"{mean:.4f}", refresh=False)
                window = []
            if done % config.validate_every == 0 or last:
                with clock.paused():
                    validate(done)
            if preview is not None and preview.every and (done % preview.every == 0 or last):
                with clock.paused(), _averaged(ema, parameters), torch.no_grad():
                    preview(network, parallel, done)
            if (signals or done % config.checkpoint_every == 0 or last) and not rising:
                with clock.paused():
                    save(done)
            progress.update()
            if signals:
                raise Interrupted(143)
        if parallel.sum(float(bool(terminated)))[0]:  # in the last step, after it was asked
            raise Interrupted(143)

    # --- what is kept: the average ------------------------------------------------------------------------------------
    ema.swap(dict(parameters))
    parallel.restore(task.network)
    result.seconds = seconds_before + time.monotonic() - started
    return result


@contextmanager
def _averaged(ema: EMA, parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """With the averages as the network's weights."""
    ema.swap(dict(parameters))
    try:
        yield
    finally:
        ema.swap(dict(parameters))


def _validation_loss(task: Task, network: nn.Module, parallel: Parallel, batch_size: int) -> float:
    """Mean loss over the held-out examples, spread over the processes; each does as many batches as the others."""
    network.eval()
    batch_size *= 4  # without gradients there is room for more
    total, rounds = 0.0, math.ceil(task.held_out() / (batch_size * parallel.world_size))
    for i in range(rounds):
        first = (i * parallel.world_size + parallel.rank) * batch_size
        chosen = range(first, first + batch_size)
        examples = [task.validation_example(min(k, task.held_out() - 1)) for k in chosen]
        counts = torch.tensor([float(k < task.held_out()) for k in chosen])
        with parallel.autocast():
            losses = task.losses(network, to_device(default_collate(examples), parallel.device))
        total += float((losses.float().cpu() * counts).sum())
    network.train()
    return parallel.sum(total)[0] / task.held_out()


def _cure(scratch: Path) -> str:
    kept = last_checkpoint(scratch)
    kept_here = f"; the last good state is kept in {kept}" if kept else ""
    return f"lower learning_rate or max_grad_norm, which starts anew{kept_here}"


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
