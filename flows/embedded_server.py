"""Starts the Prefect server of a run before Prefect is imported.

Prefect would start the same server itself, but only after it has imported all of the server's code
into the flow's process too. That takes longer than the rest of a flow that has nothing to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from lumiere.addresses import check_database_folder
from lumiere.errors import LumiereError, ParamsError
from lumiere.locks import exclusive
from lumiere.sqlite_files import probe, set_aside

HOST = "127.0.0.1"
SUPERVISOR = Path(__file__).resolve().with_name("supervisor.py")
SERVER = Path(__file__).resolve().with_name("server_process.py")
LOG = "embedded-server.log"  # in Prefect's home folder
DATABASE = "prefect.db"  # there too
CHOSEN_DATABASE = {
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
}
DAMAGE = ("database disk image is malformed", "file is not a database")  # as SQLite says it
POLL_SECONDS = 0.05
# As Prefect's own embedded server, apart from the last.
SETTINGS = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Automations. The server ends with its run, so nothing would be there to act later; and to run
    # them, it would load a second copy of itself.
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",
}
# With one of these files in the current folder, Prefect may have settings that only it can read.
SETTINGS_FILES = ("prefect.toml", ".env")


def mend_database(home: Path) -> None:
    """Rename Prefect's database if SQLite cannot read it, so that a new one begins, and say so.

    Args:
        home: Prefect's home folder. A database elsewhere is left alone: somebody chose it.
    """
    path = home / DATABASE
    if not CHOSEN_DATABASE.isdisjoint(os.environ) or not path.exists():
        return
    with exclusive(home / f"{DATABASE}.lock"):
        try:
            probe(path)
        except sqlite3.OperationalError:  # locked, or not to be opened: the server says so
            return
        except sqlite3.DatabaseError as error:
            print(
                f"note: Prefect's database was damaged ({error}); it is now {set_aside(path)}, and a "
                "new one begins without the runs of the past and without `python -m flows.notify`",
                file=sys.stderr,
                flush=True,
            )


def why_it_ended(log: Path, home: Path, begin: int = 0) -> str:
    """Return why a server of Prefect ended, as a part of a sentence.

    Args:
        log: its output.
        home: Prefect's home folder.
        begin: where the output of this server begins, in bytes.
    """
    said = ""
    with contextlib.suppress(OSError):
        said = log.read_bytes()[begin:].decode(errors="replace")
    if CHOSEN_DATABASE.isdisjoint(os.environ) and any(words in said for words in DAMAGE):
        return (
            f"its database {home / DATABASE} is damaged, as {log} says; move that file away, and a new "
            "one begins"
        )
    return f"{log} says why"


class EmbeddedServer:
    """A server that ends with this process, even after `kill -9`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._api, self._log = "", Path()

    def start(self) -> None:
        """Start the server, and make this process use it. Do nothing if another server is chosen, or
        if Prefect has to decide: then it starts its own where it needs one.
        """
        home = os.environ.get("PREFECT_HOME")
        if home is None or not _is_plain(Path(home)):
            return
        mend_database(Path(home))
        port = _free_port()
        self._api, self._log = f"http://{HOST}:{port}/api", Path(home, LOG)
        words = ["-P", str(SERVER), "--host", HOST, "--port", str(port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SUPERVISOR), sys.executable, *words],
                env=os.environ | SETTINGS,
                stdin=subprocess.PIPE,  # it closes when this process ends
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.environ["PREFECT_API_URL"] = self._api

    def wait(self) -> None:
        """Return when the server answers, or if there is none.

        Raises:
            LumiereError: if it has ended, or does not answer for long.
        """
        if self._process is None:
            return
        seconds = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
        deadline = time.monotonic() + seconds
        while not self._is_healthy():
            if self._process.poll() is not None:
                why = why_it_ended(self._log, self._log.parent)
                raise LumiereError(f"the embedded Prefect server has ended; {why}")
            if time.monotonic() > deadline:
                raise LumiereError(
                    f"the embedded Prefect server does not answer within {seconds:g} s; {self._log} "
                    "may say why"
                )
            time.sleep(POLL_SECONDS)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._api}/health", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False


def _is_plain(home: Path) -> bool:
    """Return whether a server can be started without asking Prefect about its settings."""
    variables = {
        "PREFECT_API_URL",
        "PREFECT_PROFILE",
        "PREFECT_PROFILES_PATH",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
        "PREFECT_TEST_MODE",
        "PREFECT_UNIT_TEST_MODE",
    }
    if "prefect" in sys.modules or not variables.isdisjoint(os.environ):
        return False
    if (home / "profiles.toml").exists() or any(Path(name).exists() for name in SETTINGS_FILES):
        return False
    try:
        check_database_folder(home)
    except ParamsError:  # `flows.program.check_server` raises it again
        return False
    return home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
