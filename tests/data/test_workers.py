"""Worker processes: whatever a task does, the others' results come, each under its own index."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from multiprocessing.context import SpawnProcess

import pytest

from lumiere.data.workers import Failure, report_progress, run_tasks
from lumiere.errors import WorkerError


def work(number: int, how: str) -> int:
    if how == "hang":
        time.sleep(600)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise ValueError(f"number {number}")
    time.sleep(0.05 * (number % 3))  # so that they finish in another order than they started
    return 10 * number


def test_failures_cost_only_themselves():
    tasks = [(i, {3: "hang", 5: "die", 7: "raise"}.get(i, "")) for i in range(12)]
    outcomes = dict(run_tasks(work, tasks, workers=2, timeout_s=1.0))
    assert sorted(outcomes) == list(range(12))
    assert {i: o for i, o in outcomes.items() if not isinstance(o, Failure)} == {
        i: 10 * i for i in range(12) if i not in (3, 5, 7)
    }
    assert [outcomes[i].kind for i in (3, 5, 7)] == ["timeout", "crashed", "error"]
    assert str(outcomes[7].error) == "number 7"


def slow(seconds: float, megabytes: int) -> int:
    """Work in small steps that are reported, and keep some memory."""
    kept = b"x" * (megabytes << 20)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        report_progress()
    return len(kept) >> 20


def test_progress_extends_the_limit_and_memory_has_one():
    tasks = [(4.0, 0), (8.0, 200), (0.0, 10)]
    outcomes = dict(run_tasks(slow, tasks, workers=1, timeout_s=3.0, memory_mb=150))
    assert (outcomes[0], outcomes[2]) == (0, 10)
    assert outcomes[1] == Failure("memory", "it took more than 150 MB")


KEPT = []  # in a worker, as a library keeps memory that it has freed


def leave_behind(megabytes: int) -> tuple[int, int]:
    """Take memory for good, and work long enough for it to be noticed."""
    KEPT.append(b"x" * (megabytes << 20))
    time.sleep(1.5)
    return megabytes, os.getpid()


def test_memory_that_other_tasks_left_behind_does_not_count():
    tasks = [(60,), (60,), (60,), (400,)]
    outcomes = dict(run_tasks(leave_behind, tasks, workers=1, timeout_s=30.0, memory_mb=150))
    assert [outcomes[i][0] for i in range(3)] == [60, 60, 60]
    assert len({outcomes[i][1] for i in range(3)}) > 1  # one was tried again in a new process
    assert outcomes[3] == Failure("memory", "it took more than 150 MB")


class Tasks(list):
    """Counts the tasks that were asked for."""

    asked = 0

    def __iter__(self):
        for task in super().__iter__():
            self.asked += 1
            yield task


def test_a_task_is_asked_for_when_a_worker_is_free():
    tasks = Tasks([(i, "") for i in range(8)])
    outcomes = run_tasks(work, tasks, workers=1, timeout_s=30.0)
    next(outcomes)
    assert 1 <= tasks.asked <= 2
    assert len(list(outcomes)) == 7 and tasks.asked == 8


def test_no_tasks_start_no_process():
    assert list(run_tasks(work, [], workers=4, timeout_s=1.0)) == []


@pytest.mark.parametrize("failing", [2, 3], ids=["at the beginning", "of one that died"])
def test_a_process_that_cannot_start_is_an_error_and_the_others_end(monkeypatch, failing):
    """As where a limit of processes is reached."""
    start, starts = SpawnProcess.start, []

    def limited(self):
        starts.append(self)
        if len(starts) == failing:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(self)

    monkeypatch.setattr(SpawnProcess, "start", limited)
    with pytest.raises(WorkerError, match="cannot start: Resource temporarily unavailable; free"):
        list(run_tasks(work, [(0, "die"), (1, ""), (2, ""), (3, "")], workers=2, timeout_s=5.0))
    assert len(starts) == failing and not multiprocessing.active_children()
