"""Checks files of SQLite before a program opens them, and renames those that are damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

LOCK_SECONDS = 2.0  # how long a look waits for another process


def probe(path: Path) -> None:
    """Open a database and read its header and its list of tables. A file that is missing is made.

    Raises:
        sqlite3.OperationalError: if it is locked, or cannot be opened now.
        sqlite3.DatabaseError: if it is damaged, or no database.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()


def set_aside(path: Path) -> Path:
    """Rename a database, and what SQLite keeps beside it, so that a new one begins; return its new
    path.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside
