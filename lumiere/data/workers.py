"""Runs tasks in worker processes that can be killed, so that a decoder that hangs costs one clip
instead of the run.

A worker serves many tasks, because starting a process takes seconds. It is killed and replaced if
it makes no progress within the time limit, or takes more memory than the limit allows. A task that
takes too much memory in a worker with earlier tasks is tried once more in a new worker. A task
reports progress with `report_progress`, for example after a decoded frame, a packet or a part of a
hashed file: a long video may take its time, and a decoder that spins reports nothing.

The package pebble (5.2.3) does not help: if the parent is killed while a decoder spins, its workers
keep running, because they notice the end of the parent only when they read their pipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from lumiere.errors import WorkerError

Result = TypeVar("Result")

PROGRESS = "progress"

CURE = "free memory or lower the number of workers, and run the stage again"
PROGRESS_EVERY_S = 0.5  # reports that follow each other faster are dropped
LOOK_EVERY_S = 0.5  # at the memory of the workers
PAGE = os.sysconf("SC_PAGE_SIZE")
START_LIMIT_S = 180.0  # for imports on a busy machine; does not count against a task


@dataclass(frozen=True)
class Failure:
    """The outcome of a task that has no result.

    Attributes:
        kind: "timeout" (it was killed at its limit), "memory" (it was killed for what it took),
            "crashed" (its process died) or "error" (it raised).
        detail: what happened, as text.
        error: the exception if kind is "error" and the exception can be pickled.
    """

    kind: str
    detail: str
    error: Exception | None = None


def run_tasks(
    function: Callable[..., Result],
    tasks: Sequence[tuple],
    workers: int,
    timeout_s: float,
    memory_mb: float = math.inf,
) -> Iterator[tuple[int, Result | Failure]]:
    """Call `function(*task)` for each task in other processes.

    Args:
        function: a function that can be imported by its name; its arguments and results must
            pickle.
        tasks: the arguments of each call; one is asked for when a worker is free for it.
        workers: how many processes to start.
        timeout_s: the limit for a task between two reports of progress, in wall-clock seconds.
        memory_mb: the limit for one worker process, of memory that only it uses.

    Yields:
        (index of the task, its result) as tasks finish; the order depends on the machine.

    Raises:
        WorkerError: if a worker process cannot start.
    """
    with contextlib.closing(supervise(function, tasks, workers, timeout_s, memory_mb)) as outcomes:
        for outcome in outcomes:
            if outcome is not None:
                yield outcome


def supervise(
    function: Callable[..., Result],
    tasks: Sequence[tuple],
    workers: int,
    timeout_s: float,
    memory_mb: float = math.inf,
    beat_s: float = math.inf,
) -> Generator[tuple[int, Result | Failure] | None]:
    """Do what `run_tasks` does, and also yield None every `beat_s` seconds, as a sign of life."""
    waiting = iter(enumerate(tasks))
    slots: list[_Slot[Result]] = []
    left, beat = len(tasks), time.monotonic()
    try:
        for _ in range(min(workers, len(tasks))):
            slots.append(_Slot(function, timeout_s, memory_mb))
        while left:
            for slot in slots:
                if slot.is_idle and (following := next(waiting, None)) is not None:
                    slot.send(*following)
            limit = min(slot.deadline for slot in slots) - time.monotonic()
            limit = min(limit, beat_s, math.inf if memory_mb == math.inf else LOOK_EVERY_S)
            ready = wait([slot.connection for slot in slots], timeout=max(0.0, limit))
            for slot in slots:
                outcome = slot.collect(slot.connection in ready)
                if outcome is not None:
                    left -= 1
                    yield outcome
            if time.monotonic() - beat >= beat_s:
                beat = time.monotonic()
                yield None
    finally:
        for slot in slots:
            slot.kill()


_connection: Connection | None = None  # of this process, if it is a worker
_reported = 0.0


class _Slot(Generic[Result]):
    """Runs one worker process at a time, and holds its current task.

    Attributes:
        index: of the current task; None without one.
        task: the arguments of the latest task.
        num_sent: the number of tasks that were sent to this process.
    """

    def __init__(self, function: Callable[..., Result], timeout_s: float, memory_mb: float) -> None:
        self.function, self.timeout_s, self.memory_mb = function, timeout_s, memory_mb
        self.index: int | None = None
        self.task: tuple = ()
        self._start()

    def _start(self) -> None:
        # Workers are spawned, because a fork of a process with threads (torch, decoders) may hang.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(self.function, theirs, os.getpid()), daemon=True
        )
        try:
            self.process.start()
        except OSError as error:
            self.connection.close()
            raise WorkerError(
                f"a worker process cannot start: {error.strerror or error}; {CURE}"
            ) from None
        finally:
            theirs.close()
        self.is_ready, self.index, self.num_sent = False, None, 0
        self.deadline = time.monotonic() + START_LIMIT_S

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.index is None

    def send(self, index: int, task: tuple) -> None:
        self.index, self.task = index, task
        self.num_sent += 1
        self.deadline = time.monotonic() + self.timeout_s
        with contextlib.suppress(OSError):  # the worker has died, which `collect` notices
            self.connection.send((index, task))

    def collect(self, has_message: bool) -> tuple[int, Result | Failure] | None:
        """Return the outcome of this worker's task; None if there is none yet."""
        if has_message:
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                return self._replace("crashed", "the worker process died")
            if not self.is_ready:
                self.is_ready, self.deadline = True, float("inf")
                if self.index is not None:  # a task that the process before did not finish
                    self.send(self.index, self.task)
                return None
            if message == PROGRESS:
                self.deadline = time.monotonic() + self.timeout_s
            else:
                index, outcome = message
                assert index == self.index, "a result came for another task"
                self.index, self.deadline = None, float("inf")
                return index, outcome
        if time.monotonic() >= self.deadline:
            return self._replace("timeout", f"no progress for {self.timeout_s:g} s")
        if self.index is not None and _memory_mb(self.process.pid) > self.memory_mb:
            return self._out_of_memory()
        return None

    def _out_of_memory(self) -> tuple[int, Failure] | None:
        """End a task that takes too much memory. If earlier tasks may have left memory behind in
        this process, try the task once more in a new one.
        """
        if self.num_sent == 1:
            return self._replace("memory", f"it took more than {self.memory_mb:g} MB")
        index = self.index
        self.kill()
        self._start()
        self.index = index
        return None

    def _replace(self, kind: str, detail: str) -> tuple[int, Failure] | None:
        if not self.is_ready:
            raise WorkerError(
                f"a worker process cannot start: {detail} (exit code {self.process.exitcode}); {CURE}"
            )
        index = self.index
        self.kill()
        if kind == "crashed":
            detail += f" (exit code {self.process.exitcode})"
        self._start()
        return None if index is None else (index, Failure(kind, detail))

    def kill(self) -> None:
        if self.process.pid is not None:  # None if the process could not start
            self.process.kill()
            self.process.join()
        self.connection.close()


