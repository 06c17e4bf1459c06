"""Both ways of scheduling, with a real Prefect server: scheduled runs start and complete."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import yaml
from PIL import Image
from prefect import Flow
from prefect.artifacts import create_image_artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed

from flows import dag, notify, report
from flows.cancellation import RUN_VARIABLE, SERVED_BY, STARTED_BY, Starter
from flows.flow import lumiere_pipeline, pipeline_lock
from flows.new_data import DEPLOYMENT
from flows.pipeline import main
from flows.program import read_schedule
from flows.report import StageResult
from lumiere.errors import ParamsError
from tests.browser import browser
from tests.flows.conftest import REPOSITORY

# Generous, for a busy machine; on a quiet one a run ends after half a minute.
START_SECONDS, RUN_SECONDS = 180.0, 300.0
EVERY_SECONDS = 10
EVERY_TEN_SECONDS = "* * * * * */10"  # the sixth field means seconds

STAGE = """
stages:
  only:
    cmd: >-
      python -c "import os; open('starter', 'w').write(os.environ.get('LUMIERE_STARTED_BY', ''));
      open('only.txt', 'w').write('made')"
    outs: [only.txt]
"""


@dataclass
class Processes:
    """A Prefect server, and the processes that use it."""

    folder: Path  # has the logs
    env: dict[str, str]
    api: str = ""

    def run(self, *command: str) -> None:
        """Run a command until it ends."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
        )
        assert done.returncode == 0, done.stdout

    @contextmanager
    def running(self, name: str, *command: str) -> Iterator[int]:
        """Keep a command at work; its output goes to a log. Yields its process id.

        Ends it with everything that it started.
        """
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=REPOSITORY,
                env=self.env,
                stdout=log,
                stderr=log,
            )
            try:
                yield process.pid
            finally:
                _end(process)

    def scheduled_runs(self, deployment: str) -> list[dict[str, Any]]:
        """List the runs that a deployment's schedule has started."""
        body = {
            "deployments": {"name": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
        }
        request = urllib.request.Request(
            f"{self.api}/flow_runs/filter",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [run for run in json.load(answer) if run["auto_scheduled"]]

    def wait_for_a_completed_run(self, deployment: str) -> None:
        """Poll until a scheduled run has completed.

        A run that failed or crashed fails the test at once.
        """
        runs: list[dict[str, Any]] = []

        def has_completed() -> bool:
            runs[:] = self.scheduled_runs(deployment)
            states = {run["state_name"] for run in runs}
            assert not states & {"Failed", "Crashed", "TimedOut"}, self.report(runs)
            return "Completed" in states

        _poll(has_completed, RUN_SECONDS, lambda: self.report(runs))

    def report(self, runs: list[dict[str, Any]]) -> str:
        """Describe the states and messages of the runs, and the end of every log."""
        lines = [f"{run['name']}: {run['state']}" for run in runs]
        for log in sorted(self.folder.glob("*.log")):
            lines += [f"--- {log.name}", log.read_text(errors="replace")[-4000:]]
        return "\n".join(lines)


def _poll(condition: Callable[[], bool], seconds: float, report: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out\n{report()}"
        time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=5)
    for survivor in alive:
        survivor.kill()
    process.wait()


def _project(folder: Path, empty_project: Path) -> Path:
    """Make a DVC project with one stage."""
    shutil.copytree(empty_project, folder)
    (folder / "dvc.yaml").write_text(STAGE)
    (folder / "params.yaml").write_text("curate:\n  seed: 3\n")
    return folder


def _deployment_file(path: Path, root: Path) -> Path:
    """Write the repository's prefect.yaml for another project and with a shorter schedule."""
    config = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    (deployment,) = [found for found in config["deployments"] if found["name"] == "nightly"]
    config["deployments"] = [deployment]
    deployment["parameters"] = {"root": str(root)}
    deployment["schedules"] = [{"interval": EVERY_SECONDS, "timezone": "UTC", "active": True}]
    path.write_text(yaml.safe_dump(config))
    return path


def _is_healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Processes]:
    """Run a server."""
    folder = tmp_path_factory.mktemp("schedules")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LUMIERE_TRACKING": "off",
        "DVC_SITE_CACHE_DIR": str(folder / "site-cache"),
    }
    (folder / "prefect").mkdir()
    shutil.copy(prefect_database, folder / "prefect")
    started = Processes(folder, env, f"http://127.0.0.1:{port}/api")
    env["PREFECT_API_URL"] = started.api  # the pages ask there
    with started.running("server", "prefect", "server", "start", "--port", port):
        _poll(lambda: _is_healthy(started.api), START_SECONDS, lambda: started.report([]))
        yield started


