"""Computes the shapes of an operation on the meta device once, for all its calls on equal shapes.

torch computes many of these shapes in Python, which takes most of the time of a step without
numbers. The layers of a network repeat the same operations, and `lumiere inspect` repeats the same
step. A training counts its FLOPs this way when it starts.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, strides in numbers, dtype

# Maps (operation, default dtype, arguments) to the layout of the output; if there are several
# outputs, to a list of layouts, with None for an output that is None.
_outputs: dict[tuple[Any, ...], Layout | list[Layout | None]] = {}


class MetaShapes(TorchDispatchMode):
    """Within it, an operation on meta tensors gives new, empty tensors of the layout that it gave
    the last time, if its arguments have the same layouts and values, and the default dtype is the
    same.

    Operations that write into an argument, or return a view of one, run as they do without it, and
    so does everything on a real device.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not _makes_new_tensors(func):
            return func(*args, **kwargs)
        try:
            layout = _described((args, tuple(kwargs), tuple(kwargs.values())))
            key = (func, torch.get_default_dtype(), layout)
            layouts = _outputs.get(key)
        except (NotMeta, TypeError):  # TypeError: an argument that cannot be compared
            return func(*args, **kwargs)
        if layouts is None:
            output = func(*args, **kwargs)
            with contextlib.suppress(NotEmpty):
                _outputs[key] = _layouts(output, (args, kwargs))
            return output
        if isinstance(layouts, list):
            return tuple(None if each is None else _empty(each) for each in layouts)
        return _empty(layouts)


class NotMeta(Exception):
    """An argument has numbers, which may decide the shapes of the output."""


class NotEmpty(Exception):
    """An output is not a new tensor that `_empty` could make."""


@functools.cache
def _makes_new_tensors(func: Any) -> bool:
    """Whether an operation neither writes into its arguments nor returns views of them."""
    schema = func._schema
    values = [*schema.arguments, *schema.returns]
    kinds = {str(value.type) for value in schema.returns}
    return kinds == {"Tensor"} and all(value.alias_info is None for value in values)


def _described(value: Any) -> Any:
    """Describe arguments by what decides the layout of the output.

    Raises:
        NotMeta: if one is a tensor with numbers.
    """
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise NotMeta
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_described(each) for each in value)
    return type(value), value  # 1, 1.0 and True are equal, but their results differ


def _layouts(output: Any, arguments: Any) -> Layout | list[Layout | None]:
    """Describe the outputs of an operation.

    Raises:
        NotEmpty: if one is a view, even one that its operation does not declare (`_unsafe_view`).
    """
    if isinstance(output, Tensor):
        return _layout(output, arguments)
    return [None if each is None else _layout(each, arguments) for each in output]


def _layout(tensor: Tensor, arguments: Any) -> Layout:
    layout = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
    storage = tensor.untyped_storage()
    given = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    is_view = any(storage._cdata == each.untyped_storage()._cdata for each in given)
    if is_view or not tensor.is_meta or tensor.storage_offset():
        raise NotEmpty
    if storage.nbytes() != _empty(layout).untyped_storage().nbytes():
        raise NotEmpty
    return layout


def _empty(layout: Layout) -> Tensor:
    shape, strides, dtype = layout
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
