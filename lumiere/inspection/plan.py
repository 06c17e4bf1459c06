"""From parameters and a step's measured cost to the memory of a GPU, whole or sharded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumiere.config import LaunchConfig
from lumiere.inspection.meter import Cost, measure
from lumiere.inspection.networks import Workload, layer_parameters
from lumiere.models import SpaceTimeUNet

FLOAT32 = 4  # bytes; weights, gradients, optimizer state and averages, whatever the arithmetic's precision
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# CUDA's own context, cuDNN's workspaces and what the allocator cannot use again: a share of a GPU's memory.
RESERVE = 0.08


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a training: of a step, a validation or a preview."""

    weights: int
    gradients: int  # with DDP's buckets, which hold them once more
    optimizer: int
    ema: int
    gathered: int  # FSDP: layers whose weights are whole at the moment
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(
            (
                self.weights,
                self.gradients,
                self.optimizer,
                self.ema,
                self.gathered,
                self.activations,
            )
        )


@dataclass(frozen=True)
class TrainingPlan:
    """What training a network costs.

    Attributes:
        batch_size: clips of a step, over all GPUs.
        micro_batch: clips that a GPU takes at once.
        flops_forward, flops: of a step, over all GPUs; the second with the backward pass and recomputation.
        activations, activations_checkpointed: bytes at the peak, on a GPU, without and with gradient checkpointing.
        saved: bytes that a forward pass without checkpointing leaves for the backward pass.
        whole, sharded: memory of a GPU that has the whole network, or its share of it.
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
    """One network: parameters, training, sampling."""

    title: str
    spatial_parameters: int
    temporal_parameters: int
    trained_parameters: int
    training: TrainingPlan | None
    sample_passes: int  # forward passes for one video
    sample_flops: int  # of all of them
    sample_activations: int  # bytes at the peak of one forward pass

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.spatial_parameters + self.temporal_parameters


def plan(workload: Workload, launch: LaunchConfig, processes: int) -> NetworkPlan:
    """Measure one network on the meta device.

    Args:
        workload: the network and what it is given.
        launch: precision, accumulation and checkpointing; its number of processes is not looked at.
        processes: GPUs.
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
    chosen = checkpointed if launch.gradient_checkpointing else plain
    weights, gradients = count(network.parameters()) * FLOAT32, count(trained) * FLOAT32
    optimizer = optimizer_bytes(trained, workload.optim.optimizer)
    # A preview takes a clip with and without its sentence at once, a validation as many as a step.
    shown = forward(
        workload, max(micro_batch, 2 if workload.text else 1), workload.shape, launch, flops=False
    )
    # The optimizer's step works on a copy of one of its moments, when the activations are gone.
    peak = max(chosen.activation_bytes, shown.activation_bytes, gradients)
    buckets = gradients if processes > 1 else 0
    whole = Memory(weights, gradients + buckets, optimizer, gradients, 0, peak)
    sharded = None
    if processes > 1:
        sharded = Memory(
            weights=math.ceil(weights / processes),
            gradients=math.ceil(gradients / processes),
            optimizer=math.ceil(optimizer / processes),
            ema=math.ceil(gradients / processes),
            gathered=2
            * layer_parameters(network)
            * FLOAT32,  # the layer that computes, and the one fetched ahead
            activations=max(chosen.activation_bytes, shown.activation_bytes),
        )
    return TrainingPlan(
        batch_size,
        micro_batch,
        round(chosen.flops_forward * batch_size / micro_batch),
        round(chosen.flops * batch_size / micro_batch),
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
    network.enable_gradient_checkpointing() if checkpointing else network.disable_gradient_checkpointing()
    network.train()
    run, inputs = workload.loss(batch_size)
    try:
        return measure(
            network, run, flops=flops, autocast=AUTOCAST[launch.precision], inputs=inputs
        )
    finally:
        network.disable_gradient_checkpointing()


def _sampling(workload: Workload, launch: LaunchConfig) -> Cost | None:
    return (
        None
        if workload.sample_shape is None
        else forward(workload, 1, workload.sample_shape, launch)
    )


def forward(
    workload: Workload,
    batch_size: int,
    shape: tuple[int, ...],
    launch: LaunchConfig,
    flops: bool = True,
) -> Cost:
    """A forward pass without gradients, of clips of `shape`, (c, t, h, w) or (c, h, w)."""
    sample, given = workload.inputs(batch_size, shape)
    return measure(
        workload.network.eval(),
        lambda: workload.network(sample, **given).sample,
        backward=False,
        flops=flops,
        autocast=AUTOCAST[launch.precision],
        inputs=[sample, *(each for each in given.values() if each is not None)],
    )


def count(tensors: Iterable[Tensor]) -> int:
    """Numbers in tensors."""
    return sum(tensor.numel() for tensor in tensors)


def optimizer_bytes(parameters: Iterable[Tensor], optimizer: str) -> int:
    """The state of AdamW, two moments, or of Adafactor, a row and a column per matrix (Shazeer and Stern 2018).

    Beside it each parameter has a step count of 4 bytes.
    """
    total = 0
    for each in parameters:
        numbers = 2 * each.numel()
        if optimizer == "adafactor":
            factored = each.ndim > 1
            numbers = (
                each.numel() // each.shape[-1] + each.numel() // each.shape[-2]
                if factored
                else each.numel()
            )
        total += FLOAT32 * (numbers + 1)
    return total
