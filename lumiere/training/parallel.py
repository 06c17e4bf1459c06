"""The processes of a training, one or many: accelerate below (devices, DDP, mixed precision), FSDP2 from torch.

accelerate shards by the blocks whose `forward` it wraps. The Space-Time U-Net walks its image model's layers itself, so
the layers are sharded here, with torch's `fully_shard`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lumiere.config import LaunchConfig
from lumiere.errors import LumiereError, WorkerError
from lumiere.models import layers_in_order

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
)  # FSDP's


class Parallel:
    """This process among those of a training."""

    def __init__(self, launch: LaunchConfig, timeout_s: float = 1800.0) -> None:
        """Joins the other processes, where torchrun or accelerate started several.

        Args:
            launch: how trainings are computed.
            timeout_s: when another process says nothing for so long, waiting for it ends with an error.
        """
        self.launch = launch
        AcceleratorState._reset_state()  # another training of this process may have had another precision
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # only when told does accelerate join processes on CPUs
            mixed_precision=MIXED_PRECISION[launch.precision],
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))],
        )
        self.rank, self.world_size = (
            self._accelerator.process_index,
            self._accelerator.num_processes,
        )
        self.device, self.dtype = self._accelerator.device, DTYPES[launch.precision]
        self.is_main = self._accelerator.is_main_process
        self.is_sharded = launch.strategy == "fsdp" and self.world_size > 1

    # --- the network ------------------------------------------------------------------------------------------------

    def prepare(self, network: Any) -> nn.Module:
        """The network as it is trained: on the device, compiled, and wrapped or sharded where there are several."""
        if self.launch.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if self.is_sharded:
            _shard(network, self.world_size, self.device)
            wrapped = network
        else:
            wrapped = self._accelerator.prepare_model(network)
        if self.launch.compile:
            network.compile()
        return wrapped

    def restore(self, network: Any) -> None:
        """Undo `prepare`: a plain network with whole weights, in every process."""
        if self.is_sharded:
            _unshard(network)
        else:
            self._accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        if self.launch.gradient_checkpointing:
            network.disable_gradient_checkpointing()
        network._compiled_call_impl = None

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """An optimizer that knows of loss scaling."""
        return self._accelerator.prepare_optimizer(optimizer)

    # --- a step -----------------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[None]:
        """Arithmetic in the launch's precision."""
        return self._accelerator.autocast()

    def accumulate(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """For one part of a batch: gradients are exchanged at the last."""
        if self.is_sharded:
            wrapped.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last else self._accelerator.no_sync(wrapped)

    def backward(self, loss: Tensor) -> None:
        """Adds a loss' gradients, scaled where the precision needs it."""
        self._accelerator.backward(loss)

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        """Clips the gradients of all processes together; returns their norm before."""
        if self.launch.precision == "fp16":
            self._accelerator.unscale_gradients()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def sum(self, *values: float) -> list[float]:
        """Each value's sum over the processes; all of them call it."""
        if self.world_size == 1:
            return list(values)
        return self._accelerator.reduce(torch.tensor(values, device=self.device), "sum").tolist()

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def first(self, action: Callable[[], None]) -> None:
        """Lets the first process do something while the others wait; where it fails, all of them raise its error."""
        failure: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                failure = error
        kind = type(failure) if isinstance(failure, LumiereError) else WorkerError
        report = broadcast_object_list([None if failure is None else (kind, str(failure))])[0]
        if failure is not None:
            raise failure
        if report is not None:
            kind, message = report
            raise kind(message)

    # --- state ------------------------------------------------------------------------------------------------------

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that may be sharded, whole; all processes call it."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def like(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """A copy of a whole tensor, sharded as a parameter of its shape is: the inverse of `whole`."""
        if isinstance(parameter, DTensor) and whole.shape == parameter.shape:
            return distribute_tensor(
                whole.to(parameter.device), parameter.device_mesh, parameter.placements
            )
        return whole.clone()

    def scaler_state(self) -> dict[str, Any]:
        """Of the loss scaling; empty where there is none."""
        return {} if self._accelerator.scaler is None else self._accelerator.scaler.state_dict()

    def restore_scaler(self, state: dict[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)


def is_main_process() -> bool:
    """Whether this process, maybe one of several that torchrun started, is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def _shard(network: Any, world_size: int, device: torch.device) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last weights cannot be sharded
    mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    # The root too gives back what it gathered: the weights are exchanged with their averages between passes.
    for layer in [*layers_in_order(network), network]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module .* returned a view"
    )  # which nobody writes into


def _unshard(network: Any) -> None:
    for layer in [*layers_in_order(network), network]:
        layer.__class__ = type(layer).__mro__[
            2
        ]  # fully_shard put FSDPModule and a class of its own before it
        for hooks in HOOKS:
            getattr(layer, hooks).clear()
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                whole = parameter.full_tensor().detach().cpu()
                setattr(module, name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
