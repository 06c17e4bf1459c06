"""Runs everything that schedules need, until interrupted: `make serve`.

It starts a Prefect server on the loopback address, deploys `prefect.yaml`, and starts a worker and
the program that watches for new data. Their state and their logs are in `.lumiere/`. A program that
ends is started again. All end with this process, even after `kill -9`. `python -m flows.serve
--stop` ends it from elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

import psutil
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.cancellation import SERVED_BY
from flows.embedded_server import mend_database, why_it_ended
from flows.flow import PROJECT
from flows.leftovers import POOL, crash_leftovers
from flows.program import check_home
from flows.second_tries import KILLED
from flows.supervisor import Supervisors
from lumiere.errors import LockError, LumiereError, first_line, run_program, sentence
from lumiere.locks import inheritable_lock, make_folder
from lumiere.start import own_programs_first

HOST = "127.0.0.1"
LOCK = PROJECT / ".lumiere" / "serve.lock"
LOGS = PROJECT / ".lumiere" / "serve"
START_SECONDS = 180.0  # a new database takes up to a minute on a busy machine
STOP_SECONDS = 60.0
RESTART_SECONDS = 5.0
CHECK_SECONDS = 1.0
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Services:
    """Keeps programs running, each with a log.

    Attributes:
        is_ready: whether a program that ends is started again; before, it is an error.
        ended: why each program that has ended is not started again, by its name.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.is_ready = False
        self._env = env
        self._started: list[tuple[Supervisors, threading.Thread]] = []
        self.ended: dict[str, str] = {}
        self._is_stopping = False

    def is_stopping(self) -> bool:
        """Return whether `stop` was called."""
        return self._is_stopping

    def start(self, name: str, *command: str, before: Callable[[], None] | None = None) -> None:
        """Start `python -m COMMAND`; call `before` before each start of the program."""
        supervisors = Supervisors()
        arguments = (name, command, supervisors, before)
        thread = threading.Thread(target=self._keep, args=arguments, name=name)
        thread.start()
        self._started.append((supervisors, thread))

    def _keep(
        self,
        name: str,
        command: tuple[str, ...],
        supervisors: Supervisors,
        before: Callable[[], None] | None,
    ) -> None:
        why = ""
        try:
            path = LOGS / f"{name}.log"
            with path.open("a", encoding="utf-8", buffering=1) as log:
                begin = log.tell()
                self._run_again_and_again(name, command, supervisors, before, log)
            why = why_it_ended(path, PREFECT_HOME.value(), begin)
        except Exception as error:  # a thread that ends with an error would end silently
            why = sentence(error)
        finally:
            self.ended[name] = why

    def _run_again_and_again(
        self,
        name: str,
        command: tuple[str, ...],
        supervisors: Supervisors,
        before: Callable[[], None] | None,
        log: TextIO,
    ) -> None:
        while True:
            if before is not None:
                before()
            status = supervisors.run(
                [sys.executable, "-m", *command],
                PROJECT,
                self._env,
                lambda text, is_line: _write(log, text),
            )
            if supervisors.is_stopped or not self.is_ready:
                return
            how = "was killed" if status in KILLED else f"ended with exit code {status}"
            print(f"the {name} {how} and starts again", flush=True)
            time.sleep(RESTART_SECONDS)

    def check(self) -> None:
        """Raise LumiereError if a program has ended for good."""
        for name, why in list(self.ended.items()):
            raise LumiereError(f"the {name} has ended; {why}")

    def stop(self) -> None:
        """End all programs, the newest first, and wait for them: the server hears how runs end."""
        self._is_stopping = True
        for supervisors, thread in reversed(self._started):
            supervisors.stop()
            thread.join()


