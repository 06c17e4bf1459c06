"""Keeps arrays in files without a name, so that memory does not grow with the number of clips.

The system keeps as much of them in memory as it has room for, and the file is gone with the array.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np


def disk_array(shape: tuple[int, ...], dtype: type, folder: Path | None = None) -> np.ndarray:
    """Return an array of zeros.

    Args:
        shape, dtype: of the array.
        folder: where its file lies; by default the system's folder for temporary files.
    """
    if 0 in shape:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


class ArrayFile:
    """Arrays that come one after the other, and are needed all at once at the end.

    Args:
        shape, dtype: of each item.
        folder: where its file lies.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  finish() closes it
        self._count = 0

    def add(self, items: np.ndarray) -> slice:
        """Store items, (n, *shape), and return their place."""
        self._file.write(np.ascontiguousarray(items, self._dtype).tobytes())
        self._count += len(items)
        return slice(self._count - len(items), self._count)

    def finish(self) -> np.ndarray:
        """Return all items, (count, *shape), and take no more."""
        with self._file as file:
            file.flush()
            if not self._count:
                return np.zeros((0, *self._shape), self._dtype)
            shape = (self._count, *self._shape)
            return np.asarray(np.memmap(file, self._dtype, "r", shape=shape))


class ItemFile:
    """Arrays of one shape that are added and read one by one, so that none of them stays in memory.

    A mapped file would do as well, but the memory of a process would seem to grow with it.

    Args:
        shape, dtype: of each item.
        folder: where the file lies; by default the system's folder for temporary files.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._num_bytes = math.prod(shape) * self._dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  close() closes it
        self._count = 0
        self._is_flushed = True

    def append(self, item: np.ndarray) -> None:
        """Add an array at the end."""
        assert item.shape == self._shape and item.dtype == self._dtype
        self._file.write(np.ascontiguousarray(item).data)
        self._count += 1
        self._is_flushed = False

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> np.ndarray:
        """Read item i, 0 <= i < len."""
        assert 0 <= i < self._count
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
        item = np.empty(self._shape, self._dtype)
        num_read = os.preadv(self._file.fileno(), [item.data], i * self._num_bytes)
        if num_read != self._num_bytes:
            raise OSError("a temporary file lost its end")
        return item

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
