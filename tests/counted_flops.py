"""The FLOPs of a training's step, counted once for each toy network of a run of pytest.

A training counts the FLOPs of its step when it starts. That takes as long as many steps of a toy
network, and hundreds of tests train one. The counts are kept in a folder that the workers of a run
and the programs that they start share. A test that calls `flops` itself always counts.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lumiere.training import diffusion_task, distillation_task, loop, throughput

FOLDER = "LUMIERE_TESTS_COUNTED_FLOPS"  # an environment variable
count, count_for_a_training = throughput.count_flops, loop._flops_by_shape
_training_starts = False


def keep_counts() -> None:
    """Let the trainings of this process look for a count before they count."""
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
    if not _training_starts or FOLDER not in os.environ:
        return count(network, args, kwargs, backward)
    file = Path(os.environ[FOLDER], _key(network, args, kwargs, backward))
    if file.exists():
        return int(file.read_text())
    flops = count(network, args, kwargs, backward)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.write_text(str(flops))
    unfinished.replace(file)
    return flops


def _key(network: nn.Module, *call: Any) -> str:
    """All that decides the count: the layers, which of them are trained, and the shapes of a call."""
    shapes = pytree.tree_map_only(Tensor, lambda value: (value.shape, value.dtype), call)
    weights = [
        (name, value.shape, value.requires_grad)
        for name, value in [*network.named_parameters(), *network.named_buffers()]
    ]
    text = f"{network} {getattr(network, 'config', None)} {weights} {shapes}"
    return hashlib.sha256(text.encode()).hexdigest()
