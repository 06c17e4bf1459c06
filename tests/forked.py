"""Programs that start at once: forked from a process that has imported torch and diffusers.

A new interpreter takes seconds of CPU to import them. A test that is not about the start of a
program runs it this way. The program ends as any interpreter does, exit handlers included, which
a child of `multiprocessing` would not. The processes that such a program launches for a training
are forked from it, for the same reason; tests/training/orphans.py launches new interpreters.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Program:
    """A running program, in a session of its own."""

    pid: int
    log: Path  # stdout and stderr
    status: Path  # appears at its end, with its exit code

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative after a signal; None while the program runs."""
        return int(self.status.read_text()) if self.status.exists() else None

    def wait(self, expected: int = 0, timeout: float = 300) -> str:
        """Wait for the end, check the exit code, and return what the program printed."""
        deadline = time.monotonic() + timeout
        while self.exit_code is None:
            assert time.monotonic() < deadline, f"still running: {self.log.read_text()}"
            time.sleep(POLL_SECONDS)
        printed = self.log.read_text()
        assert self.exit_code == expected, printed
        return printed


def start(
    command: Sequence[str],
    log: Path,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    imports: Sequence[str] = (),
) -> Program:
    """Start a module as a program.

    Args:
        command: what follows `python -m`: the module and its arguments.
        log: a new file for stdout and stderr.
        folder: the working folder; by default the current one.
        variables: of the environment, beside those of this process.
        imports: modules that this program and later ones find imported; beside those of a training.
    """
    status = log.with_name(f"{log.name}.status")
    status.unlink(missing_ok=True)
    request = {
        "command": list(command),
        "log": str(log),
        "status": str(status),
        "folder": str(folder or Path.cwd()),
        "environment": {**os.environ, **(variables or {})},
        "imports": list(imports),
    }
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    return Program(int(server.stdout.readline()), log, status)


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that programs are forked from; it ends when this one does."""
    command = [sys.executable, "-m", "tests.forked"]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _serve() -> None:
    """Fork a program for each line of stdin."""
    for name in ("stages.training", "lumiere.training.conditioned_task"):
        importlib.import_module(name)
    importlib.import_module("tests.estimated_flops").estimate_flops()
    for line in iter(sys.stdin.readline, ""):
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue  # an attendant that has ended
        request = json.loads(line)
        for name in request.pop("imports"):
            importlib.import_module(name)
        if os.fork() == 0:
            _attend(**request)
            return
    os._exit(0)


def _attend(
    command: list[str], log: str, status: str, folder: str, environment: dict[str, str]
) -> None:
    """Run a program in a child, and write its exit code when it ends. Only the child returns."""
    pid = os.fork()
    if pid == 0:
        _run(command, log, folder, environment)
        return
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    unfinished = Path(f"{status}.unfinished")
    unfinished.write_text(str(code))
    unfinished.rename(status)
    os._exit(0)


def _run(command: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(folder)
    subprocess_handler.Popen = ForkedPython  # type: ignore[assignment, misc]
    _run_module(command, environment)


def _run_module(command: list[str], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # A new interpreter would take this from the environment when it loads torch.
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


class ForkedPython:
    """What torch's launcher uses of `subprocess.Popen`, for `python -m module arguments`.

    The process is a child of the launcher in a session of its own, as with `Popen`.
    """

    def __init__(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        stdout: object,
        stderr: object,
        start_new_session: bool,
    ) -> None:
        assert tuple(args[:2]) == (sys.executable, "-m"), args
        assert start_new_session and stdout is None and stderr is None
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_to_the_end(list(args[2:]), env)

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal; None while the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: the process still runs.
        """
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code


def _run_to_the_end(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Run a module in a fork of a launcher, and never return into the launcher's code."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # which the launcher handles
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        _run_module(command, environment)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
