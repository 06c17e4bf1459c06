"""What a step of a network costs, measured on torch's meta device: no memory is taken, no number is computed.

Every operation of the forward and the backward pass really runs, on tensors that have a shape and no content. Its
arithmetic is counted by torch's own counter, and the bytes of every tensor are followed from its making to its end, so
that the peak is that of a real run under an allocator without loss. What a GPU does in another way than the meta
device, fused attention and autocast, is put in its place (`StandIn`).
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
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

# The CPU's fused attention has no formula of its own in torch 2.13; the first arguments are the shapes.
FLOP_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *args, **_: sdpa_flop_count(*args[:3]),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, **_: (
        sdpa_backward_flop_count(*args[:4])
    ),
}

# torch.autocast on CUDA, as far as a U-Net's layers call it; the rest runs in whatever dtype it is given.
IN_LOW_PRECISION = ("linear", "conv2d", "scaled_dot_product_attention")
IN_FLOAT32 = ("group_norm", "layer_norm")


@dataclass(frozen=True)
class Cost:
    """One step's cost. FLOPs count a multiplication and an addition as two."""

    flops_forward: int
    flops: int  # forward, backward, and what checkpointing computes again
    activation_bytes: (
        int  # at the peak: what lives beside weights, inputs and finished weight gradients
    )
    saved_bytes: int  # of these, what the forward pass leaves for the backward pass


class StandIn:
    """Lets the meta device do what another device does, by functions put in the place of those that layers call.

    Left to itself the meta device attends by way of the whole (queries x keys) matrix, which no GPU kernel stores, and
    has no autocast. A TorchFunctionMode would not do: it is off inside `backward`, where checkpointing computes again.
    """

    def __init__(self, device_type: str = "cuda", autocast: torch.dtype | None = None) -> None:
        """`device_type`: "cuda" or "cpu"; `autocast`: the low precision of `torch.autocast`, or None for none."""
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
        """The autocast region ends, and its casts of weights with it; what is computed again makes its own."""
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
        # As autocast: the cast of a weight that trains is kept until the region ends, every other is made anew.
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
    """Without the copy out of channels-last memory that a GPU makes, and the meta device with it."""
    n, channels = states.shape[:2]
    size = states[0, 0].numel()
    if (
        states.ndim == 4
        and not states.is_contiguous()
        and states.is_contiguous(memory_format=torch.channels_last)
    ):
        pass
    else:
        states = states.contiguous()
    return torch.native_group_norm(states, weight, bias, n, channels, size, num_groups, eps)[0]


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of every storage that is made while it is on, until it is let go.

    Attributes:
        now: bytes that live at present, of those made under it.
        peak: the most so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """`known`: what lives already, and is not counted."""
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._seen: dict[int, Any] = {}
        for tensor in known:
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
        """Count a tensor no more, though it lives on."""
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
    """A weight's finished gradient is no activation; it has a column of its own."""

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
    """What `run`, a forward pass of `network` that ends in a scalar loss, costs, and its backward pass.

    Args:
        network: on the meta device; on a real one the step is really computed.
        run: the forward pass.
        backward: False for sampling; `run` may then return any tensor.
        flops: False leaves the arithmetic uncounted, in half the time.
        device_type: whose kernels are thought of, "cuda" or "cpu".
        autocast: as in `StandIn`.
        inputs: what `run` is given: it counts as living already.
    """
    parameters = list(network.parameters())

    def step(mode: Any, read: Callable[[], int]) -> tuple[int, int]:
        """Once forward and once backward; what is read after each."""
        with torch.set_grad_enabled(backward), mode, StandIn(device_type, autocast) as stand_in:
            output = run()
            stand_in.leave_forward()
            after_forward = read()
            if backward:
                output.backward()
        for parameter in parameters:
            parameter.grad = None
        return after_forward, read()

    # One after the other: the counter's hooks keep what checkpointing made again longer than a plain run does.
    counter = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS)
    forward, total = step(counter, counter.get_total_flops) if flops else (0, 0)
    live = LiveBytes([*parameters, *network.buffers(), *inputs])
    with _gradients_not_counted(parameters, live):
        saved, _ = step(live, lambda: live.now)
    return Cost(forward, total, live.peak, saved if backward else 0)
