"""One call at a time: a scheduler and a network with a style in it belong to the call that runs.

diffusers' schedulers keep a call's timesteps, and a style replaces weights for the length of a
call. So calls of several threads that share a component wait for each other, even if they are calls
of several pipelines. So do methods that change components. The pipeline itself is taken as well,
because a change may replace a component before it is complete: another thread's call of that
pipeline never sees half of a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from diffusers import DiffusionPipeline

P = ParamSpec("P")
Result = TypeVar("Result")
Pipeline = TypeVar("Pipeline", bound=type)

# What a change of any pipeline may touch.
SHARED = ("scheduler", "unet", "guide_unet", "ssr_scheduler", "ssr_unet")


class _Turn:
    """The thread that has a component or a pipeline; None if it is free."""

    owner: int | None = None


_turns: WeakKeyDictionary[object, _Turn] = WeakKeyDictionary()
# Guards all of this, and wakes the waiting threads whenever a turn ends.
_changed = threading.Condition()
# What each waiting thread waits for.
_waiting: dict[int, list[_Turn]] = {}
# The threads that change components. A change may consist of others.
_changing: set[int] = set()


def in_turn(
    *component_names: str,
    within: bool = False,
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorate a pipeline's method that calls components: threads that share one, or the pipeline,
    take turns.

    Args:
        component_names: attributes of the pipeline; those that are None are left out.
        within: whether the method may run within a call that has the components, as a part of it.
            Otherwise it raises ValueError there, for example in a callback, because it would
            change the timesteps of that call.
    """
    refusal = (
        "a callback calls the pipeline that called it, or one that shares its scheduler or "
        "network; make that call after this one has ended"
    )

    def decorate(method: Callable[P, Result]) -> Callable[P, Result]:
        return _taking_turns(method, component_names, False, None if within else refusal)

    return decorate


def changes_in_turn(
    between_steps: Sequence[str], after_calls: Sequence[str]
) -> Callable[[Pipeline], Pipeline]:
    """Decorate a pipeline's class: methods that change its components wait for the calls of other
    threads.

    Args:
        between_steps: methods that a callback may use; they act from the next step on.
        after_calls: methods that would break the call that runs; in a callback they raise
            ValueError.
    """

    def decorate(pipeline_class: Pipeline) -> Pipeline:
        for name in (*between_steps, *after_calls):
            refusal = None
            if name in after_calls:
                refusal = _refusal_of(name)
            method = _taking_turns(getattr(pipeline_class, name), SHARED, True, refusal)
            setattr(pipeline_class, name, method)
        return pipeline_class

    return decorate


@contextmanager
def changing_components(pipeline: DiffusionPipeline, method: str) -> Iterator[None]:
    """Hold a pipeline and its components in a method that does not always change them.

    Raises:
        ValueError: in a callback of a call that has one of them.
    """
    with _holding(pipeline, SHARED, True, _refusal_of(method)):
        yield


def _refusal_of(method: str) -> str:
    return (
        f"a callback uses {method}(), which changes the components of the call that runs; use it "
        "after that call has ended"
    )


@contextmanager
def replacing_component(pipeline: DiffusionPipeline, name: str) -> Iterator[None]:
    """Hold a pipeline while one of its components is replaced by assignment.

    Only the pipeline is taken: the component itself may go on in another pipeline's call.

    Raises:
        ValueError: in a callback of the pipeline's call.
    """
    refusal = (
        f"a callback sets pipe.{name}, but the call that runs has begun with another; set it after "
        "that call has ended"
    )
    with _holding(pipeline, (), True, refusal):
        yield


def _taking_turns(
    method: Callable[P, Result], names: Sequence[str], is_change: bool, refusal: str | None
) -> Callable[P, Result]:
    @wraps(method)
    def take_turns(*args: P.args, **kwargs: P.kwargs) -> Result:
        with _holding(args[0], names, is_change, refusal):
            return method(*args, **kwargs)

    return take_turns


@contextmanager
def _holding(
    pipeline: DiffusionPipeline, names: Sequence[str], is_change: bool, refusal: str | None
) -> Iterator[None]:
    me = threading.get_ident()
    begins_change = is_change and me not in _changing
    with _changed:
        taken = _take(pipeline, names, me, None if me in _changing else refusal)
        for turn in taken:
            turn.owner = me
    if begins_change:
        _changing.add(me)
    try:
        yield
    finally:
        if begins_change:
            _changing.remove(me)
        with _changed:
            for turn in taken:
                turn.owner = None
            _changed.notify_all()


def _take(
    pipeline: DiffusionPipeline, names: Sequence[str], me: int, refusal: str | None
) -> list[_Turn]:
    """Wait until each component is free or belongs to this thread, and return the free ones.

    They are taken all at once, so a thread that waits has something only if it is in a call whose
    callback uses another pipeline.
    """
    try:
        while True:
            # Look again each time: the thread before may have replaced a component.
            turns = _turns_of(pipeline, names)
            if refusal and any(turn.owner == me for turn in turns):
                raise ValueError(refusal)
            others = [turn for turn in turns if turn.owner not in (None, me)]
            if not others:
                return [turn for turn in turns if turn.owner is None]
            if _is_waited_for(me, others):
                raise ValueError(
                    "two threads would wait for each other for ever: a callback uses a pipeline "
                    "that is busy in another thread; use it after the callback's call has ended"
                )
            _waiting[me] = others
            _changed.wait()
    finally:
        _waiting.pop(me, None)


def _is_waited_for(me: int, turns: Sequence[_Turn]) -> bool:
    """Return whether an owner of these turns waits, directly or through others, for this thread."""
    seen: set[int] = set()
    rest = [turn.owner for turn in turns]
    while rest:
        thread = rest.pop()
        if thread == me:
            return True
        if thread is None or thread in seen:
            continue
        seen.add(thread)
        rest += [turn.owner for turn in _waiting.get(thread, [])]
    return False


def _turns_of(pipeline: DiffusionPipeline, names: Sequence[str]) -> list[_Turn]:
    """Return the turns of the pipeline and of each component, once if it has two names."""
    turns = [_turns.setdefault(pipeline, _Turn())]
    for name in names:
        component = getattr(pipeline, name, None)
        if component is None:
            continue
        component = getattr(component, "_orig_mod", component)  # of torch.compile
        turn = _turns.setdefault(component, _Turn())
        if turn not in turns:
            turns.append(turn)
    return turns
