"""The times of what a run records."""

from __future__ import annotations

import time

# Where the system has a clock that goes on while it sleeps, that one; `time.monotonic` stops on Linux.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_WALL_START, _START = time.time(), time.clock_gettime(_CLOCK)


def now_in_ms() -> int:
    """Return milliseconds since 1970.

    The machine's clock is read once, and what has passed since is measured. So a clock that is set
    during a run makes no duration negative, and MLflow, which sorts the points of a step by their
    time, keeps their order.
    """
    return int((_WALL_START + time.clock_gettime(_CLOCK) - _START) * 1000)
