"""Errors that a user can fix, named for what happened, and their messages.

Every message is one sentence that names the problem and the fix. Each program catches
`LumiereError` in one place and prints the message without a traceback: `stages.run` for stages,
`flows.pipeline.main` for the flow and `lumiere.cli.app` for the command line. Any other exception
is a bug in this package.
"""

from __future__ import annotations


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


class DiskError(LumiereError):
    """A file cannot be read or written: the disk is full or fails, or a permission is missing."""


class LockError(LumiereError):
    """Another process is using the same folder."""


class WorkerError(LumiereError):
    """A worker process, or another process of the same training, ended early or stopped responding."""


def one_line(error: BaseException) -> str:
    """Return the whole message of an error, with every run of whitespace as one space; its class
    if the message is empty.
    """
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: object) -> str:
    """Return the first line of an error's message; its class if the message is empty.

    Use it to quote one error in the message of another, because C++ libraries append a stack trace.
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
