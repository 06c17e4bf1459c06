"""Computes the memory of a GPU in a training from the parameters and the measured cost of a
step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumiere.config import LaunchConfig
from lumiere.inspection.meter import Cost, measure
from lumiere.inspection.networks import Workload, layer_parameters
from lumiere.models import SpaceTimeUNet

FLOAT32 = 4  # bytes; weights, gradients, optimizer state and averages use it at any precision
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# The share of a GPU's memory for CUDA's context, cuDNN's workspaces and the allocator's gaps.
RESERVE = 0.08


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a training, which may be a step, a validation or a preview."""

    weights: int  # with those of a teacher
    gradients: int  # with DDP's buckets, which hold them a second time
    optimizer: int
    ema: int
    gathered: int  # FSDP: the layers whose weights are whole at the peak
    activations: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class TrainingPlan:
    """The cost of training a network.

    Attributes:
        batch_size: clips in a step, over all GPUs.
        micro_batch: clips that a GPU takes at once.
        flops_forward, flops: FLOPs of a step over all GPUs; the second includes the backward pass
            and recomputation.
        activations, activations_checkpointed: bytes on a GPU at the peak, without and with gradient
            checkpointing.
        saved: bytes that a forward pass without checkpointing leaves for the backward pass.
        whole, sharded: the memory of a GPU that holds the whole network, or its share of it.
    """

    batch_size: int
    micro_batch: int
    flops_forward: int
    flops: int
    activations: int
    activations_checkpointed: int
    saved: int
    whole: Memory
    sharded: Memory | None


@dataclass(frozen=True)
class NetworkPlan:
    """The parameters, the training and the sampling of one network."""

    title: str
    spatial_parameters: int
    temporal_parameters: int
    trained_parameters: int
    training: TrainingPlan | None
    sample_passes: int  # forward passes for one video
    sample_flops: int  # of all these passes
    sample_activations: int  # bytes at the peak of one forward pass

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return self.spatial_parameters + self.temporal_parameters


def plan(workload: Workload, launch: LaunchConfig, processes: int) -> NetworkPlan:
    """Measure one network on the meta device.

    Args:
        workload: the network and its inputs.
        launch: precision, accumulation and checkpointing; the argument `processes` replaces its
            number of processes.
        processes: number of GPUs.
    """
    network = workload.network
    trained = [p for p in network.parameters() if p.requires_grad]
    total = count(network.parameters())
    temporal = count(network.temporal_parameters()) if isinstance(network, SpaceTimeUNet) else 0
    sampling = _sampling(workload, launch)
    return NetworkPlan(
        workload.title,
        total - temporal,
        temporal,
        count(trained) if workload.optim else 0,
        _training(workload, launch, processes, trained) if workload.optim else None,
        workload.sample_passes,
        sampling.flops_forward * workload.sample_passes if sampling else 0,
        sampling.activation_bytes if sampling else 0,
    )


def _training(
    workload: Workload, launch: LaunchConfig, processes: int, trained: list[nn.Parameter]
) -> TrainingPlan:
    assert workload.optim is not None
    network, batch_size = workload.network, workload.optim.batch_size
    parts = processes * launch.gradient_accumulation
    micro_batch = max(1, math.ceil(batch_size / parts))
    plain, checkpointed = (
        _step(workload, micro_batch, launch, on, flops=on == launch.gradient_checkpointing)
        for on in (False, True)
    )
    step = checkpointed if launch.gradient_checkpointing else plain
    weights, gradients = count(network.parameters()) * FLOAT32, count(trained) * FLOAT32
    # Every process holds a teacher as a whole.
    teacher = weights if workload.distilling_passes else 0
    optimizer = optimizer_bytes(trained, workload.optim.optimizer)
    # A preview runs a clip with and without its sentence at once; a validation runs as many clips
    # as a step.
    preview_batch = 2 if workload.text else 1
    preview = forward(
        workload, max(micro_batch, preview_batch), workload.shape, launch, flops=False
    )
    # After the backward pass, the optimizer's step works on a copy of one of its moments.
    peak = max(step.activation_bytes, preview.activation_bytes, gradients)
    extra_flops = workload.distilling_passes * step.flops_forward
    buckets = gradients if processes > 1 else 0
    whole = Memory(weights + teacher, gradients + buckets, optimizer, gradients, 0, peak)
    sharded = None
    if processes > 1:
        sharded = Memory(
            weights=math.ceil(weights / processes) + teacher,
            gradients=math.ceil(gradients / processes),
            optimizer=math.ceil(optimizer / processes),
            ema=math.ceil(gradients / processes),
            # The layer that computes, and the one fetched ahead.
            gathered=2 * layer_parameters(network) * FLOAT32,
            activations=max(step.activation_bytes, preview.activation_bytes),
        )
    return TrainingPlan(
        batch_size,
        micro_batch,
        round(step.flops_forward * batch_size / micro_batch),
        round((step.flops + extra_flops) * batch_size / micro_batch),
        plain.activation_bytes,
        checkpointed.activation_bytes,
        plain.saved_bytes,
        whole,
        sharded,
    )


def _step(
    workload: Workload, batch_size: int, launch: LaunchConfig, checkpointing: bool, flops: bool
) -> Cost:
    network = workload.network
    if checkpointing:
        network.enable_gradient_checkpointing()
    network.train()
    run, inputs = workload.loss(batch_size)
    try:
        return measure(
            network, run, flops=flops, autocast=AUTOCAST[launch.precision], inputs=inputs
        )
    finally:
        network.disable_gradient_checkpointing()


def _sampling(workload: Workload, launch: LaunchConfig) -> Cost | None:
    if workload.sample_shape is None:
        return None
    return forward(workload, 1, workload.sample_shape, launch)


def forward(
    workload: Workload,
    batch_size: int,
    shape: tuple[int, ...],
    launch: LaunchConfig,
    flops: bool = True,
) -> Cost:
    """Measure a forward pass without gradients, on clips of `shape`, (c, t, h, w) or (c, h, w)."""
    sample, arguments = workload.inputs(batch_size, shape)
    tensors = [each for each in arguments.values() if each is not None]
    return measure(
        workload.network.eval(),
        lambda: workload.network(sample, **arguments).sample,
        backward=False,
        flops=flops,
        autocast=AUTOCAST[launch.precision],
        inputs=[sample, *tensors],
    )


def count(tensors: Iterable[Tensor]) -> int:
    """Count the numbers in tensors."""
    return sum(tensor.numel() for tensor in tensors)


def optimizer_bytes(parameters: Iterable[Tensor], optimizer: str) -> int:
    """Count the bytes of an optimizer's state.

    AdamW keeps two moments; Adafactor keeps a row and a column per matrix (Shazeer and Stern 2018).
    Both add a step count of 4 bytes per parameter.
    """
    total = 0
    for each in parameters:
        if optimizer != "adafactor":
            numbers = 2 * each.numel()
        elif each.ndim > 1:
            numbers = each.numel() // each.shape[-1] + each.numel() // each.shape[-2]
        else:
            numbers = each.numel()
        total += FLOAT32 * (numbers + 1)
    return total
