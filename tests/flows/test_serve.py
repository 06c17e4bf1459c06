"""What `make serve` keeps at work, and the look-out for new data."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import psutil
import pytest
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    temporary_settings,
)

from flows import leftovers, new_data, notify, serve
from flows.embedded_server import mend_database, why_it_ended
from flows.new_data import SEEN, DataWatch, look
from flows.program import check_home
from lumiere.errors import LumiereError, ParamsError
from lumiere.locks import inheritable_lock
from lumiere.tracking import __main__ as deliver
from lumiere.tracking import pages
from tests.flows.test_supervisor import wait_until
from tests.servers import free_port

PROGRAM = """
import os, sys, time
print("here", os.getpid(), flush=True)
time.sleep(0.1 if sys.argv[1] == "ends" else 120)
"""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> serve.Services:
    (tmp_path / "lumiere_toy_program.py").write_text(PROGRAM)
    monkeypatch.setattr(serve, "LOGS", tmp_path)
    monkeypatch.setattr(serve, "RESTART_SECONDS", 0.05)
    return serve.Services(os.environ | {"PYTHONPATH": str(tmp_path)})


def pids(folder: Path, name: str) -> list[int]:
    log = folder / f"{name}.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("here")]


def test_a_program_that_ends_is_started_again_and_stop_ends_all(
    services: serve.Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services.is_ready = True
    services.start("server", "lumiere_toy_program", "stays")
    services.start("worker", "lumiere_toy_program", "ends")
    wait_until(lambda: len(pids(tmp_path, "worker")) >= 2 and pids(tmp_path, "server"))
    services.check()
    services.stop()
    found = pids(tmp_path, "server") + pids(tmp_path, "worker")
    assert not any(psutil.pid_exists(pid) for pid in found)
    assert len(pids(tmp_path, "server")) == 1
    assert "the worker ended with exit code 0 and starts again" in capsys.readouterr().out


def test_a_program_that_does_not_even_start_is_an_error(
    services: serve.Services, tmp_path: Path
) -> None:
    services.start("server", "lumiere_toy_program", "ends")
    wait_until(lambda: bool(services.ended))
    with pytest.raises(LumiereError, match=r"the server has ended; .*server\.log"):
        services.check()
    services.stop()


def test_a_program_whose_log_cannot_be_written_does_not_end_silently(
    services: serve.Services, tmp_path: Path
) -> None:
    (tmp_path / "worker.log").mkdir()
    services.is_ready = True
    services.start("worker", "lumiere_toy_program", "stays")
    wait_until(lambda: bool(services.ended))
    with pytest.raises(LumiereError, match=r"the worker has ended; .*worker\.log: Is a directory"):
        services.check()
    services.stop()


def test_something_is_done_before_each_start_and_its_error_is_told(
    services: serve.Services, tmp_path: Path
) -> None:
    calls: list[int] = []

    def before() -> None:
        calls.append(len(pids(tmp_path, "worker")))
        if len(calls) == 3:
            raise LumiereError("the server does not answer")

    services.is_ready = True
    services.start("worker", "lumiere_toy_program", "ends", before=before)
    wait_until(lambda: bool(services.ended))
    assert calls == [0, 1, 2]
    with pytest.raises(LumiereError, match="the worker has ended; the server does not answer"):
        services.check()
    services.stop()


def test_serving_ends_with_an_error_if_a_program_ends_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server answers, then the log of the worker cannot be written."""
    (tmp_path / "worker.log").mkdir()
    (tmp_path / "prefect.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(serve, "LOGS", tmp_path)
    monkeypatch.setattr(serve, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(serve, "is_healthy", lambda api: bool(pids(tmp_path, "server")))
    monkeypatch.setattr(serve, "run", lambda *_: None)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    with socket.socket() as free:
        free.bind((serve.HOST, 0))
        port = free.getsockname()[1]
    with pytest.raises(LumiereError, match=r"the worker has ended; .*worker\.log: Is a directory"):
        serve.serve(port)
    assert capsys.readouterr().out.endswith("stopped\n")
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path, "server"))


PATIENT_PROGRAM = """
import os, signal, sys, time

def end(*_):
    time.sleep(1.5)
    sys.exit()

signal.signal(signal.SIGTERM, end)
print("here", os.getpid(), flush=True)
time.sleep(120)
"""


def test_further_signals_do_not_break_off_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prefect.py").write_text(PATIENT_PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(serve, "LOGS", tmp_path)
    monkeypatch.setattr(serve, "is_healthy", lambda api: bool(pids(tmp_path, "server")))
    monkeypatch.setattr(serve, "run", lambda *_: None)
    monkeypatch.setattr(serve, "end_leftovers", lambda *_: None)

    def send() -> None:
        try:
            wait_until(lambda: pids(tmp_path, "worker"))
        finally:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                time.sleep(0.3)

    handlers = {number: signal.getsignal(number) for number in serve.STOPPING}
    sender = threading.Thread(target=send, daemon=True)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            serve.serve(free_port())
        sender.join()  # a signal after the end would reach pytest
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().out.endswith("stopped\n")
    found = pids(tmp_path, "server") + pids(tmp_path, "worker")
    assert len(found) == 2 and not any(psutil.pid_exists(pid) for pid in found)


