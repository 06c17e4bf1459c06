"""No package reports its use, whatever the user's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lumiere.addresses import LOOPBACK
from lumiere.start import TELEMETRY_OFF
from lumiere.tracking import store
from tests.flows.conftest import REPOSITORY

CODE = """
import flows  # sets the switches
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED
assert not is_telemetry_enabled(), "Prefect's client"
assert not PREFECT_SERVER_ANALYTICS_ENABLED.value(), "Prefect's server"
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled(), "MLflow"
from dvc.analytics import is_enabled
assert not is_enabled(), "DVC"
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
assert HF_HUB_DISABLE_TELEMETRY, "Hugging Face"
"""
OTHER_PROGRAMS = """
import os, sys
__import__(sys.argv[1])  # which comes before all other imports of a program of the package
from lumiere import start
assert os.environ | start.TELEMETRY_OFF == os.environ
"""
SWITCHES = {*TELEMETRY_OFF}
TELEMETRY_ON = {
    "DO_NOT_TRACK": "false",
    "DVC_NO_ANALYTICS": "",
    "HF_HUB_DISABLE_TELEMETRY": "0",
    "MLFLOW_DISABLE_TELEMETRY": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "true",
}
CI_VARIABLES = {"CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST"}  # they switch telemetry off too


@pytest.mark.parametrize("package", ["flows", "stages", "lumiere.cli"])
def test_every_program_switches_all_telemetry_off(package: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in CI_VARIABLES}
    code = CODE if package == "flows" else OTHER_PROGRAMS
    done = subprocess.run(
        [sys.executable, "-c", code, package],
        cwd=REPOSITORY,
        env=env | TELEMETRY_ON,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def test_what_records_runs_switches_it_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for those who call `lumiere.tracking` from a program of their own."""
    for name, value in TELEMETRY_ON.items():
        monkeypatch.setenv(name, value)
    store.import_mlflow("sqlite:///any.db")
    assert os.environ | TELEMETRY_OFF == os.environ


WATCH = """
import json, os, sys

def note(event, address):
    with open(os.environ["WATCHED_SOCKETS"], "a") as log:
        log.write(json.dumps([event, address, " ".join(sys.orig_argv[1:])]) + "\\n")

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[-1]
        note(event, list(address) if isinstance(address, tuple) else str(address))

note("start", "")
sys.addaudithook(watch)
"""


def is_local(event: str, address: Any) -> bool:
    """Return whether an address is of this machine: loopback, a Unix socket, or no host at all."""
    if isinstance(address, str):  # of a Unix socket, or a name to look up
        return event != "socket.getaddrinfo" or address in (*LOOPBACK, "None")
    return address[0] in LOOPBACK


def test_a_run_contacts_this_machine_only(
    toy_project: Path, tmp_path: Path, prefect_database: Path
) -> None:
    """Watch the sockets of every Python process: the flow, its server, DVC and the stage."""
    folder, log = tmp_path / "watch", tmp_path / "sockets.jsonl"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    switches = {*SWITCHES, *CI_VARIABLES, "PREFECT_API_URL"}
    env = {name: value for name, value in os.environ.items() if name not in switches}
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env["PYTHONPATH"]])
    env |= {"WATCHED_SOCKETS": str(log), "PREFECT_HOME": str(tmp_path / "prefect")}
    (tmp_path / "prefect").mkdir()
    shutil.copy(prefect_database, tmp_path / "prefect")

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=REPOSITORY,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def watched() -> list[tuple[str, Any, str]]:
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()]

    # The hook sees what it should: an address that nobody has.
    probe = "import socket; s = socket.socket(); s.settimeout(0.01); s.connect_ex(('192.0.2.1', 9))"
    call("-c", probe)
    event, address, _ = watched()[1]
    assert (event, address) == ("socket.connect", ["192.0.2.1", 9])
    assert not is_local(event, address)
    log.unlink()

    call("-m", "flows.pipeline", "--root", str(toy_project), "--stages", "a")
    assert (toy_project / "a.txt").exists()
    found = watched()
    contacts = [entry for entry in found if entry[0] != "start"]
    assert [entry for entry in contacts if not is_local(*entry[:2])] == []
    assert any(event == "socket.connect" for event, _, _ in contacts)
    programs = [program for event, _, program in found if event == "start"]
    for name in ("flows.pipeline", "server_process.py", "-m dvc", "stage.py a"):
        words = name.split()
        assert any(all(word in program for word in words) for program in programs), name
