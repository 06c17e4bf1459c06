"""Warnings of a pipeline's call, which are silent if the notes of a request already say the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WARNS: ContextVar[bool] = ContextVar("warns", default=True)


@contextmanager
def silent_on_notes() -> Iterator[None]:
    """Log nothing that the notes of a request say while this context is open."""
    token = _WARNS.set(False)
    try:
        yield
    finally:
        _WARNS.reset(token)


def are_notes_logged() -> bool:
    """Return whether a call logs what the notes of a request would say."""
    return _WARNS.get()
