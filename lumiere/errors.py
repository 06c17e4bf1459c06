"""Errors that a user can mend, named for what happened.

Every message is one sentence that names the thing at fault and the cure. Programs print it without a traceback; one
place per program catches `LumiereError`. Anything else that is raised is a fault of this package.
"""

from __future__ import annotations


class LumiereError(Exception):
    """The base of the family."""


class ParamsError(LumiereError, ValueError):
    """A value in a params file, or an option, that cannot be used."""


class DataError(LumiereError, ValueError):
    """An input file or folder, other than a video, that is missing, damaged or of another kind."""


class VideoError(LumiereError, ValueError):
    """A video that cannot be decoded."""


class DiskError(LumiereError):
    """Something that cannot be written: a full disk, a missing permission."""


class LockError(LumiereError):
    """Another process is at work in the same place."""


class WorkerError(LumiereError):
    """A worker process or another process of the same training ended early, or said nothing for too long."""
