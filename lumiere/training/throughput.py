"""Measures the cost of a step: FLOPs, the device's peak, memory, and time spent waiting for data."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lumiere.training.meta_shapes import MetaShapes

aten = torch.ops.aten
Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # of a batch: its names and their shapes

# The CPU's fused attention has no formula of its own in torch 2.13; the first arguments are the shapes.
FLOP_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *args, **_: sdpa_flop_count(*args[:3]),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, **_: (
        sdpa_backward_flop_count(*args[:4])
    ),
}


def count_flops(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], backward: bool = True
) -> int:
    """Count the floating-point operations of a forward pass of a network with a `.sample` output,
    and of its backward pass.

    The count uses meta tensors, which hold no numbers, so it computes nothing and takes no memory.
    Matrix products, convolutions and attention count (a multiplication and an addition are two);
    recomputation does not.

    Args:
        network: gradients of its frozen parameters are not counted.
        args, kwargs: arguments of its forward pass.
        backward: whether to count the backward pass.
    """
    weights = {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        for name, value in [*network.named_parameters(), *network.named_buffers()]
    }
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda value: value.detach().to("meta"), (args, kwargs)
    )
    checkpointing = getattr(network, "gradient_checkpointing", False)
    if checkpointing:
        network.disable_gradient_checkpointing()  # type: ignore[operator]
    try:
        _, flops = count_step_flops(
            lambda: torch.func.functional_call(network, weights, args, kwargs).sample.sum(),
            backward,
        )
    finally:
        if checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]
    return flops


def count_step_flops(run: Callable[[], Tensor], backward: bool = True) -> tuple[int, int]:
    """Count the floating-point operations of a step while it runs, on any device.

    Args:
        run: the forward pass; with `backward` it returns a scalar.
        backward: whether to run the backward pass too.

    Returns:
        The number of operations of the forward pass, and of the whole step.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS)
    with MetaShapes(), counter:
        output = run()
        forward = counter.get_total_flops()
        if backward:
            output.backward()
    return forward, counter.get_total_flops()


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a device in a large matrix product; the best of a few tries."""
    size, tries = (8192, 10) if device.type == "cuda" else (1024, 3)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(tries):
        _wait_for(device)
        started = time.perf_counter()
        matrix @ matrix
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def memory_bytes(device: torch.device) -> int:
    """Return a GPU's peak allocation since the start; elsewhere, this process's memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shapes_of(batch: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of a batch, which decide what it costs."""
    return tuple(sorted((name, tuple(value.shape)) for name, value in batch.items()))


class StepClock:
    """Measures rates between two entries of the log."""

    def __init__(self, flops: Mapping[Shapes, int], clips_per_step: int, peak: float) -> None:
        """
        Args:
            flops: FLOPs of all processes together for a part of a batch, by the part's shapes:
                clips may have several sizes. Unknown shapes, and 0, stand for unknown FLOPs.
            clips_per_step: the batch size.
            peak: FLOP/s of all processes' devices together.
        """
        self.flops, self.clips_per_step, self.peak = flops, clips_per_step, peak
        self._start(0)

    def _start(self, step: int) -> None:
        self._step, self._since, self.waited = step, time.perf_counter(), 0.0
        self._computed = 0.0  # FLOPs; NaN if those of one part are unknown

    def start(self, step: int) -> None:
        """Start before step number `step`."""
        self._start(step)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside, because it belongs to no step."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started

    def computed(self, batch: Mapping[str, Tensor]) -> None:
        """Count the FLOPs of a part of a batch."""
        self._computed += self.flops.get(shapes_of(batch), 0) or math.nan

    def rates(self, step: int) -> dict[str, float]:
        """Return the rates since the last call, up to the start of `step`."""
        seconds = time.perf_counter() - self._since
        steps_per_second = (step - self._step) / seconds
        rates = {
            "steps_per_second": steps_per_second,
            "clips_per_second": steps_per_second * self.clips_per_step,
            "data_wait_share": self.waited / seconds,
        }
        if self._computed > 0:
            rates["tflops"] = self._computed / seconds / 1e12
            rates["mfu"] = self._computed / seconds / self.peak
        self._start(step)
        return rates
