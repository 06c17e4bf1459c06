"""The processes of a training, one or many.

accelerate handles devices, DDP and mixed precision. For FSDP2 it would shard blocks and wrap their
`forward`. The Space-Time U-Net calls the layers of its image model itself, so this module shards
the layers with torch's `fully_shard`.

Tensors are gathered and sharded one by one, with torch's `full_tensor` and `distribute_tensor`,
rather than with `torch.distributed.checkpoint.state_dict`. That module cannot gather averaged
weights, and it does not restore an optimizer to the bit: for a parameter that never had a gradient,
it refuses to load (`strict`) or makes up a state of one step.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from lumiere.config import LaunchConfig
from lumiere.errors import LumiereError, ParamsError, WorkerError
from lumiere.models import layers_in_order
from lumiere.precision import has_fast_bf16

logger = logging.getLogger(__name__)

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Parallel:
    """One process of a training, and its communication with the others."""

    def __init__(self, launch: LaunchConfig, timeout_s: float = 1800.0) -> None:
        """Join the other processes, where torchrun or accelerate started several.

        Args:
            launch: processes, precision and how the network is sharded or compiled.
            timeout_s: how many seconds to wait for another process before raising an error.
        """
        self.launch = launch
        # An earlier training of this process may have had another precision.
        AcceleratorState._reset_state()
        self._accelerator = Accelerator(
            # Without this, accelerate does not join processes on CPUs.
            cpu=not torch.accelerator.is_available(),
            mixed_precision=MIXED_PRECISION[launch.precision],
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))],
        )
        self.rank = self._accelerator.process_index
        self.world_size = self._accelerator.num_processes
        self.device, self.dtype = self._accelerator.device, DTYPES[launch.precision]
        self.is_main = self._accelerator.is_main_process
        self.is_sharded = launch.strategy == "fsdp" and self.world_size > 1
        self.scales_loss = launch.precision == "fp16"
        if self.is_main:
            warn_of_slow_bf16(self.device, self.dtype)

    # --- the network -----------------------------------------------------------------------------

    def prepare(self, network: nn.Module) -> nn.Module:
        """Prepare the network for training: move it to the device, wrap or shard it, and compile
        it.

        FSDP shards a copy. The network itself stays plain and on the CPU, in every process, until
        `restore` copies the trained weights into it.
        """
        if self.launch.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]
        if self.is_sharded:
            shared = _sharded(copy.deepcopy(network), self.world_size, self.device)
        else:
            shared = self._accelerator.prepare_model(network)
        if self.launch.compile:
            self.unwrap(shared).compile()
        return shared

    def unwrap(self, shared: nn.Module) -> nn.Module:
        """Return the network that `prepare` wrapped. Unless it is sharded, one process can call it
        alone.
        """
        if isinstance(shared, DistributedDataParallel):
            return shared.module
        return shared

    @torch.no_grad()
    def restore(self, network: nn.Module, shared: nn.Module) -> None:
        """Undo `prepare`: make `network` plain again, with the trained weights, in every process.

        All processes must call it.
        """
        if self.is_sharded:
            trained = dict(shared.named_parameters())
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.whole(trained[name]))
        else:
            self._accelerator.unwrap_model(shared, keep_fp32_wrapper=False)
        if self.launch.gradient_checkpointing:
            network.disable_gradient_checkpointing()  # type: ignore[operator]
        network._compiled_call_impl = None

    def check_optimizer(self, name: str) -> None:
        """Raise ParamsError if torch's optimizer of this name cannot update sharded weights."""
        if self.is_sharded and name == "adafactor":
            raise ParamsError(
                "optimizer: 'adafactor'; allowed with launch.strategy fsdp: adamw "
                "(torch's Adafactor cannot update sharded weights)"
            )

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> AcceleratedOptimizer:
        """Add loss scaling to the optimizer: `step` unscales, and skips a step that overflowed."""
        return self._accelerator.prepare_optimizer(optimizer)

    # --- a step ----------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that computes in the launch's precision."""
        return self._accelerator.autocast()

    def accumulate(self, shared: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return a context for a part of a batch; processes exchange gradients only at the last
        part.
        """
        if self.is_sharded:
            shared.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last else self._accelerator.no_sync(shared)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, which is scaled if the precision needs it."""
        self._accelerator.backward(loss)

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        """Clip the gradients of all processes together; return their norm before clipping."""
        if self.launch.precision == "fp16":
            self._accelerator.unscale_gradients()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def sum(self, *values: float) -> list[float]:
        """Sum each value over the processes; all processes must call it."""
        if self.world_size == 1:
            return list(values)
        own = torch.tensor(values, dtype=torch.float32, device=self.device)
        return self._accelerator.reduce(own, "sum").tolist()

    def wait(self) -> None:
        """Wait until all processes reach this call."""
        self._accelerator.wait_for_everyone()

    def first(self, action: Callable[[], None]) -> None:
        """Run `action` in the first process while the others wait; all raise its error, if any."""
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

    # --- state -----------------------------------------------------------------------------------

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a tensor that may be sharded; all processes must call it."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def place(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """Copy a whole tensor and shard it like a parameter of the same shape; undoes `whole`."""
        if isinstance(parameter, DTensor) and whole.shape == parameter.shape:
            return distribute_tensor(
                whole.to(parameter.device), parameter.device_mesh, parameter.placements
            )
        return whole.clone()

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the loss scaling; empty without loss scaling."""
        return {} if self._accelerator.scaler is None else self._accelerator.scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Continue from the state that `scaler_state` returned."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)


def is_main_process() -> bool:
    """Return whether this process writes files: the first one, if torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def warn_of_slow_bf16(device: torch.device, dtype: torch.dtype) -> None:
    """Warn if torch will compute in bfloat16 on a CPU without instructions for it."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not has_fast_bf16(device):
        logger.warning(
            "launch.precision is bf16, but this CPU has no bf16 instructions (AVX512_BF16 or AMX), "
            "so convolutions take many times longer than in fp32; set launch.precision to fp32"
        )


def _sharded(network: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    """Shard each layer of a network over the processes."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last weights cannot be sharded
    mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    # The root reshards after its forward pass too, because the weights are exchanged with their
    # averages between passes.
    for layer in [*layers_in_order(network), network]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # The warning is about writing into views, and no code here writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    return network
