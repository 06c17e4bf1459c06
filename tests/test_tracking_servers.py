"""Runs in a real MLflow server that is down, slow, loses answers, and is back later."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

from lumiere import tracking
from lumiere.tracking import courier, recording, store
from tests.test_tracking import eventually, journals, warnings_of


class Server:
    """MLflow's own web application on a loopback port, in threads of this process.

    Attributes:
        gate: closed, it holds back every answer.
        lose: the next answer to a request for this path is lost, after it was carried out.
        num_lost: how many were.
    """

    def __init__(self, database: Path) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.lose = ""
        self.num_lost = 0
        self.held = 0
        self._server: BaseWSGIServer | None = None
        self._port = 0
        self.use(database)

    @property
    def uri(self) -> str:
        """The address of the server, with a password that nothing may repeat."""
        return f"http://reviewer:hunter2secret@127.0.0.1:{self._port}"

    def use(self, database: Path) -> None:
        """Serve another database from now on.

        The store is set itself, because MLflow's own function would for a while change the address
        of its process, which here is that of its clients too.
        """
        from mlflow.server import handlers

        artifacts = (database.parent / "artifacts").as_uri()
        handlers._tracking_store = handlers._tracking_store_registry.get_store(
            f"sqlite:///{database}", artifacts
        )

    def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        from mlflow.server import app

        self.held += not self.gate.is_set()
        self.gate.wait()
        answer = app(environ, start_response)
        if self.lose and self.lose in environ["PATH_INFO"]:
            self.lose = ""
            self.num_lost += 1
            environ["werkzeug.socket"].shutdown(2)
        return answer


@pytest.fixture
def server(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    database = tmp_path / "server" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_store, database)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # for a busy machine
    monkeypatch.setattr(courier, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(courier, "MAX_RETRY_SECONDS", 0.1)
    made = Server(database)
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    yield made
    made.gate.set()
    made.stop()


def history(run: tracking.Run, name: str = "loss") -> list[tuple[int, float]]:
    """Read the points of a metric, in MLflow's order."""
    points = store.open_store(Path.cwd()).get_metric_history(str(run.run_id), name)
    return [(point.step, point.value) for point in points]


def log(run: tracking.Run, steps: range) -> None:
    for step in steps:
        run.log_metrics({"loss": 1 / (step + 1)}, step=step)


def points(count: int) -> list[tuple[int, float]]:
    return [(step, 1 / (step + 1)) for step in range(count)]


def test_a_server_that_does_not_answer_holds_up_no_step(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "STAGE_PATIENCE", 0.2)
    server.gate.clear()
    with tracking.stage_run("slow", {"x": 1}) as run:
        assert eventually(lambda: server.held > 0)
        log(run, range(1000))
        run.log_dict({"a": 1}, "notes.json")
        assert not server.gate.is_set() and run.run_id is None  # all of it without any answer
    server.gate.set()
    assert eventually(lambda: not journals())
    assert history(run) == points(1000)


def test_the_password_is_printed_nowhere(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """As a run ends, MLflow itself would print the address of its page."""
    with tracking.stage_run("a", {}) as run:
        log(run, range(3))
    assert eventually(lambda: not journals())
    printed = capfd.readouterr()
    assert "hunter2secret" not in printed.out + printed.err


def test_a_server_that_is_down_and_comes_back_gets_everything(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    Path("dvc.lock").write_text("first\n")
    with tracking.pipeline_run(Path.cwd(), {"curate": {"seed": 0}}) as parent:
        assert parent.run_id is None and parent.reference is not None
        monkeypatch.setenv(tracking.PARENT_VARIABLE, parent.reference)
        with tracking.stage_run("a", {"x": 1}) as child:
            log(child, range(3))
        tracking.log_cached_stage(Path.cwd(), parent.reference, "b", {}, {"score": 2.0})
    warnings = warnings_of(caplog)
    assert "does not answer" in warnings[0] and ".lumiere/mlflow-queue" in warnings[0]
    assert not any("hunter2secret" in warning for warning in warnings)
    assert len(journals()) == 3
    server.start()
    assert eventually(lambda: not journals())
    client = store.open_store(Path.cwd())
    runs = {
        run.info.run_name[:1]: run
        for run in client.search_runs([store.experiment_id(client, Path.cwd())])
    }
    assert set(runs) == {"p", "a", "b"}
    for name in "ab":
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["p"].info.run_id
        assert runs[name].data.tags["dvc_lock_md5"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert history(child) == points(3)
    assert runs["p"].info.start_time <= runs["a"].info.start_time <= runs["a"].info.end_time


@pytest.mark.parametrize(
    "path", ["experiments/create", "runs/create", "runs/log-batch", "runs/update"]
)
def test_lost_answers_lose_and_double_nothing(server: Server, path: str) -> None:
    server.lose = path
    with tracking.stage_run("a", {"x": 1}) as run:
        log(run, range(10))
        run.flush()
        log(run, range(10, 20))
    assert eventually(lambda: not journals())
    assert server.num_lost == 1
    client = store.open_store(Path.cwd())
    (found,) = client.search_runs([store.experiment_id(client, Path.cwd())])
    assert found.info.run_id == run.run_id and found.info.status == "FINISHED"
    assert history(run) == points(20)


def test_a_server_killed_in_the_middle_and_back_with_an_empty_database(
    server: Server, tmp_path: Path, empty_store: Path
) -> None:
    with tracking.stage_run("a", {"x": 1}) as run:
        log(run, range(5))
        assert run.flush()
        first = run.run_id
        server.stop()
        log(run, range(5, 10))
        assert not run.flush()
        shutil.copy(empty_store, tmp_path / "server" / "new.db")
        server.use(tmp_path / "server" / "new.db")
        server.start()
        assert eventually(lambda: run.flush())
    assert run.run_id != first
    assert history(run) == points(10)
    found = store.open_store(Path.cwd()).get_run(str(run.run_id))
    assert found.data.params == {"x": "1"} and found.info.status == "FINISHED"


def test_what_is_deleted_in_the_pages(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    client = store.open_store(Path.cwd())
    with tracking.stage_run("a", {}) as run:
        assert run.flush()
        experiment = store.experiment_id(client, Path.cwd())
        client.delete_experiment(experiment)
        log(run, range(3))
    assert eventually(lambda: not journals()) and history(run) == points(3)
    client.delete_experiment(experiment)
    with tracking.stage_run("b", {}) as run:
        log(run, range(3))
        assert run.flush()
        client.delete_run(str(run.run_id))  # on purpose, so it stays deleted
        log(run, range(3, 6))
    assert eventually(lambda: not journals())
    assert client.get_run(str(run.run_id)).info.lifecycle_stage == "deleted"
    assert store.experiment_id(client, Path.cwd()) == experiment
    assert sum("is restored" in warning for warning in warnings_of(caplog)) == 2


def test_one_bad_entry_costs_only_itself(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with tracking.stage_run("a", {"x": 1}) as run:
        assert run.flush()
        run.log_params({"x": 2, "y": 3})  # MLflow never changes a param
        log(run, range(3))
    found = store.open_store(Path.cwd()).get_run(str(run.run_id))
    assert found.data.params == {"x": "1", "y": "3"} and history(run) == points(3)
    assert "left out" in "".join(warnings_of(caplog)) and not journals()


def test_loopback_goes_round_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    with tracking.stage_run("a", {}) as run:
        assert run.flush()
