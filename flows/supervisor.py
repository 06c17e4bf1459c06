"""Runs one DVC stage so that it cannot outlive the flow.

Cancelling or killing a Prefect flow leaves its grandchildren (`dvc`, the trainer, its workers)
running. So each stage runs under a small process of its own, this file's `main`, which holds the
reading end of a pipe from the flow. When the flow ends for any reason, even by `kill -9`, the pipe
closes; the supervisor then stops the stage's processes, first with SIGTERM, later with SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

# From SIGTERM to SIGKILL: time to write a checkpoint and to end the MLflow run.
GRACE_SECONDS = 10.0
LEADER_SECONDS = 4.0  # for dvc, after its command has ended
POLL_SECONDS = 0.1
TIMED_OUT = 124  # the exit status of the program `timeout`


class Supervisors:
    """The supervisors of one flow run; `stop` stops them all when the run is interrupted."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(
        self,
        command: list[str],
        root: Path,
        env: dict[str, str],
        on_text: Callable[[str, bool], None],
        keep_open: tuple[int, ...] = (),
        seconds: float | None = None,
    ) -> int:
        """Run `command` in `root` and return its exit status; `TIMED_OUT` if it ran too long.

        Args:
            command: the program and its arguments.
            root: its working folder.
            env: its whole environment.
            on_text: called with each piece of output and whether it is a whole line. The updates of
                a progress bar end in a carriage return and do not count as lines.
            keep_open: file descriptors, such as a lock's, that stay open until the stage has ended.
            seconds: stop it after this time; by default never.
        """
        with self._lock:
            if self._is_stopped:
                return 128 + signal.SIGTERM
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).resolve()), *command],
                cwd=root,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that the terminal's Ctrl-C reaches only the flow
                pass_fds=keep_open,
            )
            self._running.add(process)
        is_late = threading.Event()
        timer = threading.Timer(seconds or 0.0, self._stop_late, [process, is_late])
        try:
            if seconds is not None:
                timer.start()
            assert process.stdout is not None
            for text, is_line in split_output(process.stdout.fileno()):
                on_text(text, is_line)
            status = process.wait()
            return TIMED_OUT if is_late.is_set() else status
        finally:
            timer.cancel()
            with self._lock:
                self._running.discard(process)
            _close_pipe(process)
            process.wait()

    def _stop_late(self, process: subprocess.Popen[bytes], is_late: threading.Event) -> None:
        with self._lock:
            if process in self._running and process.poll() is None:
                is_late.set()
                _close_pipe(process)

    @property
    def is_stopped(self) -> bool:
        """Return whether `stop` was called."""
        return self._is_stopped

    def stop(self) -> None:
        """Stop every stage and prevent others from starting. Do not wait for them."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                _close_pipe(process)


# By the process that they watch. Their pipes close when this process ends.
_guards: dict[int, subprocess.Popen[bytes]] = {}


def tie_to_this_process(marker: str) -> None:
    """Make child processes with `marker` in their command line end with this process, even after
    `kill -9`.

    Prefect stops its embedded server only on an orderly exit.
    """
    for child in psutil.Process().children():
        words: list[str] = []
        # The child may have ended meanwhile, or be a zombie, which has no command line.
        with contextlib.suppress(psutil.NoSuchProcess):
            words = child.cmdline()
        # One with a supervisor ends with this process already. A signal in between would stop that
        # supervisor before it has stopped the child.
        is_supervised = str(Path(__file__).resolve()) in words
        if child.pid not in _guards and not is_supervised and marker in " ".join(words):
            command = [
                sys.executable,
                "-P",
                str(Path(__file__).resolve()),
                "--guard",
                str(child.pid),
            ]
            _guards[child.pid] = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True
            )


def split_output(descriptor: int) -> Iterator[tuple[str, bool]]:
    r"""Yield (text, is_line) for each piece of output. A piece ends in \n (a line) or \r (a bar)."""
    buffer = b""
    while chunk := os.read(descriptor, 65536):
        *pieces, buffer = re.split(rb"(\r?\n|\r)", buffer + chunk)
        for text, ending in zip(pieces[::2], pieces[1::2], strict=True):
            if text.strip():
                yield text.decode(errors="replace").rstrip(), ending != b"\r"
    if buffer.strip():
        yield buffer.decode(errors="replace").rstrip(), True


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()


def main(command: list[str]) -> int:
    """Run `command` in a session of its own until it ends or until standard input closes."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_default_signals
    )
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin, selectors.EVENT_READ)
            while child.poll() is None and not selector.select(POLL_SECONDS):
                pass  # readable means closed, because the flow never writes
        status = child.poll()
        return 128 + signal.SIGTERM if status is None else status
    finally:
        _stop_group(child)


def guard(pid: int) -> int:
    """Wait until standard input closes, then end this process."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(psutil.NoSuchProcess):
        # It compares start times, so it cannot mistake another process for this one.
        process = psutil.Process(pid)
        sys.stdin.read()
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        process.kill()
    return 0


def _default_signals() -> None:
    """Restore the default signals, because a stage would inherit the ignored ones."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _stop_group(leader: subprocess.Popen[bytes]) -> None:
    """End all processes of the stage, in any process group: SIGTERM, later SIGKILL.

    The leader is `dvc`. It ends by itself when its command has, and then leaves no lock behind that
    the next run would report, so it gets SIGTERM only if it stays.
    """
    others = [
        process
        for process in _family(leader.pid)
        if process.pid != leader.pid and not _has_supervisor(process, leader.pid)
    ]
    _terminate(others)
    _, alive = psutil.wait_procs(others, timeout=GRACE_SECONDS)
    _kill(alive)
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(timeout=LEADER_SECONDS if others else 0)
    if leader.poll() is None:
        leader.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(timeout=LEADER_SECONDS)
    _kill(_family(leader.pid))
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(timeout=GRACE_SECONDS)


def _terminate(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _family(leader: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _belongs(process, leader)]


def _has_supervisor(process: psutil.Process, leader: int) -> bool:
    """Return whether a process below the leader has a supervisor of its own, which stops it in its
    own order.
    """
    with contextlib.suppress(psutil.Error):
        for parent in process.parents():
            if parent.pid == leader:
                return False
            if str(Path(__file__).resolve()) in parent.cmdline():
                return True
    return False


def _belongs(process: psutil.Process, leader: int) -> bool:
    """Return whether the process is in the leader's session or group, or descends from it."""
    with contextlib.suppress(psutil.Error, OSError):
        if process.pid == leader or leader in (os.getpgid(process.pid), os.getsid(process.pid)):
            return True
        return any(parent.pid == leader for parent in process.parents())
    return False


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(guard(int(arguments[1])) if arguments[0] == "--guard" else main(arguments))