def report_progress() -> None:
    """Tell the process that started this worker that its task goes on; elsewhere, do nothing."""
    global _reported
    now = time.monotonic()
    if _connection is not None and now - _reported >= PROGRESS_EVERY_S:
        _reported = now
        _connection.send(PROGRESS)


def hash_with_progress(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal, and report progress meanwhile."""
    with _ReportingFile(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _ReportingFile(io.FileIO):
    """Reports progress at each read of a file, because a large file takes minutes."""

    def readinto(self, buffer: Any, /) -> int:
        report_progress()
        return super().readinto(buffer) or 0  # None is for files that do not block


def _memory_mb(pid: int | None) -> float:
    """Return the memory that only this process uses; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[1]) - int(fields[2])) * PAGE / 2**20


def _serve(function: Callable[..., Any], connection: Connection, parent: int) -> None:
    """Run the worker's loop, which ends when its parent ends for any reason."""
    global _connection
    _connection = connection
    # Ctrl-C reaches the parent too, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    connection.send("ready")
    while True:
        try:
            index, task = connection.recv()
        except EOFError:
            return
        try:
            outcome = function(*task)
        except Exception as error:  # any exception of a decoder is the outcome of its file
            outcome = Failure("error", f"{type(error).__name__}: {error}", error)
        try:
            connection.send((index, outcome))
        except (TypeError, AttributeError, ValueError) as error:  # the exception cannot be pickled
            connection.send((index, Failure("error", f"{type(error).__name__}: {error}")))


def _end_with_parent(parent: int) -> None:
    """Exit when the parent is gone. A decoder that spins never reads the pipe, so it would not
    notice that the pipe has closed.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
