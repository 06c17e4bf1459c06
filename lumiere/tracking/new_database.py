"""Makes a new SQLite database of MLflow, all of it or nothing.

MLflow fills a new database in 60 steps, which take seconds. A process that ends in between, as a short
stage does, would leave a database that no later process can use.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from lumiere.locks import exclusive

_is_due = threading.Event()
_migrating = threading.Lock()


def is_due() -> bool:
    """Return whether this process has a database to make, or makes it now."""
    return _is_due.is_set()


def expect_database(path: Path | None) -> None:
    """Note that this process will make a database if it is not there; `database_is_open` ends that.

    Args:
        path: its file; None for a database of another kind.
    """
    if path is not None and is_empty(path):
        _is_due.set()


def database_is_open() -> None:
    """Note that the database is there, or cannot be made."""
    _is_due.clear()


def is_empty(path: Path) -> bool:
    """Return whether a file is missing, or has no content."""
    return not path.exists() or not path.stat().st_size


def make_database(uri: str, path: Path) -> None:
    """Make the tables of MLflow in a file beside the database, and rename it.

    Args:
        uri: the address of the database, as MLflow reads it.
        path: its file, which is empty.
    """
    from mlflow.store.db import utils

    new = Path(f"{path}.new")
    # Projects may share a database.
    with exclusive(Path(f"{path}.lock")):
        if not is_empty(path):
            return
        for suffix in ("", "-journal", "-wal", "-shm"):  # of a process that was killed
            with contextlib.suppress(FileNotFoundError):
                os.remove(f"{new}{suffix}")
        engine = utils.create_sqlalchemy_engine(f"{uri.partition('?')[0]}.new")
        try:
            # alembic has one current connection for the whole process.
            with _migrating:
                utils._initialize_tables(engine)  # there is no public function for a file alone
        finally:
            engine.dispose()
        os.replace(new, path)
