"""What a step costs: counted, not computed."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from lumiere.data.clips import ClipStore
from lumiere.training.throughput import StepClock, count_flops, peak_flops, shapes_of
from tests.training.test_tasks import TASKS, training_batch


@pytest.mark.parametrize("name", TASKS)
def test_the_count_is_that_of_a_real_step(name: str, stores: tuple[ClipStore, ClipStore]) -> None:
    task = TASKS[name](stores)
    batch = training_batch(task, 0)
    counted = task.flops(batch)
    assert all(p.grad is None and p.device.type == "cpu" for p in task.network.parameters())
    # The fused kernel for CPUs is not in the counter's table.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.losses(task.network, batch).sum().backward()
    # On a CPU narrow heads are padded, which counts in a real pass alone.
    assert 0 < counted == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_recomputation_does_not_count(stores: tuple[ClipStore, ClipStore]) -> None:
    task = TASKS["base"](stores)
    batch = training_batch(task, 0)
    plain = task.flops(batch)
    task.network.enable_gradient_checkpointing()
    assert task.flops(batch) == plain and task.network.gradient_checkpointing


def test_a_linear_layer_counts_as_written_out() -> None:
    class Linear(torch.nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            output = super().forward(inputs)
            output.sample = output  # type: ignore[attr-defined]
            return output

    layer, inputs = Linear(5, 7), torch.randn(3, 5)
    # Forward and the weight's gradient.
    assert count_flops(layer, (inputs,), {}) == 2 * (2 * 3 * 5 * 7)
    with pytest.raises(RuntimeError, match="does not require grad"):
        count_flops(layer.requires_grad_(False), (inputs,), {})


def test_a_clock_leaves_out_pauses_and_tells_waiting() -> None:
    batch = {"video": torch.zeros(4, 3)}
    clock = StepClock({shapes_of(batch): 500}, clips_per_step=4, peak=1e9)
    clock.start(10)
    for _ in range(4):  # two parts in each of two steps
        clock.computed(batch)
    with clock.paused():
        time.sleep(0.5)
    with clock.waiting():
        time.sleep(0.1)
    rates = clock.rates(12)
    assert 2 / 0.4 < rates["steps_per_second"] <= 2 / 0.1
    assert (
        rates["clips_per_second"] == 4 * rates["steps_per_second"]
        and rates["data_wait_share"] > 0.2
    )
    assert rates["mfu"] == pytest.approx(rates["steps_per_second"] * 1000 / 1e9)
    assert "mfu" not in clock.rates(13)  # nothing was computed
    clock.computed(batch)
    clock.computed({"video": torch.zeros(4, 5)})  # a shape that nobody counted
    assert "mfu" not in clock.rates(14)


def test_a_peak_is_a_plausible_speed() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


def test_examples_of_a_batch_can_be_collated(stores: tuple[ClipStore, ClipStore]) -> None:
    for build in TASKS.values():
        task = build(stores)
        batch = default_collate([task.example(i) for i in range(3)])
        assert {len(value) for value in batch.values()} == {3}
