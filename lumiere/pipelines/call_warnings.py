"""Warnings of a pipeline's call, which are silent if the notes of a request already say the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from lumiere.diffusion.motion_control import MotionControl

logger = logging.getLogger(__name__)

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


def warn_of_skipped_motion(motion: MotionControl, timesteps: Tensor) -> None:
    """Log that no step of a call scales its motion, though the call asks for it."""
    if motion.is_skipped_by(timesteps) and are_notes_logged():
        logger.warning(
            "motion_scale is %g, but none of the %d steps is in motion_interval; take more steps, "
            "or widen the interval",
            motion.scale,
            len(timesteps),
        )
