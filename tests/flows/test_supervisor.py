"""A stage can neither outlive its flow nor hide its output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows import supervisor
from flows.progress import StageProgress
from flows.screen import Screen, StageOutput
from flows.supervisor import Supervisors, split_output


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_status_and_output(tmp_path: Path) -> None:
    code = "print('one'); print('50%', end='\\r'); print('100%'); raise SystemExit(3)"
    seen: list[tuple[str, bool]] = []
    status = Supervisors().run(
        [sys.executable, "-c", code], tmp_path, dict(os.environ), lambda *p: seen.append(p)
    )
    assert status == 3
    assert seen == [("one", True), ("50%", False), ("100%", True)]


def test_split_output_joins_pieces() -> None:
    reading, writing = os.pipe()
    for piece in (b"a ba", b"r 1\ra bar 2\r", b"\xc3", b"\xa9\r\nlast"):
        os.write(writing, piece)
    os.close(writing)
    assert list(split_output(reading)) == [
        ("a bar 1", False),
        ("a bar 2", False),
        ("é", True),
        ("last", True),
    ]
    os.close(reading)


def test_stop_ends_the_whole_family(tmp_path: Path) -> None:
    # A stage that ignores SIGTERM, with a child in a session of its own.
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
        "print(os.getpid(), child.pid, flush=True); time.sleep(60)"
    )
    env = dict(os.environ)
    seen: list[str] = []
    supervisors = Supervisors()
    original = Path(supervisor.__file__).read_text()
    assert "GRACE_SECONDS = 10.0" in original  # the copy below only waits less
    quick = tmp_path / "quick.py"
    quick.write_text(original.replace("GRACE_SECONDS = 10.0", "GRACE_SECONDS = 1.0"))
    process = subprocess.Popen(
        [sys.executable, str(quick), sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
    )
    assert process.stdout is not None and process.stdin is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    process.stdin.close()
    assert process.wait(20) == 128 + signal.SIGTERM
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert (
        supervisors.run([sys.executable, "-c", ""], tmp_path, env, lambda *p: seen.append(p[0]))
        == 0
    )


def test_stop_from_another_thread_and_no_start_after_it(tmp_path: Path) -> None:
    supervisors = Supervisors()
    started = threading.Event()
    threading.Thread(target=lambda: (started.wait(20), supervisors.stop()), daemon=True).start()
    command = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    begun = time.monotonic()
    assert (
        supervisors.run(command, tmp_path, dict(os.environ), lambda *p: started.set())
        == 128 + signal.SIGTERM
    )
    assert time.monotonic() - begun < 45  # the child sleeps for 60
    assert (
        supervisors.run(command, tmp_path, dict(os.environ), lambda *p: None)
        == 128 + signal.SIGTERM
    )


def test_leftovers_of_a_finished_stage_do_not_hold_the_pipe(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    begun = time.monotonic()
    assert (
        Supervisors().run([sys.executable, "-c", code], tmp_path, dict(os.environ), lambda *p: None)
        == 0
    )
    assert time.monotonic() - begun < 45  # the child sleeps for 60


def test_too_many_lines_are_counted_not_sent(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    records: list[str] = []
    logger = logging.Logger("test")
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    output = StageOutput("a", Screen(sys.stderr), logger, StageProgress("a"))
    for i in range(50):
        output(f"line {i}", True)
    assert not output.has_run
    output("Running stage 'a':", True)
    assert output.has_run
    assert records == [f"line {i}" for i in range(20)]
    assert capfd.readouterr().err.count("line") == 50


def test_what_has_a_supervisor_of_its_own_is_stopped_by_that_one(tmp_path: Path) -> None:
    # dvc: it ends by itself when its command has, and must not get SIGTERM before.
    leader = """
import pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("terminated").touch())
command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("here", flush=True)
command.wait()
pathlib.Path("ended").touch()
"""
    program = str(Path(supervisor.__file__).resolve())
    inner = [sys.executable, "-P", program, sys.executable, "-c", leader]
    supervisors = Supervisors()
    keeper = "import subprocess as s, sys; s.Popen(sys.argv[1:], stdin=s.PIPE).wait()"
    status = supervisors.run(
        [sys.executable, "-c", keeper, *inner],
        tmp_path,
        dict(os.environ),
        lambda text, is_line: supervisors.stop(),
    )
    assert status == 128 + signal.SIGTERM
    assert (tmp_path / "ended").exists() and not (tmp_path / "terminated").exists()
