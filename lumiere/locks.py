"""File locks that keep two processes out of one folder.

The kernel frees a lock when its process ends for any reason. The lock files hold no data.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lumiere.errors import LockError

STATE = ".lumiere"  # the folder of a project with databases, logs and locks
RETRY_SECONDS = 0.2

_owned: dict[Path, FileLock] = {}  # folders that this process has locked


def own_folder(folder: Path, work: str) -> None:
    """Lock a folder until this process ends or calls `release_folder`.

    A process may lock the same folder twice. The lock file is beside the folder, which may not
    exist yet.

    Args:
        folder: the folder to lock.
        work: what another process would be doing in it, such as "another decoding"; used in the
            message.

    Raises:
        LockError: if another process has locked the folder.
    """
    if folder.resolve() in _owned:
        return
    make_folder(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise LockError(
            f"{folder}: {work} is running in this folder; try again when it has ended"
        ) from None
    _owned[folder.resolve()] = lock


def release_folder(folder: Path) -> None:
    """Unlock a folder and delete its lock file; do nothing unless this process has locked it."""
    lock = _owned.pop(folder.resolve(), None)
    if lock is None:
        return
    # Delete the file while the lock is held. A process that waits for the lock then sees that the
    # file is gone, and makes a new one.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they exist.

    If this makes the folder `.lumiere`, only this user can enter it: its databases, logs and
    journals have uncommitted code, addresses of servers, and Prefect's key for its secrets. Those
    who share a project change the mode of the folder, and it stays as they set it.
    """
    for folder in (*reversed(path.parents), path):
        if folder.name == STATE:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(parents=True, exist_ok=True)


def exclusive(path: Path) -> FileLock:
    """Return a context manager that waits for the lock file `path`; for sections that take a
    moment.
    """
    make_folder(path.parent)
    return FileLock(path)


@contextlib.contextmanager
def inheritable_lock(path: Path, wait_seconds: float, busy: str) -> Iterator[int]:
    """Hold a lock that child processes keep by inheriting its descriptor.

    The lock is free when the last process that holds the descriptor has ended. `FileLock` cannot do
    this, because its release would also unlock the file for the children.

    Args:
        path: the lock file; holds the owner's process id.
        wait_seconds: how long to wait for the current owner.
        busy: the message if the lock is still held then; `{owner}` is replaced by the owner's
            process id.

    Yields:
        The descriptor, to be passed to child processes.

    Raises:
        LockError: if another process still holds the lock after `wait_seconds`.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace") or "?"
                raise LockError(busy.replace("{owner}", owner))
            time.sleep(RETRY_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    import fcntl  # does not exist on Windows, where only the flow cannot run

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
