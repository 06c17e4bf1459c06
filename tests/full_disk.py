"""Imitates a full disk on any Unix, without privileges: no file may grow beyond a small size."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ROOM = 20_000  # bytes of a file: JSON fits, weights do not


def fill_disk() -> None:
    """Make larger writes of this process fail with EFBIG from now on (Python ignores SIGXFSZ)."""
    sys.dont_write_bytecode = True  # importlib leaves half a .pyc where a write is short
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def full_disk() -> Iterator[None]:
    """Fill the disk while the context is open."""
    before = sys.dont_write_bytecode, resource.getrlimit(resource.RLIMIT_FSIZE)
    fill_disk()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
