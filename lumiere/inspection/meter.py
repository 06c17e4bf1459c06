"""Measures the cost of a network's step on torch's meta device, which takes no memory and computes
no numbers.

Every operation of the forward and the backward pass runs, on tensors that have a shape and no
content. Torch's own counter counts the arithmetic. `LiveBytes` follows the bytes of every tensor
from its creation until it is freed, so the peak equals that of a real run with a perfect allocator.
`StandIn` imitates what a GPU does differently from the meta device: fused attention and autocast.

torch's own tracker (`torch.distributed._tools.mem_tracker.MemTracker`, torch 2.13) does not work
here: it raises on frozen parameters, does not report the peak of activations alone, and takes 3 to
4 times as long. For a network without frozen parameters, it counts the same bytes after the forward
pass.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lumiere.training.meta_shapes import MetaShapes
from lumiere.training.throughput import count_step_flops

aten = torch.ops.aten

# These functions imitate torch.autocast on CUDA for the layers of a U-Net; other functions run in
# the dtype of their input.
IN_LOW_PRECISION = ("linear", "conv2d", "scaled_dot_product_attention")
IN_FLOAT32 = ("group_norm", "layer_norm")


@dataclass(frozen=True)
class Cost:
    """The cost of one step. A multiplication and an addition count as two FLOPs."""

    flops_forward: int
    # forward, backward, and the recomputation of checkpointing
    flops: int
    # The peak of everything but weights, inputs and finished weight gradients.
    activation_bytes: int
    # bytes that the forward pass keeps for the backward pass
    saved_bytes: int


class StandIn:
    """A context in which the meta device behaves like another device.

    It replaces the functions that layers call. By itself the meta device computes attention through
    the whole (queries x keys) matrix, which no GPU kernel stores, and it has no autocast. A
    TorchFunctionMode would not work, because torch switches it off inside `backward`, where
    checkpointing computes again.
    """

    def __init__(self, device_type: str = "cuda", autocast: torch.dtype | None = None) -> None:
        """`device_type`: "cuda" or "cpu"; `autocast`: the low precision of `torch.autocast`, or
        None for none.
        """
        self.on_cpu, self.autocast = device_type == "cpu", autocast
        self._casts: dict[int, Tensor] | None = {}
        self._originals = {name: getattr(F, name) for name in (*IN_LOW_PRECISION, *IN_FLOAT32)}
        self._is_autocast_enabled = torch.is_autocast_enabled

    def __enter__(self) -> StandIn:
        for name in self._originals:
            setattr(F, name, functools.partial(self._call, name))
        torch.is_autocast_enabled = self._autocasts
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._originals.items():
            setattr(F, name, function)
        torch.is_autocast_enabled = self._is_autocast_enabled

    def leave_forward(self) -> None:
        """End the autocast region, and with it the kept casts of weights; checkpointing makes its
        own.
        """
        self._casts = None

    def _autocasts(self, device_type: str | None = None) -> bool:
        return self.autocast is not None

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.autocast is not None:
            dtype = self.autocast if name in IN_LOW_PRECISION else torch.float32
            args, kwargs = tree_map_only(
                Tensor, lambda tensor: self._cast(tensor, dtype), (args, kwargs)
            )
        if name == "scaled_dot_product_attention" and args[0].is_meta:
            return self._attend(*args, **kwargs)
        if name == "group_norm" and args[0].is_meta and self.on_cpu:
            return _group_norm_of_cpu(*args, **kwargs)
        return self._originals[name](*args, **kwargs)

    def _cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        # As in autocast, the cast of a trained weight is kept until the region ends; all others are
        # made again each time.
        if self._casts is None or not (
            tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32
        ):
            return tensor.to(dtype)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor.to(dtype)
        return self._casts[id(tensor)]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        if self.on_cpu:
            cpu = aten._scaled_dot_product_flash_attention_for_cpu
            return cpu(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        needs_grad = torch.is_grad_enabled() and any(
            each.requires_grad for each in (query, key, value)
        )
        efficient = aten._scaled_dot_product_efficient_attention
        return efficient(
            query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
        )[0]


def _group_norm_of_cpu(
    states: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute a group norm without the copy out of channels-last memory that GPUs and the meta
    device make.
    """
    n, channels = states.shape[:2]
    size = states[0, 0].numel()
    by_channel = states.ndim == 4 and states.is_contiguous(memory_format=torch.channels_last)
    if not by_channel:
        states = states.contiguous()
    return torch.native_group_norm(states, weight, bias, n, channels, size, num_groups, eps)[0]


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of every storage that is created while the mode is on, until it is freed.

    Attributes:
        now: bytes alive at present, of the storages created in this mode.
        peak: the largest value of `now` so far.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        """`existing`: tensors that exist already and are not counted."""
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._seen: dict[int, Any] = {}
        for tensor in existing:
            storage = tensor.untyped_storage()
            self._seen[storage._cdata] = storage

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return output

    def forget(self, tensor: Tensor) -> None:
        """Stop counting a tensor that still exists."""
        self._drop(tensor.untyped_storage()._cdata)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._sizes[key] = storage.nbytes()
        self._seen[key] = weakref.ref(storage, lambda _: self._end(key))
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)

    def _end(self, key: int) -> None:
        self._drop(key)
        self._seen.pop(key, None)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


@contextlib.contextmanager
def _gradients_not_counted(parameters: Iterable[nn.Parameter], live: LiveBytes) -> Iterator[None]:
    """Exclude finished weight gradients from the activations; the plan counts them separately."""

    def done(parameter: Tensor) -> None:
        if parameter.grad is not None:
            live.forget(parameter.grad)

    handles = [
        each.register_post_accumulate_grad_hook(done) for each in parameters if each.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(
    network: nn.Module,
    run: Callable[[], Tensor],
    *,
    backward: bool = True,
    flops: bool = True,
    device_type: str = "cuda",
    autocast: torch.dtype | None = None,
    inputs: Iterable[Tensor] = (),
) -> Cost:
    """Measure one step of a network: the forward pass `run` and its backward pass.

    Args:
        network: a network on the meta device; on a real device, the step is actually computed.
        run: the forward pass, which ends in a scalar loss.
        backward: False for sampling; `run` may then return any tensor.
        flops: False skips counting FLOPs, which halves the time.
        device_type: the device whose kernels are imitated, "cuda" or "cpu".
        autocast: the low precision of `torch.autocast`, or None for none.
        inputs: tensors that `run` reads; they exist already and are not counted.
    """
    parameters = list(network.parameters())
    forward, total, saved = 0, 0, 0
    # Two runs, one after the other: the counter's hooks keep what checkpointing computes again
    # longer than a plain run does.
    if flops:
        with torch.set_grad_enabled(backward), StandIn(device_type, autocast) as stand_in:
            forward, total = count_step_flops(functools.partial(_forward, run, stand_in), backward)
        _drop_gradients(parameters)
    live = LiveBytes([*parameters, *network.buffers(), *inputs])
    with (
        _gradients_not_counted(parameters, live),
        torch.set_grad_enabled(backward),
        MetaShapes(),  # before `live`, which counts the tensors that it makes
        live,
        StandIn(device_type, autocast) as stand_in,
    ):
        output = _forward(run, stand_in)
        if backward:
            saved = live.now
            output.backward()
    _drop_gradients(parameters)
    return Cost(forward, total, live.peak, saved)


def _forward(run: Callable[[], Tensor], stand_in: StandIn) -> Tensor:
    output = run()
    stand_in.leave_forward()
    return output


def _drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