def main() -> None:
    """Parse the command line, then serve or stop."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="of the server (default: 4200)")
    parser.add_argument("--stop", action="store_true", help="end the one that runs")
    options = parser.parse_args()
    if options.stop:
        stop()
        return
    busy = "schedules are already served by process {owner}; `make serve-stop` ends it"
    with inheritable_lock(LOCK, 0.0, busy), contextlib.suppress(KeyboardInterrupt):
        check_home(starts_server=True)
        serve(options.port)


def serve(port: int) -> None:
    """Start everything and wait.

    Raises:
        LumiereError: if the port is taken, the server does not start, or a program ends for good.
    """
    for number in STOPPING:
        signal.signal(number, _interrupt)
    check_port(port)
    make_folder(LOGS)
    api = f"http://{HOST}:{port}/api"
    env = dict(os.environ) | {"PREFECT_API_URL": api, "PYTHONUNBUFFERED": "1"}
    env |= {"PATH": own_programs_first(env.get("PATH", "")), SERVED_BY: str(os.getpid())}
    services = Services(env)
    try:
        server = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
        services.start("server", *server, before=lambda: mend_database(PREFECT_HOME.value()))
        print(f"starting a Prefect server at http://{HOST}:{port}", flush=True)
        for _ in _until(lambda: is_healthy(api), "the server did not start"):
            services.check()
        run(env, "work-pool", "create", POOL, "--type", "process", "--overwrite")
        run(env, "deploy", "--all", "--no-prompt", "--prefect-file", str(PROJECT / "prefect.yaml"))
        services.is_ready = True
        worker = ("prefect", "worker", "start", "--pool", POOL)
        services.start("worker", *worker, before=lambda: end_leftovers(api, services.is_stopping))
        services.start("look-out", "flows.new_data")
        print(f"ready: the schedules of prefect.yaml are served; logs are in {LOGS}", flush=True)
        print("Ctrl-C or `make serve-stop` ends it", flush=True)
        while True:
            services.check()
            time.sleep(CHECK_SECONDS)
    finally:
        _ignore_signals()
        print("stopping, which takes up to half a minute", flush=True)
        services.stop()
        print("stopped", flush=True)


def end_leftovers(api: str, is_stopping: Callable[[], bool]) -> None:
    """End runs that an earlier worker has left behind, once the server answers.

    Raises:
        LumiereError: if the server does not answer for long.
    """
    deadline = time.monotonic() + START_SECONDS
    while not is_stopping():
        try:
            with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
                for line in crash_leftovers(client, POOL):
                    print(line, flush=True)
            return
        except Exception as error:  # the server may be starting again
            if time.monotonic() > deadline:
                raise LumiereError(f"the server does not answer ({first_line(error)})") from error
        time.sleep(CHECK_SECONDS)


def stop() -> None:
    """End the process that serves, and wait for it.

    Raises:
        LumiereError: if it does not end.
    """
    try:
        with inheritable_lock(LOCK, 0.0, "{owner}"):
            print("no schedules are being served")
            return
    except LockError as error:
        owner_id = str(error)
    try:
        owner = psutil.Process(int(owner_id))
        owner.terminate()
        owner.wait(STOP_SECONDS)
    except (ValueError, psutil.NoSuchProcess):  # it has just ended
        print("stopped")
        return
    except psutil.TimeoutExpired:
        raise LumiereError(f"process {owner.pid} does not end; try kill -9 {owner.pid}") from None
    print("stopped")


def run(env: dict[str, str], *command: str) -> None:
    """Run a command of Prefect.

    Raises:
        LumiereError: if it fails; with its output.
    """
    words = [sys.executable, "-m", "prefect", *command]
    done = subprocess.run(words, cwd=PROJECT, env=env, capture_output=True, text=True)
    if done.returncode:
        output = " ".join((done.stdout + done.stderr).split())
        raise LumiereError(f"prefect {' '.join(command[:2])} failed: {output[-500:]}")


def check_port(port: int) -> None:
    """Raise LumiereError if another program listens on the port."""
    with socket.socket() as attempt:
        attempt.settimeout(1)
        if attempt.connect_ex((HOST, port)) == 0:
            raise LumiereError(
                f"port {port} is in use; end the program that uses it, or choose another port, as in "
                "make serve PORT=4201"
            )


def is_healthy(api: str) -> bool:
    """Return whether the server answers."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _write(log: TextIO, text: str) -> None:
    """Write a line to a log; a full disk must not end the program that wrote it."""
    with contextlib.suppress(OSError):
        print(text, file=log)


def _until(condition: Callable[[], bool], problem: str) -> Iterator[None]:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise LumiereError(f"{problem} within {START_SECONDS:.0f} s; see the logs in {LOGS}")
        yield
        time.sleep(0.5)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """Let no further signal break off the end: programs would go on with nobody to end them."""
    for number in STOPPING:
        # Programs that are started now would inherit SIG_IGN.
        signal.signal(number, lambda *_: None)


if __name__ == "__main__":
    run_program(main)
