"""Errors that a user can fix, named for what happened, and their messages.

Every message is one sentence that names the problem and the fix. Each program catches
`LumiereError` in one place and shows the message without a traceback: `stages.run` for stages,
`flows.program.run` for the flow's program, `flows.flow.lumiere_pipeline` for the flow itself (its
state carries the message), `lumiere.cli.app` for the command line, and `run_program` of this module
for all other programs. Any other exception is a bug in this package, unless a program names it as a
result of bad input.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

# The exit code of a stage whose failure can pass, such as a folder that another process uses. It is
# EX_TEMPFAIL of sysexits.h. The flow tries such a stage again.
TRY_AGAIN = 75


class LumiereError(Exception):
    """The base class of every error that a user can fix."""


class ParamsError(LumiereError, ValueError):
    """A value in a params file, or a command-line option, cannot be used."""


class DataError(LumiereError, ValueError):
    """An input file or folder other than a video is missing, damaged or of another kind.

    Attributes:
        problem: the message without its cure. A caller that knows a better cure starts from it.
    """

    def __init__(self, problem: str = "", cure: str = "") -> None:
        super().__init__(f"{problem}; {cure}" if cure else problem)
        self.problem = problem


class VideoError(LumiereError, ValueError):
    """A video cannot be decoded as requested."""


class DamagedVideoError(VideoError):
    """Pictures of a video are damaged; a decoder would fill them with guesses."""


class FetchError(VideoError):
    """A video cannot be fetched from where it is; another time it may be."""


class DiskError(LumiereError):
    """A file cannot be read or written: the disk is full or fails, or a permission is missing."""


class LockError(LumiereError):
    """Another process is using the same folder."""


class ModelError(ParamsError):
    """A model or its device cannot be used, so no request can be met."""


class TrainingDiverged(LumiereError):
    """The loss became NaN or blew up; try other params. The last good checkpoint is kept."""


class WorkerError(LumiereError):
    """A worker process, or another process of the same training, ended early or stopped responding.

    Attributes:
        may_pass: whether the same work may succeed later. A process that ended by itself had a
            reason, and will have it again.
    """

    def __init__(self, message: str = "", may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def exit_code(error: LumiereError) -> int:
    """Return the exit code of a stage that ends with an error: `TRY_AGAIN` if it can pass, else 1."""
    if isinstance(error, LockError) or (isinstance(error, WorkerError) and error.may_pass):
        return TRY_AGAIN
    return 1


def one_line(error: BaseException) -> str:
    """Return the whole message of an error, with every run of whitespace as one space; its class
    if the message is empty.
    """
    return " ".join(str(error).split()) or type(error).__name__


def sentence(error: Exception) -> str:
    """Return the message of an error, on one line. An error of the operating system about a file
    names the file first.
    """
    if isinstance(error, OSError) and error.filename is not None:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "free some disk space" if is_full else "check the path and its permissions"
        return f"{error.filename}: {error.strerror}; {cure}"
    return one_line(error)


def run_program(main: Callable[[], None], *bad_input: type[Exception]) -> None:
    """Run a program's main function; print an error that the user can fix as one line, and exit
    with code 1.

    Args:
        main: the program.
        bad_input: the errors besides `LumiereError` that bad input causes in this program.
    """
    expected: tuple[type[Exception], ...] = (LumiereError, *bad_input)
    try:
        main()
    except expected as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)


def first_line(error: object) -> str:
    """Return the first line of an error's message; its class if the message is empty.

    Use it to quote one error in the message of another, because C++ libraries append a stack trace.
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
