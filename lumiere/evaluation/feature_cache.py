"""A folder of features that were computed before, so that unchanged videos are not embedded again.

Each entry is a file of its own: the SHA-256 of the rest, then a .npy array. Its name is a hash of
the frames and of the backbone's identity. Two processes may share the folder, because entries
appear by renaming. An entry that is damaged counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lumiere.evaluation.backbones.interface import Backbone, Classifier

SUFFIX = ".features"
DIGEST_BYTES = 32
DEFAULT_MAX_BYTES = 2**30
KEPT_FRACTION = 0.8  # of max_bytes, after old entries were removed
ABANDONED_SECONDS = 3600  # a temporary file of this age belongs to a process that was killed

log = logging.getLogger(__name__)


class FeatureCache:
    """Features on disk. What comes from the cache equals what the backbone computed, bit by bit."""

    def __init__(
        self, folder: str | Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        """
        Args:
            folder: where the entries lie; None means `$XDG_CACHE_HOME/lumiere/features`.
            max_bytes: if the entries take more, those that were used longest ago are removed.

        Raises:
            ValueError: if `max_bytes` is not positive.
        """
        if max_bytes <= 0:
            raise ValueError(f"max_bytes {max_bytes}; allowed: more than 0")
        self.folder = default_folder() if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._bytes: int | None = None  # on disk, as of the last look and what was added since
        self._writable = True

    def embed(self, backbone: Backbone, frames: np.ndarray) -> np.ndarray:
        """Return `backbone.embed(frames)`, from the disk if it was computed before."""
        return self._get("embed", backbone.identity, frames, backbone.embed)

    def probabilities(self, backbone: Classifier, frames: np.ndarray) -> np.ndarray:
        """Return `backbone.probabilities(frames)`, from the disk if it was computed before."""
        return self._get("probabilities", backbone.identity, frames, backbone.probabilities)

    def _get(
        self,
        kind: str,
        identity: str,
        frames: np.ndarray,
        compute: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        key = _key(kind, identity, frames)
        path = self.folder / key[:2] / f"{key}{SUFFIX}"
        cached = _read(path)
        if cached is not None:
            self.hits += 1
            return cached
        self.misses += 1
        values = compute(frames)
        self._write(path, values)
        return values

    def _write(self, path: Path, values: np.ndarray) -> None:
        """Add an entry. A folder that cannot be written costs time, not the evaluation."""
        if not self._writable:
            return
        content = _pack(values)
        try:
            _write_entry(path, content)
            self._make_room(len(content))
        except OSError as error:
            self._writable = False
            log.warning("features are not kept in %s: %s", self.folder, error.strerror)

    def _make_room(self, added: int) -> None:
        if self._bytes is None:
            self._bytes = sum(size for _, size, _ in self._entries())
        else:
            self._bytes += added
        if self._bytes <= self.max_bytes:
            return
        entries = sorted(self._entries())  # by the time of the last use
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.max_bytes * KEPT_FRACTION:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._bytes = total

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List time of the last use, size and path of all entries; delete abandoned files."""
        entries = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                if path.suffix == SUFFIX:
                    entries.append((status.st_mtime, status.st_size, path))
                elif path.suffix == ".tmp" and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
        return entries


def default_folder() -> Path:
    """Return `$XDG_CACHE_HOME/lumiere/features`, or the same in ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # unset, or relative, which the standard says to ignore
        base = Path.home() / ".cache"
    return base / "lumiere" / "features"


def _key(kind: str, identity: str, frames: np.ndarray) -> str:
    header = f"{kind}\n{identity}\n{frames.dtype.str}\n{frames.shape}\n"
    digest = hashlib.sha256(header.encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def _pack(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    array = stream.getvalue()
    return hashlib.sha256(array).digest() + array


def _read(path: Path) -> np.ndarray | None:
    """Return an entry's array and note its use; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, array = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(array).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return np.load(io.BytesIO(array), allow_pickle=False)


def _write_entry(path: Path, content: bytes) -> None:
    """Write under a name of its own and rename: other threads and processes see all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.close()
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
