"""Arrays that lie in files without a name, so that memory does not grow with the number of clips.

The system keeps as much of them in memory as it has room for, and the file is gone with the array.
"""

from __future__ import annotations

import math
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
