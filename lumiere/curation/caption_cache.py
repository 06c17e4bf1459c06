"""Keeps the captions that a model wrote from one run to the next: a table on the disk, to which runs add."""

from __future__ import annotations

import json
from pathlib import Path


class CaptionCache:
    """Sentences by key.

    Args:
        path: a file of JSON lines. A run that was killed leaves half a line at its end, which is
            overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._captions: dict[str, str] = {}
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self._size = len(whole)
        for line in whole.splitlines():
            key, caption = json.loads(line)
            self._captions[key] = caption

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
