"""The state of a training comes back to the bit, through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lumiere.config import LaunchConfig, OptimConfig
from lumiere.errors import ParamsError
from lumiere.training.checkpoint import load_checkpoint, save_checkpoint
from lumiere.training.parallel import Parallel
from lumiere.training.state import TrainingState

NAMES = {"seen", "unseen", "matrix"}


class Network(nn.Module):
    """Three trained parameters, one of which never gets a gradient, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.unseen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        self.matrix = nn.Parameter(torch.ones(4, 3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def make_state(optimizer: str) -> TrainingState:
    config = OptimConfig(steps=9, warmup_steps=0, learning_rate=0.1, optimizer=optimizer)
    return TrainingState(Network(), config, Parallel(LaunchConfig()))


def step(state: TrainingState) -> None:
    state.optimizer.zero_grad()
    seen, matrix = state.parameters["seen"], state.parameters["matrix"]
    loss = seen.square().sum() + (matrix * torch.arange(12.0).view(4, 3)).square().sum()
    loss.backward()
    assert not state.watch.add(float(loss.detach()), 1.0)
    state.update(float(loss.detach()))


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_state_goes_on_to_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    whole, resumed = make_state(optimizer), make_state(optimizer)
    for _ in range(3):
        step(whole)
    whole.result.losses, whole.result.validation = [(2, 0.5)], [(3, 0.1 + 0.2)]
    save_checkpoint(tmp_path, whole.state_dict())
    stored = load_checkpoint(tmp_path)
    assert stored is not None and stored["weights"].keys() == stored["ema"].keys() == NAMES
    assert set(stored["optimizer"]) == {"0", "2"}  # the one without a gradient has no state
    resumed.load_state_dict(stored)
    assert resumed.step == resumed.result.resumed_from == 3
    before = stored["optimizer"]["0"]["step"].clone()
    for state in (whole, resumed):
        step(state)
        state.result.resumed_from = 0
    assert torch.equal(stored["optimizer"]["0"]["step"], before)  # nothing loaded is written to
    one, other = whole.state_dict(), resumed.state_dict()
    assert other.pop("seconds") > 0 and one.pop("seconds") > 0
    for name in ("weights", "ema", "optimizer"):
        torch.testing.assert_close(one.pop(name), other.pop(name), rtol=0, atol=0)
    assert one == other


def test_averages_stand_in_for_the_weights_for_a_while_and_stay_in_the_end() -> None:
    state = make_state("adamw")
    for _ in range(3):
        step(state)
    weight, average = state.parameters["seen"].detach().clone(), state.ema.average["seen"].clone()
    assert not torch.equal(weight, average)
    with pytest.raises(RuntimeError, match="a preview"), state.averaged() as network:
        assert not network.training and torch.equal(network.get_parameter("seen"), average)
        raise RuntimeError("a preview")
    assert state.network.training and torch.equal(state.parameters["seen"], weight)
    assert state.finish().steps == 9
    assert torch.equal(state.parameters["seen"], average)


def test_something_is_due_every_so_many_steps_and_at_the_end() -> None:
    state = make_state("adamw")
    due: dict[int, list[int]] = {every: [] for every in (0, 4, 20)}
    for state.step in range(1, 10):
        for every, steps in due.items():
            steps += [state.step] * state.is_due(every)
    assert due == {0: [], 4: [4, 8, 9], 20: [9]}


def test_adafactor_does_not_train_sharded_weights() -> None:
    parallel = Parallel(LaunchConfig())
    parallel.is_sharded = True  # as with several processes
    with pytest.raises(
        ParamsError, match=r"'adafactor'; allowed with launch\.strategy fsdp: adamw"
    ):
        TrainingState(Network(), OptimConfig(optimizer="adafactor"), parallel)
