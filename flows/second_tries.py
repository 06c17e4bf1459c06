"""Decides which failures of a stage are worth a second try.

A stage is deterministic, so the same input fails in the same way. Only two kinds of failure
are temporary: the process was killed, as the system does when memory runs out, or the stage itself
says that something was busy (`lumiere.errors.TRY_AGAIN`). A full disk, bad input, a failed check and
a stage that ran into its time limit fail at once.
"""

from __future__ import annotations

import errno
import re
import signal

from lumiere.errors import TRY_AGAIN

FIRST_DELAY, GROWTH = 15.0, 4.0  # seconds before the first further try, and the factor between two
MAX_RETRIES = 5

# A process that was killed: by subprocess, by a shell, by `sys.exit` of the supervisor.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL, 256 - signal.SIGKILL)
NO_ROOM_TO_START = (errno.EAGAIN, errno.ENOMEM)

_EXIT = re.compile(r"ERROR: failed to reproduce .*exited with (-?\d+)$")


class MayPass(Exception):
    """A stage failed, but the failure may be temporary."""


def exit_code(line: str) -> int | None:
    """Return the exit code of a stage's command if DVC reports one in this line of its output."""
    match = _EXIT.match(line)
    return None if match is None else int(match[1])


def reason(stage: str, code: int) -> str:
    """Return why a stage's failure may be temporary; empty if it is not.

    Args:
        stage: the name of the stage.
        code: the exit code of its command.
    """
    if code in KILLED:
        return f"stage {stage} was killed, as the system does when memory runs out"
    if code == TRY_AGAIN:
        return f"stage {stage} found something busy or lost one of its processes"
    return ""


def delay(attempt: int) -> float:
    """Return the seconds to wait after the failure of an attempt; the first is 1."""
    return FIRST_DELAY * GROWTH ** (attempt - 1)
