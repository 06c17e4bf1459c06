"""The one training loop, which trains every network of this project.

A task defines the network to train and its loss. The loop adds the rest: learning rate, clipping,
averaging, logging, validation at fixed noise, checkpoints, resumption, and a stop when the loss
blows up. Every random draw comes from the seed and an example's position in the stream, so a run
that is killed at any point resumes to the same bits, and several processes train the same network
as one.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from lumiere.config import LaunchConfig, OptimConfig, RuntimeConfig
from lumiere.errors import TrainingDiverged
from lumiere.training.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from lumiere.training.loader import Positions, make_loader, to_device
from lumiere.training.optimizer import learning_rate
from lumiere.training.parallel import Parallel
from lumiere.training.seeding import generator_for
from lumiere.training.state import TrainingResult, TrainingState
from lumiere.training.throughput import (
    Shapes,
    StepClock,
    memory_bytes,
    peak_flops,
    shapes_of,
)

Log = Callable[[dict[str, float], int], None]
Batch = dict[str, Tensor]
DEFAULT_LAUNCH, DEFAULT_RUNTIME = LaunchConfig(), RuntimeConfig()
# Folder for states saved while the loss rises; good checkpoints stay outside it.
RISING = "rising"

logger = logging.getLogger(__name__)


class Task(Protocol):
    """The interface of a training task: its network, examples and losses."""

    name: str  # names the training, and takes part in its random seeds

    @property
    def config(self) -> OptimConfig:
        """The loop's settings."""

    @property
    def network(self) -> nn.Module:
        """The network; its parameters that need a gradient are trained."""

    def example(self, position: int) -> Batch:
        """Return the training example at a position of the stream, which seeds its randomness."""

    def held_out(self) -> int:
        """Return the number of validation examples."""

    def validation_example(self, i: int) -> Batch:
        """Return the i-th validation example, with the same noise and timestep each time."""

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return each example's loss (b,); `network` is the task's own, perhaps wrapped or sharded."""

    def batches_of_each_shape(self, batch_size: int) -> Iterable[Batch]:
        """Return a batch for each of the shapes that the training's batches of that size have."""

    def flops(self, batch: Batch) -> int:
        """Count the floating-point operations of a batch, forward and backward; 0 if unknown."""


class Preview(Protocol):
    """Shows samples of a network in training."""

    every: int  # steps; 0 for never

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        """Show a network in evaluation mode with averaged weights. All processes must call it."""


class Interrupted(SystemExit):
    """Raised after SIGTERM, once the state is saved; run the same command again to resume."""


