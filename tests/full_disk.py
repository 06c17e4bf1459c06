"""A disk without room, for anyone on any Unix: no file may grow beyond a size, which fails as a full disk does."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ROOM = 20_000  # bytes of a file: JSON fits, weights do not


def fill_disk() -> None:
    """From now on this process gets EFBIG in the middle of a larger file (Python ignores SIGXFSZ)."""
    sys.dont_write_bytecode = True  # importlib leaves half a .pyc where a write is short
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def full_disk() -> Iterator[None]:
    """The same for a while."""
    before = sys.dont_write_bytecode, resource.getrlimit(resource.RLIMIT_FSIZE)
    fill_disk()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
