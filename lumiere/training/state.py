"""Holds everything that changes during a training, in one object that a checkpoint stores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.training.divergence import LossWatch
from lumiere.training.ema import EMA
from lumiere.training.optimizer import make_optimizer
from lumiere.training.parallel import Parallel

Curve = list[tuple[int, float]]  # (step, loss)


@dataclass
class TrainingResult:
    """The outcome of a training.

    Attributes:
        steps: the total number of steps.
        resumed_from: the step of the checkpoint from which the run resumed; 0 without one.
        seconds: time spent, in earlier runs too.
        losses: (step, mean loss since the previous entry).
        validation: (step, held-out loss of the averaged weights).
    """

    steps: int
    resumed_from: int
    seconds: float
    losses: Curve = field(default_factory=list)
    validation: Curve = field(default_factory=list)

    def summary(self) -> str:
        """Describe the last loss and the number of steps in words."""
        if self.validation:
            return f"held-out loss {self.validation[-1][1]:.4f} at step {self.steps}"
        if self.losses:
            return f"loss {self.losses[-1][1]:.4f} at step {self.steps}"
        return f"step {self.steps}"


class TrainingState:
    """The network as the processes train it, and everything else that changes during training.

    `state_dict` and `load_state_dict` are inverses to the bit: a training that is stored and loaded
    continues as if it had never stopped.

    Attributes:
        step: the number of finished steps.
        network: the network, wrapped or sharded where several processes train it.
        parameters: the trained parameters, by their names in the plain network.
        optimizer: torch's own; `stepper` wraps it where the loss is scaled (fp16).
        ema: the averaged weights.
        watch: detects when the loss blows up.
        open_losses: the losses since the last entry in `result.losses`.
        result: losses by step and time spent.
    """

    def __init__(self, network: nn.Module, config: OptimConfig, parallel: Parallel) -> None:
        """Prepare a network for training: move it to the training's device and wrap it there.

        Args:
            network: the network to train. Parameters without `requires_grad` stay unchanged.
            config: the loop's settings.
            parallel: communicates with the other processes.

        Raises:
            ParamsError: the optimizer cannot train a sharded network.
        """
        parallel.check_optimizer(config.optimizer)
        self.parallel, self._plain_network = parallel, network
        self.network = parallel.prepare(network)
        self.parameters = trained_parameters(parallel.unwrap(self.network))
        self.optimizer = make_optimizer(config, list(self.parameters.values()))
        self.stepper = parallel.prepare_optimizer(self.optimizer)
        self.ema = EMA(self.parameters, config.ema_decay)
        self.watch = LossWatch(config, scales_loss=parallel.scales_loss)
        self.result = TrainingResult(steps=config.steps, resumed_from=0, seconds=0.0)
        self.step = 0
        self.open_losses: list[float] = []
        self._started, self._seconds_before = time.monotonic(), 0.0

    def is_due(self, every: int) -> bool:
        """Return whether `step` is the last one or a multiple of `every` (0: never)."""
        return every > 0 and (self.step % every == 0 or self.step == self.result.steps)

    def update(self, loss: float) -> None:
        """Update the weights from their gradients, then the averages from the weights."""
        self.stepper.step()
        self.ema.update(self.parameters, self.step)
        self.open_losses.append(loss)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return nested tensors and JSON values; all processes must call it.

        The first process gets whole tensors on the CPU; the others get no tensors.
        """
        optimizer = {
            str(index): self._whole(entry)
            for index, entry in self.optimizer.state_dict()["state"].items()
        }
        return {
            "step": self.step,
            "weights": self._whole(self.parameters),
            "ema": self._whole(self.ema.average),
            "optimizer": optimizer,
            "scaler": self.parallel.scaler_state(),
            "watch": self.watch.state_dict(),
            "open_losses": self.open_losses,
            "losses": self.result.losses,
            "validation": self.result.validation,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a copy of what `state_dict` returned; all processes must call it."""
        place = self.parallel.place
        for name, parameter in self.parameters.items():
            parameter.copy_(place(state["weights"][name], parameter))
            self.ema.average[name].copy_(place(state["ema"][name], parameter))
        self._load_optimizer(state["optimizer"])
        self.parallel.load_scaler_state(state["scaler"])
        self.watch.load_state_dict(state["watch"])
        self.step = self.result.resumed_from = state["step"]
        self.open_losses = list(state["open_losses"])
        self.result.losses = [(step, loss) for step, loss in state["losses"]]
        self.result.validation = [(step, loss) for step, loss in state["validation"]]
        self._started, self._seconds_before = time.monotonic(), state["seconds"]

    @property
    def seconds(self) -> float:
        """Time spent training, in earlier runs too."""
        return self._seconds_before + time.monotonic() - self._started

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Yield the unwrapped network for evaluation, with averaged weights and without gradients."""
        self.ema.swap(self.parameters)
        self.network.eval()
        try:
            with torch.no_grad():
                yield self.parallel.unwrap(self.network)
        finally:
            self.network.train()
            self.ema.swap(self.parameters)

    def finish(self) -> TrainingResult:
        """Copy the averages into the plain network, in every process; call it last."""
        self.ema.swap(self.parameters)
        self.parallel.restore(self._plain_network, self.network)
        self.result.seconds = self.seconds
        return self.result

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather whole tensors on the CPU of the first process; return nothing in the others.

        Tensors are gathered one at a time, so that the device needs room for only one.
        """
        whole: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            gathered = self.parallel.whole(tensor.detach())
            if self.parallel.is_main:
                whole[name] = gathered.cpu()
        return whole

    def _load_optimizer(self, entries: Mapping[str, Mapping[str, Tensor]]) -> None:
        parameters = list(self.parameters.values())
        state: dict[int, dict[str, Tensor]] = {}
        for index, entry in entries.items():
            parameter = parameters[int(index)]
            state[int(index)] = {
                key: self.parallel.place(value, parameter) for key, value in entry.items()
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that need a gradient, by name.

    In an inflated network these are the temporal parameters. In an image network these are all
    parameters, or only the adapters' if it has adapters.
    """
    return {name: p for name, p in network.named_parameters() if p.requires_grad}
