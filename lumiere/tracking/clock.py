"""The times of what a run records."""

from __future__ import annotations

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)  # on Linux


def _seconds() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on while the machine sleeps;
    `time.monotonic` does not on Linux.
    """
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


_WALL_START, _START = time.time(), _seconds()


def now_in_ms() -> int:
    """Return milliseconds since 1970.

    The machine's clock is read once, and what has passed since is measured. So a clock that is set
    during a run makes no duration negative, and MLflow, which sorts the points of a step by their
    time, keeps their order.
    """
    return int((_WALL_START + _seconds() - _START) * 1000)
