"""Outputs of stages as DVC leaves them with `cache.type symlink`: links into its cache.

A stage that wrote into a file of an earlier stage would change the cache, and so every later checkout.
Hard links are the same to a program that writes, so one test covers both.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

CACHE = Path(".dvc", "cache", "files", "md5")


def link_outputs(root: Path) -> None:
    """Move all files of `outputs/` into the cache, and put links in their places."""
    for path in _files(root):
        if path.is_symlink():
            continue
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        stored = root / CACHE / digest[:2] / digest[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        path.replace(stored)
        stored.chmod(0o444)
        os.symlink(stored, path)


def changed_in_cache(root: Path) -> list[str]:
    """Return the files of the cache whose content is no longer that of their name."""
    stored = [path for path in (root / CACHE).rglob("*") if path.is_file()]
    return [
        path.name
        for path in stored
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name
    ]


def drop_links(root: Path) -> None:
    """Put files back in place of the links, and delete the cache."""
    for path in _files(root):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    shutil.rmtree(root / CACHE.parts[0])


def _files(root: Path) -> list[Path]:
    return [path for path in (root / "outputs").rglob("*") if path.is_file()]