@pytest.mark.parametrize("name", ["p ?q=1", "p 50%20x"])
def test_no_program_writes_a_database_where_an_address_would_lead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each program that opens a database, in a project whose path no address can hold."""
    project = tmp_path / name
    project.mkdir()
    (project / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(project)
    monkeypatch.setattr(serve, "LOCK", project / ".lumiere" / "serve.lock")
    monkeypatch.setattr(serve, "serve", lambda port: pytest.fail("started"))
    home = project / ".lumiere" / "prefect"
    defaults = {PREFECT_API_URL, PREFECT_API_DATABASE_CONNECTION_URL}
    with temporary_settings({PREFECT_HOME: home}, restore_defaults=defaults):
        for program in (serve, leftovers, new_data, pages, deliver):
            monkeypatch.setattr("sys.argv", [program.__name__])
            with pytest.raises(ParamsError, match=r"p (\?q|50%).*rename the folder"):
                program.main()
        monkeypatch.setattr("sys.argv", ["notify"])
        with pytest.raises(ParamsError, match="the embedded server sends nothing"):
            notify.main()
    assert [*tmp_path.rglob("*.db*")] == [] and os.listdir(tmp_path) == [name]


def test_serving_checks_the_folder_also_where_a_server_is_set(tmp_path: Path) -> None:
    """`make serve` starts a server of its own, whatever PREFECT_API_URL says."""
    chosen = {PREFECT_HOME: tmp_path / "p ?q", PREFECT_API_URL: "http://127.0.0.1:9/api"}
    with temporary_settings(chosen, restore_defaults={PREFECT_API_DATABASE_CONNECTION_URL}):
        check_home()
        with pytest.raises(ParamsError, match="rename the folder"):
            check_home(starts_server=True)


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_database_of_prefect_is_set_aside(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prefect.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")  # as Prefect has it
        database.execute("CREATE TABLE flow AS SELECT randomblob(9999)")
        database.commit()
    whole = path.read_bytes()
    mend_database(tmp_path)
    assert path.read_bytes() == whole and capsys.readouterr().err == ""
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else b"x" * len(whole))
    damaged = path.read_bytes()
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////chosen.db")
    mend_database(tmp_path)
    assert path.exists()  # not the one in use
    monkeypatch.delenv("PREFECT_API_DATABASE_CONNECTION_URL")
    with temporary_settings(
        {PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_DATABASE_CONNECTION_URL}
    ):
        check_home(starts_server=True)
    said = capsys.readouterr().err
    (aside,) = tmp_path.glob("prefect.db.damaged-*")
    assert str(aside) in said and said.count("\n") == 1
    assert aside.read_bytes() == damaged and not path.exists()


def test_a_database_that_the_server_finds_damaged_is_named(
    services: serve.Services, tmp_path: Path
) -> None:
    """Damage that the first look cannot see; the log has that of another time too."""
    log = tmp_path / "server.log"
    log.write_text("sqlite3.DatabaseError: database disk image is malformed\n")
    assert why_it_ended(log, tmp_path, log.stat().st_size) == f"{log} says why"
    (tmp_path / "lumiere_toy_program.py").write_text("raise SystemExit('file is not a database')")
    services.start("server", "lumiere_toy_program")
    wait_until(lambda: bool(services.ended))
    named = f"the server has ended; its database {PREFECT_HOME.value()}/prefect.db is damaged, as .*move"
    with pytest.raises(LumiereError, match=named):
        services.check()
    services.stop()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LumiereError, match=f"port {port} is in use; .*PORT="):
            serve.check_port(port)
    serve.check_port(port)


def test_only_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "LOCK", tmp_path / "serve.lock")
    serve.stop()
    assert capsys.readouterr().out == "no schedules are being served\n"
    monkeypatch.setattr("sys.argv", ["serve"])
    with (
        inheritable_lock(tmp_path / "serve.lock", 0.0, ""),
        pytest.raises(LumiereError, match=f"already served by process {os.getpid()}"),
    ):
        serve.main()


def test_new_data_starts_one_run_when_it_is_complete(tmp_path: Path) -> None:
    started: list[int] = []
    (tmp_path / "data" / "raw").mkdir(parents=True)
    watch = DataWatch(tmp_path)
    video = tmp_path / "data" / "raw" / "one.mp4"

    def look_once() -> int:
        look(watch, lambda: started.append(1), lambda: False)
        return len(started)

    assert [look_once() for _ in range(3)] == [0, 0, 0]
    video.write_bytes(b"1")
    assert look_once() == 0  # a copy may be in progress
    video.write_bytes(b"12")
    assert [look_once() for _ in range(4)] == [0, 1, 1, 1]
    video.unlink()
    assert [look_once() for _ in range(3)] == [1, 2, 2]


def test_what_changed_while_nobody_looked_or_the_server_was_away_is_not_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    DataWatch(tmp_path)
    (tmp_path / "data" / "captions.csv").write_text("a")
    watch = DataWatch(tmp_path)

    def refused() -> None:
        raise ConnectionError("refused")

    before = (tmp_path / SEEN).read_text()
    for _ in range(2):
        look(watch, refused, lambda: False)
    assert "no run could be started (refused)" in capsys.readouterr().out
    assert (tmp_path / SEEN).read_text() == before
    look(watch, refused, lambda: True)  # an earlier run is at work
    assert (tmp_path / SEEN).read_text() == before
    look(watch, lambda: None, lambda: False)
    assert (tmp_path / SEEN).read_text() != before
