"""Keeps the captions that a model wrote from one run to the next: a table on the disk, to which runs add."""

from __future__ import annotations

import json
from pathlib import Path


class CaptionCache:
    """Stores sentences by key.

    Args:
        path: a file of JSON lines. From the first line that is damaged it is overwritten: a run that
            was killed leaves half a line at its end, and a power cut may leave zeros.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._captions: dict[str, str] = {}
        self._size = 0  # bytes of the lines that count
        content = path.read_bytes() if path.is_file() else b""
        for line in content.splitlines(keepends=True):
            entry = _read(line)
            if entry is None:
                break
            self._captions[entry[0]] = entry[1]
            self._size += len(line)

    def __contains__(self, key: str) -> bool:
        return key in self._captions

    def __getitem__(self, key: str) -> str:
        return self._captions[key]

    def add(self, key: str, caption: str) -> None:
        """Store a caption at once, because writing one takes seconds."""
        line = (json.dumps([key, caption]) + "\n").encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.is_file() else "w+b") as file:
            file.truncate(self._size)
            file.seek(0, 2)
            file.write(line)
        self._size += len(line)
        self._captions[key] = caption


def _read(line: bytes) -> tuple[str, str] | None:
    """Return the key and the caption of a line; None if it is damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(entry, list) or len(entry) != 2:
        return None
    key, caption = entry
    return (key, caption) if isinstance(key, str) and isinstance(caption, str) else None