@pytest.fixture(scope="module")
def processes(server: Processes, empty_project: Path) -> Iterator[Processes]:
    """Run a worker for the deployment of prefect.yaml."""
    folder = server.folder
    project = _project(folder / "pooled project", empty_project)
    server.run("prefect", "work-pool", "create", "lumiere", "--type", "process")
    deployment = _deployment_file(folder / "prefect.yaml", project)
    options = ("--name", "nightly", "--no-prompt", "--prefect-file", str(deployment))
    server.run("prefect", "deploy", *options)
    worker = ("worker", "start", "--pool", "lumiere", "--limit", "1")
    with server.running("worker", "prefect", *worker):
        yield server


def test_every_deployment_can_be_called() -> None:
    config = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    names = {node.name for node in dag.read_dag(REPOSITORY)}
    for deployment in config["deployments"]:
        assert deployment["entrypoint"] == "flows.flow.lumiere_pipeline"
        lumiere_pipeline.validate_parameters(deployment["parameters"])
        assert names.issuperset(deployment["parameters"].get("stages", []))
        for schedule in deployment.get("schedules", []):
            read_schedule(schedule["cron"], schedule["timezone"])
    assert f"lumiere-pipeline/{config['deployments'][-1]['name']}" == DEPLOYMENT


@pytest.mark.parametrize("address", ["", "ftp://a/b", "https://", "hooks.example.org/a"])
def test_a_bad_webhook_is_named_before_the_server_is_asked(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMIERE_WEBHOOK", address)
    monkeypatch.setattr(sys, "argv", ["notify"])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        with pytest.raises(ParamsError, match=r"set LUMIERE_WEBHOOK to the address.*https://"):
            notify.main()
        monkeypatch.setenv("LUMIERE_WEBHOOK", "https://hooks.example.org/a")
        with pytest.raises(ParamsError, match="no Prefect server answers"):
            notify.main()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "0 3 * *"], "--schedule '0 3 * *' is not a cron expression; give minute,"),
        (["--schedule", "daily"], "--schedule 'daily' is not a cron expression"),
        (
            ["--schedule", "0 3 * * *", "--timezone", "Mars/Base"],
            "--timezone 'Mars/Base' is not a time zone; give a name such as UTC",
        ),
    ],
)
def test_a_bad_schedule_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_server_that_is_away_at_the_end_fails_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(report, "create_markdown_artifact", refuse)
    report.publish_artifacts([StageResult("a", "ran")], "text")
    assert "lacks artifacts: All connection attempts failed" in caplog.text


# --- on a real server. Schedules come last: while served, they use the processor -----------------


def test_a_failed_run_is_told_to_a_webhook(server: Processes) -> None:
    posts: list[dict[str, Any]] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    channel = HTTPServer(("127.0.0.1", 0), Channel)
    threading.Thread(target=channel.serve_forever, daemon=True).start()
    secret = "hunter2secret"
    address = f"http://127.0.0.1:{channel.server_port}/{secret}"
    with (
        temporary_settings({PREFECT_API_URL: server.api}),
        get_client(sync_client=True) as client,
    ):
        notify.switch_on(client, address)
        notify.switch_on(client, address)  # again: it must not send everything twice
        for flow, state in (("another", Failed()), (lumiere_pipeline.name, Completed())):
            client.create_flow_run(Flow(lambda: None, name=flow), name="quiet", state=state)
        failed = Failed(message="failed: evaluate")
        client.create_flow_run(lumiere_pipeline, name="nightly run", state=failed)
        _poll(lambda: bool(posts), RUN_SECONDS, lambda: server.report([]))
        assert (notify.switch_off(client), notify.switch_off(client)) == (1, 0)
    channel.shutdown()
    (post,) = posts
    assert post["text"] == "lumiere: nightly run: Failed\nfailed: evaluate"
    database = (server.folder / "prefect" / "prefect.db").read_bytes()
    assert secret.encode() not in database


def test_a_served_schedule_fires(server: Processes, empty_project: Path) -> None:
    """The process ends with this test: runs that begin later would cost seconds each."""
    project = _project(server.folder / "served project", empty_project)
    program = ("flows.pipeline", "--root", str(project), "--schedule", EVERY_TEN_SECONDS)
    with server.running("served", *program) as pid:
        server.wait_for_a_completed_run("scheduled")
    assert (project / "starter").read_text() == str(pid)  # so a run notices that it has gone
    assert (project / "only.txt").read_text() == "made"
    log = (server.folder / "served.log").read_text()
    assert f"schedule: {EVERY_TEN_SECONDS} in the time zone UTC" in log


def test_the_schedule_of_a_work_pool_fires(processes: Processes) -> None:
    processes.wait_for_a_completed_run("nightly")
    assert (processes.folder / "pooled project" / "only.txt").read_text() == "made"


