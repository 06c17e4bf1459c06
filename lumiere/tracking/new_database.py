"""Makes a new SQLite database of MLflow, all of it or nothing.

MLflow fills a new database in 60 steps, which take seconds. A process that ends in between, as a short
stage does, would leave a database that no later process can use.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

_at_work = threading.Event()


def is_being_made() -> bool:
    """Return whether this process makes a database now."""
    return _at_work.is_set()


def make_database(uri: str, path: Path) -> None:
    """Make the tables of MLflow in a file beside the database, and rename it. The caller holds the lock
    that keeps other processes out.

    Args:
        uri: the address of the database, as MLflow reads it.
        path: its file, which is empty.
    """
    from mlflow.store.db import utils

    new = Path(f"{path}.new")
    for suffix in ("", "-journal", "-wal", "-shm"):  # of a process that was killed
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{new}{suffix}")
    _at_work.set()
    try:
        engine = utils.create_sqlalchemy_engine(f"{uri.partition('?')[0]}.new")
        try:
            utils._initialize_tables(engine)  # there is no public function for a file alone
        finally:
            engine.dispose()
        os.replace(new, path)
    finally:
        _at_work.clear()