@dataclass
class Update:
    """The outcome of a training step.

    Attributes:
        loss: the mean over the batch, over all processes.
        grad_norm: the gradients' norm before clipping.
        learning_rate: the learning rate of the step.
        trouble: why the training must end, as text. If it is set, the step left the weights
            unchanged.
        terminated: whether one of the processes received SIGTERM.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    trouble: str
    terminated: bool


def train(
    task: Task,
    scratch: Path,
    log: Log = lambda metrics, step: None,
    launch: LaunchConfig = DEFAULT_LAUNCH,
    runtime: RuntimeConfig = DEFAULT_RUNTIME,
    preview: Preview | None = None,
) -> TrainingResult:
    """Train `task`, and leave the averaged (EMA) weights in its network, in every process.

    Args:
        task: the network, examples and losses, with the loop's settings.
        scratch: folder for training state, shared by all processes; training resumes from a
            checkpoint there.
        log: the first process calls it with metrics and the step they belong to.
        launch: processes, precision and how the network is sharded or compiled.
        runtime: workers, memory and patience.
        preview: called every `preview.every` steps, after the state is saved; so a resumed run may
            skip or repeat one. If it fails, the training warns and continues.

    Raises:
        TrainingDiverged: the loss is NaN, or above `divergence_factor` times its best, or fp16
            finds no finite gradient; the message says where.
        ParamsError: the processes do not divide a batch evenly, or the optimizer cannot train a
            sharded network.
        DiskError: the state cannot be written (a full disk); raised in every process.
        Interrupted: a process received SIGTERM; the state was saved first.
    """
    # --- set-up ------------------------------------------------------------------------------------
    config = task.config
    parallel = Parallel(launch, runtime.timeout_s)
    checkpoint = _newest_checkpoint(scratch)
    steps = range(checkpoint["step"] if checkpoint else 0, config.steps)
    positions = Positions(
        steps,
        config.batch_size,
        launch.gradient_accumulation,
        parallel.rank,
        parallel.world_size,
    )
    flops = _flops_by_shape(task, positions)  # before the network is wrapped or sharded
    state = TrainingState(task.network, config, parallel)
    if checkpoint is not None:
        state.load_state_dict(checkpoint)
        if parallel.is_main:
            print(f"{task.name}: resuming at step {state.step} of {config.steps}", flush=True)
    checkpoint = None  # its tensors were copied; free the memory for the steps
    parallel.wait()  # until all processes have read it
    batches = iter(make_loader(task, positions, runtime, parallel.device))
    clock = _make_clock(config, parallel, flops)
    bar = tqdm(
        total=config.steps, initial=state.step, desc=task.name, unit="step", mininterval=1.0,
        disable=not parallel.is_main,
    )  # fmt: skip

    # --- steps -----------------------------------------------------------------------------------
    with bar, _TerminationFlag() as terminated:
        clock.start(state.step)
        for step in steps:
            update = train_step(task, state, batches, clock, terminated)
            if update.trouble:
                raise TrainingDiverged(
                    f"{task.name}: {update.trouble} at step {step}, learning rate "
                    f"{update.learning_rate:.2e}; {_cure(scratch, launch)}"
                )
            if state.is_due(config.log_every):
                _log(state, update, clock, log, bar)
            if state.is_due(config.validate_every):
                with clock.paused():
                    _validate(task, state, positions.size, log)
            if update.terminated or state.is_due(config.checkpoint_every):
                with clock.paused():
                    _save(state, scratch)
            bar.update()
            if update.terminated:
                raise Interrupted(143)
            if preview is not None and state.is_due(preview.every):
                with clock.paused():
                    _show(preview, state)
        _warn_of_a_rise(task, state)
        if parallel.sum(float(bool(terminated)))[0]:  # SIGTERM came after the last step's check
            raise Interrupted(143)
    return state.finish()


def train_step(
    task: Task,
    state: TrainingState,
    batches: Iterator[Batch],
    clock: StepClock,
    terminated: _TerminationFlag,
) -> Update:
    """Update the weights from one batch; each process computes its share of the batch, in parts.

    Args:
        task: computes the losses.
        state: the training state to update.
        batches: yields this process's parts of the batch next.
        clock: counts the time spent waiting for them, and what they cost.
        terminated: whether this process received SIGTERM.
    """
    config = task.config
    parallel = state.parallel
    parts = parallel.launch.gradient_accumulation
    rate = learning_rate(config, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    seed = generator_for(task.name, config.seed, parallel.rank, state.step).initial_seed()
    torch.manual_seed(seed)  # for dropout

    own_loss = 0.0  # this process' share of the loss
    for part in range(parts):
        with clock.waiting():
            batch = to_device(next(batches), parallel.device)
        with parallel.accumulate(state.network, last=part == parts - 1):
            with parallel.autocast():
                loss = task.losses(state.network, batch).mean() / parts
            parallel.backward(loss)
        clock.computed(batch)
        own_loss += float(loss.detach())
    grad_norm = parallel.clip_grad_norm(list(state.parameters.values()), config.max_grad_norm)
    loss_of_all, signals = parallel.sum(own_loss / parallel.world_size, float(bool(terminated)))

    trouble = state.watch.add(loss_of_all, grad_norm)
    if not trouble:
        state.update(loss_of_all)
    return Update(loss_of_all, grad_norm, rate, trouble, terminated=signals > 0)


def _newest_checkpoint(scratch: Path) -> dict[str, Any] | None:
    """Load the newest readable state, whether it is good or was saved while the loss rose."""
    folders = [scratch, scratch / RISING]
    folders.sort(key=lambda folder: getattr(last_checkpoint(folder), "name", ""))
    return load_checkpoint(folders[1]) or load_checkpoint(folders[0])


def _flops_by_shape(task: Task, positions: Positions) -> dict[Shapes, int]:
    """Count what one process computes for one part of a batch, for each of the shapes that batches
    have; nothing if there are no steps.
    """
    if not len(positions):
        return {}
    flops: dict[Shapes, int] = {}
    for batch in task.batches_of_each_shape(positions.size):
        shapes = shapes_of(batch)
        if shapes not in flops:
            flops[shapes] = task.flops(batch)
    return flops


def _make_clock(config: OptimConfig, parallel: Parallel, flops: Mapping[Shapes, int]) -> StepClock:
    """Make a clock that knows the FLOPs of a part of a batch and the devices' peak FLOP/s."""
    peak = peak_flops(parallel.device, parallel.dtype) if any(flops.values()) else 0.0
    # The parts of all processes have the same shapes, because all of a batch has.
    of_all = {shapes: parallel.world_size * count for shapes, count in flops.items()}
    return StepClock(of_all, config.batch_size, peak * parallel.world_size)


# --- events -------------------------------------------------------------------------------------


def _log(state: TrainingState, update: Update, clock: StepClock, log: Log, bar: tqdm) -> None:
    """Log the rates and the mean loss since the last entry."""
    mean = sum(state.open_losses) / len(state.open_losses)
    state.open_losses = []
    state.result.losses.append((state.step, mean))
    metrics = {
        "loss": mean,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
    }
    metrics |= clock.rates(state.step)
    if state.parallel.is_main:
        metrics["memory_gb"] = memory_bytes(state.parallel.device) / 1e9
        log(metrics, state.step)
    bar.set_postfix(loss=f"{mean:.4f}", refresh=False)


def _validate(task: Task, state: TrainingState, batch_size: int, log: Log) -> None:
    """Log the averaged weights' mean loss over the held-out examples, if there are any.

    The examples are spread evenly over the processes. Batches have the training's size, because
    that size is known to fit into memory.
    """
    total = task.held_out()
    if not total:
        return
    parallel, loss_sum = state.parallel, 0.0
    with state.averaged():
        for i in range(math.ceil(total / (batch_size * parallel.world_size))):
            first = (i * parallel.world_size + parallel.rank) * batch_size
            indices = range(first, first + batch_size)
            examples = [task.validation_example(min(k, total - 1)) for k in indices]
            counts = torch.tensor([k < total for k in indices], dtype=torch.float32)
            batch = to_device(default_collate(examples), parallel.device)
            with parallel.autocast():
                losses = task.losses(state.network, batch)
            loss_sum += float((losses.float().cpu() * counts).sum())
        mean = parallel.sum(loss_sum)[0] / total
    state.result.validation.append((state.step, mean))
    if parallel.is_main:
        log({"validation_loss": mean}, state.step)


def _save(state: TrainingState, scratch: Path) -> None:
    """Write a checkpoint; while the loss rises, it goes into a folder of its own."""
    content = state.state_dict()

    def write() -> None:
        if state.watch.is_rising:
            save_checkpoint(scratch / RISING, content)
        else:
            save_checkpoint(scratch, content)
            shutil.rmtree(scratch / RISING, ignore_errors=True)

    state.parallel.first(write)


def _show(preview: Preview, state: TrainingState) -> None:
    """Call a preview. If it fails, log a warning, because the training does not depend on it.

    If the network is sharded, raise the error, because the other processes wait for this one.
    """
    with state.averaged() as network:
        try:
            preview(network, state.parallel, state.step)
        except Exception as error:
            if state.parallel.is_sharded:  # here the other processes would wait for this one
                raise
            logger.warning(
                "the preview of step %d failed; training continues without it: %s: %s",
                state.step, type(error).__name__, error,
            )  # fmt: skip


def _warn_of_a_rise(task: Task, state: TrainingState) -> None:
    """Warn if a training ends while its loss is half-way to a blow-up."""
    if state.watch.is_rising and state.parallel.is_main:
        logger.warning(
            "%s: the smoothed loss ends at %.4f, its best was %.4f; look at its curve before you "
            "use the weights",
            task.name,
            state.watch.smoothed,
            state.watch.best,
        )


def _cure(scratch: Path, launch: LaunchConfig) -> str:
    """Tell the user what to do next. Changed params start a new training, without this one's state."""
    cure = "lower learning_rate or max_grad_norm"
    if launch.precision == "fp16":
        cure += ", or set launch.precision to bf16 or fp32"
    cure += ", which starts again at step 0"
    good_state = last_checkpoint(scratch)
    if good_state:
        cure += f"; the last good state stays in {good_state} until later trainings replace it"
    return cure


class _TerminationFlag:
    """Becomes true when SIGTERM arrives. It installs its handler only in the main thread, as Python
    requires.
    """

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
