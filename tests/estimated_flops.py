"""A quick estimate of the FLOPs of a training's step, for tests that train toy networks.

A training counts the FLOPs of its step when it starts. That takes as long as many steps of a toy
network, and hundreds of tests train one. A test that calls `flops` itself counts, as
tests/training/test_throughput.py does; tests/training/test_sizes.py shows that a training counts at
its start.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lumiere.training import diffusion_task, distillation_task, loop, throughput

count, count_for_a_training = throughput.count_flops, loop._flops_by_shape
_training_starts = False


def estimate_flops() -> None:
    """Let the trainings of this process estimate at their start."""
    loop._flops_by_shape = _flops_by_shape
    diffusion_task.count_flops = _count_flops
    distillation_task.count_flops = _count_flops


def _flops_by_shape(task: Any, positions: Any) -> dict[throughput.Shapes, int]:
    global _training_starts
    _training_starts = True
    try:
        return count_for_a_training(task, positions)
    finally:
        _training_starts = False


def _count_flops(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], backward: bool = True
) -> int:
    if not _training_starts:
        return count(network, args, kwargs, backward)
    values = [part.numel() for part in pytree.tree_leaves(args) if isinstance(part, Tensor)]
    weights = sum(parameter.numel() for parameter in network.parameters())
    return (6 if backward else 2) * weights * max(values)
