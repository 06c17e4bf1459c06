"""The training loop: one, visible, for every network that is trained here.

A task says what is trained and what its loss is at a step; the loop does the rest: learning rate, clipping,
averaging, logging, validation at fixed noise, checkpoints, resumption, and stopping when the loss blows up.
Every random draw of a step comes from (seed, step), so a run killed anywhere resumes to the same bits.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lumiere.config import ConfigError, OptimConfig
from lumiere.training.checkpoint import (
    last_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from lumiere.training.ema import EMA

Log = Callable[[dict[str, float], int], None]


class Task(Protocol):
    """What the loop trains."""

    name: str

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer sees, by name."""

    def loss(self, step: int) -> Tensor:
        """The scalar loss of one step, all randomness drawn from the step."""

    def validation_loss(self) -> float | None:
        """The loss on held-out clips at fixed noise and timesteps; None where nothing is held out."""


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


def train(task: Task, config: OptimConfig, scratch: Path, log: Log = lambda metrics, step: None) -> TrainingResult:
    """Train `task`, leaving the averaged (EMA) weights in its parameters.

    Args:
        task: what is trained.
        config: the loop's settings.
        scratch: folder for training state; a checkpoint found there is resumed.
        log: called with metrics and the step they belong to.

    Raises:
        TrainingDiverged: the loss is NaN, or above `divergence_factor` times its best; the message says where.
        Interrupted: SIGTERM came; the state was saved first.
    """
    # --- what is trained, and how -------------------------------------------------------------------------------
    parameters = task.trained_parameters()
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    ema = EMA(dict(parameters), config.ema_decay)
    result = TrainingResult(steps=config.steps, resumed_from=0, seconds=0.0)
    smoothed = best = None
    window: list[float] = []  # losses since the last entry of the log

    # --- resume ---------------------------------------------------------------------------------------------------
    found = load_checkpoint(scratch)
    if found is not None:
        tensors, state = found
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"weights/{name}"])
                ema.average[name].copy_(tensors[f"ema/{name}"])
        restore_optimizer(optimizer, tensors)
        result.resumed_from, smoothed, best = state["step"], state["smoothed"], state["best"]
        window = state["window"]
        result.seconds = state["seconds"]
        result.losses = [tuple(entry) for entry in state["losses"]]
        result.validation = [tuple(entry) for entry in state["validation"]]
        print(f"{task.name}: going on from step {result.resumed_from} of {config.steps}", flush=True)

    def save(step: int) -> None:
        tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in parameters.items()}
        tensors |= {f"ema/{name}": a for name, a in ema.average.items()} | optimizer_tensors(optimizer)
        state = {"smoothed": smoothed, "best": best, "window": window, "losses": result.losses}
        state |= {"validation": result.validation, "seconds": seconds_before + time.monotonic() - started}
        save_checkpoint(scratch, step, tensors, state)

    def validate(step: int) -> None:
        ema.swap(dict(parameters))
        with torch.no_grad():
            loss = task.validation_loss()
        ema.swap(dict(parameters))
        if loss is None:
            return
        result.validation.append((step, loss))
        log({"validation_loss": loss}, step)

    # --- steps ------------------------------------------------------------------------------------------------------
    seconds_before, started = result.seconds, time.monotonic()
    timed_from, timed_since = result.resumed_from, started
    bar = tqdm(total=config.steps, initial=result.resumed_from, desc=task.name, unit="step", mininterval=1.0)
    with bar as progress, _TerminationFlag() as terminated:
        for step in range(result.resumed_from, config.steps):
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss = task.loss(step)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.max_grad_norm, foreach=True)
            value = float(loss.detach())
            if not math.isfinite(value) or not math.isfinite(float(grad_norm)):
                raise TrainingDiverged(
                    f"{task.name}: loss {value}, gradient norm {float(grad_norm)} at step {step}, "
                    f"learning rate {rate:.2e}; {_cure(scratch)}"
                )
            optimizer.step()
            ema.update(dict(parameters), step)

            smoothed = value if smoothed is None else 0.98 * smoothed + 0.02 * value
            if step >= config.warmup_steps:
                best = smoothed if best is None else min(best, smoothed)
            if best is not None and step > config.warmup_steps + 50 and smoothed > config.divergence_factor * best:
                raise TrainingDiverged(
                    f"{task.name}: the smoothed loss rose from {best:.4f} to {smoothed:.4f} by step {step}, "
                    f"learning rate {rate:.2e}; {_cure(scratch)}"
                )
            window.append(value)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                mean = sum(window) / len(window)
                result.losses.append((done, mean))
                rate_per_s = (done - timed_from) / (time.monotonic() - timed_since)
                metrics = {"loss": mean, "grad_norm": float(grad_norm), "learning_rate": rate}
                log(metrics | {"steps_per_second": rate_per_s}, done)
                progress.set_postfix(loss=f"{mean:.4f}", refresh=False)
                window, timed_from, timed_since = [], done, time.monotonic()
            if done % config.validate_every == 0 or done == config.steps:
                validate(done)
            # A blow-up shows late: half-way there (on a log scale) nothing is saved any more.
            rising = best is not None and smoothed > math.sqrt(config.divergence_factor) * best
            if terminated or ((done % config.checkpoint_every == 0 or done == config.steps) and not rising):
                save(done)
            progress.update()
            if terminated:
                print(f"{task.name}: stopped at step {done} of {config.steps}; the same command goes on", flush=True)
                raise Interrupted(143)

    # --- what is kept: the average ------------------------------------------------------------------------------------
    ema.swap(dict(parameters))
    result.seconds = seconds_before + time.monotonic() - started
    return result


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
