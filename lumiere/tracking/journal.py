"""Keeps on disk what runs record, until MLflow has it.

A run only writes to its journal, which takes microseconds, and `lumiere.tracking.delivery` carries
the entries to MLflow. So a server that is slow or gone delays nothing and loses nothing.

A journal is a folder in `.lumiere/mlflow-queue/`, with a name that sorts earlier runs first:

lock             locked by the process that writes or delivers the journal
address          the store that the entries are for, without passwords
figures.jsonl    one entry a line: the run's start, params, metrics, tags and end
figures.json     how far `figures.jsonl` is delivered
artifacts.jsonl  one entry a line: an artifact
artifacts.json   how far `artifacts.jsonl` is delivered
files/           copies of the artifacts that are not delivered yet

Artifacts have a file of their own, so that metrics still arrive while an artifact store fails.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lumiere.files import write_atomically
from lumiere.locks import make_folder

QUEUE = Path(".lumiere", "mlflow-queue")

Entry = dict[str, Any]


@dataclass
class Progress:
    """The part of one file of a journal that is delivered.

    Attributes:
        offset: bytes delivered.
        run_id: MLflow's id of the run; None until MLflow has created it.
        may_exist: whether a request to create the run was sent. Its answer may have been lost.
    """

    offset: int = 0
    run_id: str | None = None
    may_exist: bool = False


class EntryFile:
    """One file of entries of a journal, and how far it is delivered."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self._progress_path = folder / f"{name}.json"
        self.progress = _read_progress(self._progress_path)
        self._lock = threading.Lock()
        self._is_torn = True  # an earlier process may have been killed while it wrote

    def add(self, entry: Entry) -> None:
        """Append an entry.

        Raises:
            OSError: if it cannot be written.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if self._is_torn:
                    line = b"\n" + line
                self._is_torn = True
                if os.write(descriptor, line) != len(line):  # one call, so that no kill divides it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                self._is_torn = False
            finally:
                os.close(descriptor)

    def pending(self) -> Iterator[tuple[Entry, int]]:
        """Yield the entries that are not delivered, each with the offset of its end."""
        if not self.path.exists():
            return
        offset = self.progress.offset
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written, or a kill cut it short
                    return
                offset += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:  # an empty line, or one that a full disk cut short
                    continue
                yield entry, offset

    def count(self) -> int:
        """Return the number of entries that are not delivered."""
        return sum(1 for _ in self.pending())

    def advance(self, offset: int) -> None:
        """Note that the entries up to `offset` are delivered."""
        self.progress.offset = offset
        self.save()

    def save(self) -> None:
        """Write the progress to disk."""
        if self.path.parent.exists():  # `make clean` may have deleted it
            write_atomically(self._progress_path, json.dumps(vars(self.progress)).encode())


class Journal:
    """The journal of one run.

    Attributes:
        key: names the run before MLflow does; the name of the journal's folder.
        figures: the entries of the run itself.
        artifacts: the entries of its artifacts.
        has_begun_again: whether `begin_again` was called.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self.key, self._file_lock = folder, folder.name, lock
        self.figures = EntryFile(folder, "figures")
        self.artifacts = EntryFile(folder, "artifacts")
        self.has_begun_again = False
        self._copies = 0

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has created it."""
        return self.figures.progress.run_id

    @property
    def is_delivered(self) -> bool:
        """Return whether MLflow has all entries."""
        return self.figures.count() == 0 and self.artifacts.count() == 0

    @property
    def is_ended(self) -> bool:
        """Return whether the last entry says how the run ended."""
        if not self.figures.path.exists():
            return False
        with self.figures.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        return last.startswith(b'{"do": "end"')

    @property
    def begun_at(self) -> int:
        """When the run began, in milliseconds since 1970; 0 if its first entry was cut short."""
        return int(self._beginning().get("time", 0))

    def is_child_of(self, other: Journal) -> bool:
        """Return whether the run's parent is the run of another journal."""
        parent = self._beginning().get("parent")
        return parent is not None and parent in (other.key, other.run_id)

    def _beginning(self) -> Entry:
        with self.figures.path.open("rb") as file:
            lines = (line for line in file if line.strip())
            try:
                entry: Entry = json.loads(next(lines, b"{}"))
            except ValueError:
                return {}
        return entry

    def copy(self, path: Path) -> str:
        """Copy a file or folder into the journal, because the original may change before it is
        delivered. Return the path of the copy, relative to the journal.

        Raises:
            OSError: if it cannot be copied.
        """
        self._copies += 1
        target = Path("files", f"{self._copies:05d}", path.name)
        absolute = self.folder / target
        absolute.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, absolute)
        else:
            shutil.copyfile(path, absolute)
        return str(target)

    def begin_again(self) -> None:
        """Mark everything as not delivered, and the run as one to look for before it is created."""
        for file in (self.figures, self.artifacts):
            file.progress = Progress(may_exist=True)
            file.save()
        self.has_begun_again = True

    def remove(self) -> None:
        """Delete the journal."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._file_lock.release()


def begin_journal(root: Path, address: str) -> Journal:
    """Begin the journal of a new run of the project in `root`, for the store at `address`.

    Raises:
        OSError: if it cannot be written.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}-{uuid.uuid4().hex[:8]}"
    folder = root / QUEUE / name
    # It has its lock before others see it, so that no process takes it for an abandoned one.
    hidden = folder.with_name(f".{name}")
    make_folder(hidden)
    (hidden / "address").write_text(address)
    lock = _lock_of(hidden)
    lock.acquire()
    hidden.rename(folder)
    return Journal(folder, lock)


def waiting_journals(root: Path) -> list[Path]:
    """List the journals of the project in `root` that are not delivered, oldest first."""
    queue = root / QUEUE
    folders = sorted(queue.iterdir()) if queue.exists() else []
    return [folder for folder in folders if not folder.name.startswith(".")]


def abandoned_journals(root: Path, address: str, own: set[str]) -> Iterator[Journal]:
    """Lock and yield the journals for the store at `address` whose process has ended, oldest first.

    Args:
        root: the project's folder.
        address: see `begin_journal`.
        own: the keys of the journals of this process.
    """
    for folder in waiting_journals(root):
        if folder.name in own:
            continue
        if not (folder / "address").exists() or (folder / "address").read_text() != address:
            continue
        lock = _lock_of(folder)
        try:
            lock.acquire()
        except (Timeout, OSError):  # its process is at work, or has just deleted it
            continue
        journal = Journal(folder, lock)
        if journal.figures.path.exists():
            yield journal
        else:
            journal.remove()


def _read_progress(path: Path) -> Progress:
    if not path.exists():
        return Progress()
    try:
        return Progress(**json.loads(path.read_text()))
    except (ValueError, TypeError):  # a power cut can leave an empty file
        return Progress(may_exist=True)  # sending everything again changes nothing


def _lock_of(folder: Path) -> FileLock:
    # The thread that delivers releases what another thread acquired.
    return FileLock(folder / "lock", timeout=0, thread_local=False)