def test_prefects_page_shows_a_finished_run(processes: Processes, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        processes.wait_for_a_completed_run("nightly")
        runs = processes.scheduled_runs("nightly")
        run = next(run for run in runs if run["state_name"] == "Completed")
        page.open(f"{processes.api.removesuffix('/api')}/runs/flow-run/{run['id']}")
        for text in (run["name"], "Completed", "Logs", "Artifacts"):
            page.wait_for_text(text)
        sheet = report.data_url(Image.new("RGB", (64, 40), "red"))
        with temporary_settings({PREFECT_API_URL: processes.api}):
            artifact = create_image_artifact(sheet, key="lumiere-contact-sheet")
        page.open(f"{processes.api.removesuffix('/api')}/artifacts/artifact/{artifact}")
        page.wait_for("[...document.images].some((image) => image.naturalWidth == 64)")


ASK_LATE = """
import os, pathlib, time
while os.getppid() == {worker}: time.sleep(0.01)
from flows.cancellation import Starter
pathlib.Path({answer!r}).write_text(str(Starter.find().is_alive()))
"""
BE_KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
subprocess.Popen([sys.executable, "-c", {late!r}.replace("WORKER", str(os.getpid()))])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("is_served", [True, False])
def test_a_run_knows_that_its_worker_ended_before_it_could_ask(
    tmp_path: Path, is_served: bool
) -> None:
    """The imports of a run take seconds. Meanwhile its worker may be killed, and the run gets another
    parent, which never ends. Only `make serve` and the like say who is above the worker.
    """
    answer = tmp_path / "answer.txt"
    late = ASK_LATE.format(worker="WORKER", answer=str(answer))
    env = os.environ | {RUN_VARIABLE: str(uuid4())}
    if is_served:
        env[SERVED_BY] = str(os.getpid())
    words = [sys.executable, "-c", BE_KILLED.format(late=late)]
    assert subprocess.run(words, cwd=REPOSITORY, env=env).returncode == -signal.SIGKILL
    _poll(lambda: answer.exists() and bool(answer.read_text()), 60, lambda: "no answer")
    assert answer.read_text() == str(not is_served)


def test_a_run_with_a_living_worker_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_VARIABLE, str(uuid4()))
    parent, above, *_ = psutil.Process().parents()
    monkeypatch.setenv(STARTED_BY, str(parent.pid))
    monkeypatch.setenv(SERVED_BY, str(above.pid))
    starter = Starter.find()
    assert starter.process == parent
    assert starter.is_alive()
    # As in a container whose first process started the worker: it takes the worker's orphans.
    monkeypatch.setenv(SERVED_BY, str(parent.pid))
    assert not Starter.find().is_alive()


def test_prefect_gets_the_contact_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}
    for kind in ("markdown", "table"):
        monkeypatch.setattr(report, f"create_{kind}_artifact", lambda *_, **__: None)
    monkeypatch.setattr(
        report, "create_image_artifact", lambda url, key, description: sent.update({key: url})
    )
    report.publish_artifacts([StageResult("a", "ran")], "text", sheet=Image.new("RGB", (64, 40)))
    assert sent["lumiere-contact-sheet"].startswith("data:image/webp;base64,")
    sent.clear()
    report.publish_artifacts([StageResult("a", "ran")], "text")
    assert not sent


def test_a_run_ends_with_the_worker_that_was_killed(processes: Processes) -> None:
    root = processes.folder / "pooled project"
    wait = "import os, time; open('pid.txt', 'w').write(str(os.getpid()))\n"
    wait += "while True: print('at work', flush=True); time.sleep(0.1)"  # lines that nobody reads
    (root / "wait.py").write_text(wait)
    (root / "dvc.yaml").write_text("stages: {only: {cmd: python wait.py, outs: [made.txt]}}")
    pid = root / "pid.txt"
    _poll(lambda: pid.exists() and bool(pid.read_text()), RUN_SECONDS, lambda: "no run has begun")
    (worker,) = (child for child in psutil.Process().children() if "worker" in child.cmdline())
    family = worker.children(recursive=True)
    assert int(pid.read_text()) in {process.pid for process in family}
    worker.kill()
    _, alive = psutil.wait_procs(family, timeout=60)  # the aim is 15, on a quiet machine
    assert not alive
    with pipeline_lock(root):  # free
        pass
    assert not any(json.loads((root / ".dvc" / "tmp" / "rwlock").read_text()).values())
    states = {run["state_name"]: run["state"] for run in processes.scheduled_runs("nightly")}
    assert "the worker that started this run has ended" in states["Crashed"]["message"]
