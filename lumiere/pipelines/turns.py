"""One call at a time: a scheduler and a network with a style in it belong to the call that runs.

diffusers' schedulers keep a call's timesteps, and a style replaces weights for the length of a
call. So calls of several threads that share a component wait for each other, even if they are calls
of several pipelines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
Result = TypeVar("Result")


class _Turn:
    """A lock that knows the thread that holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner: int | None = None


_turns: WeakKeyDictionary[Any, _Turn] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def in_turn(
    *component_names: str,
    within: bool = False,
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorate a pipeline's method that uses components: threads that share one take turns.

    Args:
        component_names: attributes of the pipeline; those that are None are left out.
        within: whether the method may run within a call that has the components, as a part of it.
            Otherwise it raises ValueError there, for example in a callback, because it would
            change the timesteps of that call.
    """

    def decorate(method: Callable[P, Result]) -> Callable[P, Result]:
        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            pipeline = args[0]
            components = [getattr(pipeline, name) for name in component_names]
            with _holding([each for each in components if each is not None], within):
                return method(*args, **kwargs)

        return call

    return decorate


@contextmanager
def _holding(components: list[Any], within: bool) -> Iterator[None]:
    with _turns_lock:
        turns = {id(turn): turn for turn in map(_turn_of, components)}
    me = threading.get_ident()
    held = [key for key, turn in turns.items() if turn.owner == me]
    if held and not within:
        raise ValueError(
            "a callback calls the pipeline that called it, or one that shares its scheduler or "
            "network; make that call after this one has ended"
        )
    with ExitStack() as stack:
        # Always in the same order, so that two calls never wait for each other.
        for key in sorted(turns.keys() - set(held)):
            stack.enter_context(turns[key].lock)
            turns[key].owner = me
            stack.callback(_leave, turns[key])
        yield


def _turn_of(component: Any) -> _Turn:
    turn = _turns.get(component)
    if turn is None:
        turn = _turns[component] = _Turn()
    return turn


def _leave(turn: _Turn) -> None:
    turn.owner = None
