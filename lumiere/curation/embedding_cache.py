"""Keeps the embeddings of clips from one run to the next: a table on the disk, to which runs add."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lumiere.files import write_atomically


class EmbeddingCache:
    """Stores vectors of one length by key.

    Args:
        path: the file of the vectors; the keys lie beside it. A run that was killed leaves vectors
            without a key at its end, which are overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._keys_path = path, path.with_suffix(".keys")
        size, *keys = self._keys_path.read_text().split() if self._keys_path.is_file() else ["0"]
        self._size = int(size)
        num_stored = path.stat().st_size // (4 * self._size) if self._size and path.is_file() else 0
        self._places = {key: place for place, key in enumerate(keys[:num_stored])}
        self._has_lost_vectors = len(keys) > num_stored

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, keys: list[str], vectors: np.ndarray) -> None:
        """Store vectors, float32 (n, d), of new and different keys."""
        if vectors.shape[1] != self._size:  # of another network, or the first ones
            self._size, self._places, self._has_lost_vectors = vectors.shape[1], {}, True
        if self._has_lost_vectors:
            # First, so that a run that is killed here leaves no keys for other vectors.
            self._keys_path.unlink(missing_ok=True)
            self._has_lost_vectors = False
        start = len(self._places)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.is_file() else "w+b") as file:
            file.truncate(4 * self._size * start)
            file.seek(0, 2)
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        self._places |= {key: start + i for i, key in enumerate(keys)}

    def save(self) -> None:
        """Write the keys, which makes the vectors count."""
        write_atomically(self._keys_path, "\n".join([str(self._size), *self._places]).encode())

    def copy_to(self, keys: list[str], target: np.ndarray) -> None:
        """Copy the vectors of keys into float32 (n, d), row by row."""
        shape = (len(self._places), self._size)
        stored = np.memmap(self._path, np.float32, "r", shape=shape)
        for row, key in enumerate(keys):
            target[row] = stored[self._places[key]]

    @property
    def size(self) -> int:
        """The length of a vector."""
        return self._size
