"""The flow on a toy project: real DVC, a real Prefect server, a real MLflow store."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    Settings,
    temporary_settings,
)
from prefect.states import Cancelling, Completed, Crashed, Failed, Pending, Running

import flows
from flows import dag, embedded_server
from flows.cancellation import Starter, is_being_cancelled
from flows.flow import _result, lumiere_pipeline, pipeline_lock
from flows.pipeline import main
from flows.program import check_server
from flows.report import StageResult
from flows.stage_task import PipelineFailed, PipelineRun
from flows.supervisor import Supervisors
from lumiere.errors import ParamsError
from lumiere.tracking import store
from tests.flows.conftest import REPOSITORY, events, repro
from tests.flows.test_supervisor import wait_until


@pytest.fixture(autouse=True)
def _server(prefect_server: str) -> None:
    """All tests here share one Prefect server."""


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch MLflow off for a test that does not look at it, because a new store takes seconds."""
    monkeypatch.setenv("LUMIERE_TRACKING", "off")


def run(root: Path, **options: Any) -> Any:
    return lumiere_pipeline(str(root), **options, return_state=True)


def mlflow_runs(root: Path) -> list[Any]:
    """Find all MLflow runs, newest first."""
    client = store.open_store(root)
    return list(
        client.search_runs(
            [store.experiment_id(client, root)], order_by=["attributes.start_time DESC"]
        )
    )


def statuses(root: Path) -> dict[str, str]:
    """Read from MLflow how the stages of the newest pipeline run ended."""
    parent = next(run for run in mlflow_runs(root) if run.data.tags["stage"] == "pipeline")
    return {
        k.removeprefix("stage."): v for k, v in parent.data.tags.items() if k.startswith("stage.")
    }


def this_run(state: Any) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))


def artifacts(state: Any) -> set[str | None]:
    with get_client(sync_client=True) as client:
        return {artifact.key for artifact in client.read_artifacts(flow_run_filter=this_run(state))}


def test_a_diamond_runs_side_by_side_then_is_cached(
    toy_project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("meet", "untracked-c"):
        (toy_project / name).touch()
    state = run(toy_project)
    assert state.is_completed() and state.message == "4 ran", state
    assert (toy_project / "d.txt").read_text() == "(d (b (a first))(c (a first)))"
    times = {(kind, name): at for kind, name, _, at in events(toy_project)}
    assert times["start", "b"] < times["end", "c"] and times["start", "c"] < times["end", "b"]
    assert times["end", "a"] < min(times["start", "b"], times["start", "c"])
    assert times["start", "d"] > max(times["end", "b"], times["end", "c"])
    output = capfd.readouterr()
    assert "size.characters" in output.out and "make ui" in output.out

    parent, *_ = [
        found for found in mlflow_runs(toy_project) if found.data.tags["stage"] == "pipeline"
    ]
    children = [
        r
        for r in mlflow_runs(toy_project)
        if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert sorted(child.info.run_name for child in children) == ["a", "b", "d"]
    assert {child.info.status for child in [*children, parent]} == {"FINISHED"}
    assert all(child.data.params == {"optim.steps": "3"} for child in children)
    digest = hashlib.md5((toy_project / "dvc.lock").read_bytes()).hexdigest()
    assert {found.data.tags["dvc_lock_md5"] for found in [*children, parent]} == {digest}

    state = run(toy_project)
    assert state.is_completed() and state.message == "4 cached"
    assert len(events(toy_project)) == 8  # nothing was started
    newest = mlflow_runs(toy_project)[:5]
    cached = {
        found.info.run_name: found for found in newest if found.data.tags.get("cached") == "true"
    }
    assert set(cached) == {"a", "b", "c", "d"}
    assert cached["d"].data.metrics == {"size.characters": 26.0}


def test_prefect_shows_cached_tasks_and_artifacts(toy_project: Path, untracked: None) -> None:
    first = run(toy_project, stages=["b"])
    deadline = time.monotonic() + 30
    while not artifacts(first) >= {"progress-a", "progress-b"}:  # sent by threads
        assert time.monotonic() < deadline, artifacts(first)
        time.sleep(0.2)
    state = run(toy_project, stages=["b"])
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=this_run(state))
    assert {task.name: task.state_name for task in tasks} == {"a": "Cached", "b": "Cached"}
    assert artifacts(state) == {"lumiere-run", "lumiere-stages"}
    (toy_project / "b.txt").unlink()
    state = run(toy_project, stages=["b"])
    assert state.is_completed() and state.message == "2 cached"  # checked out from DVC's cache
    assert (toy_project / "b.txt").exists()


def test_a_failed_branch_stops_what_depends_on_it_only(toy_project: Path) -> None:
    (toy_project / "fail-b").touch()
    (toy_project / "untracked-a").touch()
    state = run(toy_project)
    assert state.is_failed() and state.message.startswith("failed: b")
    assert statuses(toy_project) == {"a": "ran", "b": "failed", "c": "ran", "d": "not run"}
    by_name = {found.info.run_name: found.info.status for found in mlflow_runs(toy_project)}
    assert by_name["b"] == "FAILED" and by_name["c"] == "FINISHED"
    assert any(
        name.startswith("by hand ") and status == "FAILED" for name, status in by_name.items()
    )
    (toy_project / "fail-b").unlink()
    for name in "bd":
        (toy_project / f"untracked-{name}").touch()
    assert run(toy_project).is_completed()
    assert statuses(toy_project) == {"a": "cached", "b": "ran", "c": "cached", "d": "ran"}


def test_figures_of_earlier_runs_are_not_shown_as_this_ones(
    short_project: Path, untracked: None, capfd: pytest.CaptureFixture[str]
) -> None:
    run(short_project)
    assert "size.characters" in (output := capfd.readouterr().out) and "videos/one.mp4" in output
    run(short_project)
    # The stage is cached now, and its figures are still shown.
    assert "size.characters" in (output := capfd.readouterr().out) and "videos/one.mp4" in output
    (short_project / "input.txt").write_text("second")
    (short_project / "fail-a").touch()
    state = run(short_project)
    output = capfd.readouterr().out
    assert (short_project / "d.json").exists() and (short_project / "videos" / "one.mp4").exists()
    assert "not run" in output and "size.characters" not in output and "one.mp4" not in output
    assert artifacts(state) - {"progress-a"} == {"lumiere-run", "lumiere-stages"}


def test_a_stage_whose_figures_cannot_be_read_has_failed(
    short_project: Path, untracked: None
) -> None:
    (short_project / "corrupt-d").touch()
    state = run(short_project)
    assert state.is_failed() and state.message.startswith("failed: d"), state


def test_a_stage_that_cannot_be_started_has_failed(
    toy_project: Path,
    untracked: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tries: list[int] = []

    def start(*_: object) -> int:
        tries.append(1)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Supervisors, "run", start)
    monkeypatch.setattr("flows.second_tries.FIRST_DELAY", 0.0)
    assert main(["--root", str(toy_project), "--stages", "b", "--retries", "1"]) == 1
    assert "error: failed: a;" in capsys.readouterr().err
    assert len(tries) == 2 and not events(toy_project)


def starts(root: Path) -> str:
    return "".join(name for kind, name, *_ in events(root) if kind == "start")


def test_a_stage_that_was_killed_is_tried_again(
    toy_project: Path,
    untracked: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("flows.second_tries.FIRST_DELAY", 0.0)
    (toy_project / "kill-a").touch()
    assert run(toy_project, stages=["b"]).message == "2 ran"
    assert starts(toy_project) == "aab"
    assert "stage a was killed" in caplog.text and "try 2 of 3 begins in 0 s" in caplog.text


def test_what_is_busy_is_tried_again_and_what_fails_is_not(
    toy_project: Path, untracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.second_tries.FIRST_DELAY", 0.0)
    (toy_project / "busy-a").touch()
    state = run(toy_project, stages=["a"], retries=2)
    assert state.is_failed() and starts(toy_project) == "aaa"
    (toy_project / "busy-a").unlink()
    (toy_project / "fail-a").touch()
    state = run(toy_project, stages=["a"], retries=2)
    assert state.is_failed() and starts(toy_project) == "aaaa"
    with get_client(sync_client=True) as client:
        (task,) = client.read_task_runs(flow_run_filter=this_run(state))
    assert task.state is not None and task.state.message == "stage a ended with exit code 1"


def test_a_stage_that_waits_for_its_next_try_ends_with_the_run(toy_project: Path) -> None:
    prepared = PipelineRun(toy_project, {}, set(), 1, 0, dag.StageChecker(toy_project))
    threading.Timer(0.2, prepared.supervisors.stop).start()
    prepared.pause(3600)
    assert prepared.supervisors.is_stopped


def test_a_stage_that_runs_into_its_time_limit_is_stopped(
    toy_project: Path, untracked: None
) -> None:
    (toy_project / "slow").touch()
    state = run(toy_project, stages=["a"], time_limits={"a": 0.1})
    assert state.is_failed() and state.message.startswith("failed: a")
    assert starts(toy_project) == "aa"  # the stage and its child process, once
    assert not any(psutil.pid_exists(pid) for _, _, pid, _ in events(toy_project))
    with get_client(sync_client=True) as client:
        (task,) = client.read_task_runs(flow_run_filter=this_run(state))
    assert task.state_name == "TimedOut" and task.state is not None
    assert "ran into its time limit of 0.1 minutes" in task.state.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limits": {"x": 1}}, "'x' is not a stage; allowed: a, b, c, d"),
        ({"time_limits": {"a": 0}}, "time_limits"),
        ({"retries": 100}, "retries"),
        ({"stages": ["x"]}, "'x' is not a stage"),
        ({"only": True}, "--only needs --stages"),
        ({"overrides": {"curate.sead": 1}}, "curate.sead"),
    ],
)
def test_bad_parameters_do_not_even_wait_for_another_run(
    toy_project: Path, options: dict[str, Any], message: str
) -> None:
    with pipeline_lock(toy_project):
        state = run(toy_project, wait_minutes=60, **options)
    assert state.is_failed() and message in state.message, state


@pytest.mark.parametrize("text", ["a", "a=", "=3", "a=0", "a=-1", "a=nan", "a=inf", "a=x"])
def test_a_bad_time_limit_is_one_line(
    toy_project: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(toy_project), "--time-limit", text]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected STAGE=MINUTES" in error


def test_a_task_that_prefect_lost_is_no_success(
    toy_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage has failed unless it ended well, also if Prefect fails around its code."""
    nodes = dag.read_dag(toy_project)
    prepared = PipelineRun(toy_project, {}, set(), 1, 0, dag.StageChecker(toy_project))
    prepared.results["a"] = StageResult("a", "ran")
    for state, expected in ((Completed(), "ran"), (Crashed(), "failed"), (Failed(), "failed")):
        assert _result(nodes[0].name, state, prepared).status == expected
    assert _result("d", Pending(name="NotReady"), prepared).status == "not run"
    assert _result("d", Crashed(), prepared).status == "failed"
    monkeypatch.setattr("flows.flow._submit_and_wait", lambda *_: [StageResult("a", "not run")])
    state = run(toy_project)
    assert state.is_failed() and state.message.startswith("not run: a")


def test_an_edit_during_the_run_is_seen(
    short_project: Path, untracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(short_project)
    original = dag.read_dag

    def read_then_edit(root: Path, checker: dag.StageChecker) -> list[dag.StageNode]:
        nodes = original(root, checker)
        (root / "input.txt").write_text("second")
        return nodes

    monkeypatch.setattr(dag, "read_dag", read_then_edit)
    assert run(short_project).message == "2 ran"
    assert "second" in (short_project / "d.txt").read_text()


def test_the_collector_rests_until_all_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def run(options: object, wait_for_server: Callable[[], None]) -> int:
        seen.append(gc.isenabled())
        wait_for_server()
        seen.append(gc.isenabled())
        return 0

    frozen: list[int] = []
    monkeypatch.setattr("flows.program.run", run)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(1))  # conftest froze what it wants
    monkeypatch.setattr("flows.pipeline.EmbeddedServer.start", lambda self: None)
    assert main([]) == 0 and gc.isenabled()
    assert seen == [False, True] and frozen == [1]


def test_the_embedded_server_runs_no_automations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in embedded_server.SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert not Settings().server.services.triggers.enabled


def test_no_place_to_run_is_refused_before_any_work(toy_project: Path, untracked: None) -> None:
    state = run(toy_project, max_parallel=0)
    assert state.is_failed() and "max_parallel" in state.message, state
    assert not events(toy_project)


def test_waiting_stages_give_up_when_the_run_is_stopped(toy_project: Path) -> None:
    prepared = PipelineRun(toy_project, {}, set(), 1, 0, dag.StageChecker(toy_project))
    gave_up: list[PipelineFailed] = []

    def wait_for_a_slot() -> None:
        try:
            with prepared.slot():
                pytest.fail("it began")
        except PipelineFailed as error:
            gave_up.append(error)

    with prepared.slot():
        thread = threading.Thread(target=wait_for_a_slot, daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        prepared.supervisors.stop()
        thread.join(5)
        assert not thread.is_alive() and len(gave_up) == 1
    wait_for_a_slot()  # also if a slot is free
    assert len(gave_up) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_flow_leaves_nothing_behind_and_the_next_run_succeeds(
    toy_project: Path, prefect_database: Path, number: signal.Signals
) -> None:
    (toy_project / "slow").touch()
    home = toy_project / ".prefect"
    home.mkdir()
    shutil.copy(prefect_database, home)
    # Without the URL, the flow starts an embedded server of its own.
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    env["PREFECT_HOME"] = str(home)
    command = [sys.executable, "-m", "flows.pipeline", "--root", str(toy_project)]
    output = (toy_project / "log.txt").open("wb")
    # A job that a shell put into the background ignores SIGINT, and so would this process.
    default: Any = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdout=output, stderr=output, preexec_fn=default
    )
    try:
        wait_until(lambda: len(events(toy_project)) >= 2, 120)
        family = psutil.Process(process.pid).children(recursive=True)
        assert {pid for _, _, pid, _ in events(toy_project)} <= {child.pid for child in family}
        assert any("server_process" in " ".join(child.cmdline()) for child in family)
        process.send_signal(number)
        assert process.wait(150) != 0  # generous, for a busy machine
        wait_until(lambda: not any(child.is_running() for child in family))
    finally:
        process.kill()
        process.wait()
        output.close()
    (toy_project / "slow").unlink()
    with pipeline_lock(toy_project):  # free, as soon as the supervisor is gone
        pass
    if number == signal.SIGKILL:  # only the next run can tell
        assert run(toy_project, stages=["a"]).message == "1 ran"
    parent, child = mlflow_runs(toy_project)[::-1][:2]
    assert (parent.data.tags["stage"], child.data.tags["stage"]) == ("pipeline", "a")
    log = (toy_project / "log.txt").read_text()
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED"), log


# After a cancel. The aims are 10 and 15; these bounds only tell an end from none, on a busy machine.
STAGE_SECONDS, TREE_SECONDS = 30.0, 60.0


def test_a_cancelled_run_stops_its_stages_and_leaves_no_lock(
    toy_project: Path, untracked: None, prefect_server: str
) -> None:
    (toy_project / "slow").touch()
    command = [sys.executable, "-m", "flows.pipeline", "--root", str(toy_project)]
    env = os.environ | {"PREFECT_API_URL": prefect_server}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: len(events(toy_project)) >= 2, 120)
        with get_client(sync_client=True) as client:
            (found,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
            cancelled = time.monotonic()
            client.set_flow_run_state(found.id, Cancelling())
            pids = [pid for _, _, pid, _ in events(toy_project)]
            wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), STAGE_SECONDS)
            assert process.wait(TREE_SECONDS - (time.monotonic() - cancelled)) == 1
            state = client.read_flow_run(found.id).state
            assert state is not None and state.name == "Cancelled"
            this = FlowRunFilter(id=FlowRunFilterId(any_=[found.id]))
            tasks = client.read_task_runs(flow_run_filter=this)
            assert {task.name: task.state_name for task in tasks}["a"] == "Cancelled"
        assert not any(psutil.pid_exists(pid) for _, _, pid, _ in events(toy_project))
    finally:
        process.kill()
    locks = toy_project / ".dvc" / "tmp" / "rwlock"  # DVC warns of what a dead process left there
    assert not locks.exists() or json.loads(locks.read_text()) == {}


def test_a_server_that_is_away_is_asked_again() -> None:
    class Client:
        def read_flow_run(self, run_id: UUID) -> FlowRun:
            states = [
                ConnectionError("refused"),
                httpx.ReadTimeout("slow"),
                Running(),
                Cancelling(),
            ]
            answer = states[len(asked)]
            asked.append(run_id)
            if isinstance(answer, Exception):
                raise answer
            return FlowRun(flow_id=uuid4(), state=answer)

    asked: list[UUID] = []
    client: Any = Client()
    answers = [is_being_cancelled(client, uuid4()) for _ in range(4)]
    assert answers == [False, False, False, True]


def test_an_overlapping_run_is_refused(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.flow.LOCK_SECONDS", 0.5)
    with pipeline_lock(toy_project):
        state = run(toy_project)
    assert state.is_cancelled() and state.name == "Skipped"
    assert f"another pipeline run (process {os.getpid()}) is running" in state.message
    assert not events(toy_project)


def test_other_params_run_what_depends_on_them_and_are_put_back(
    toy_project: Path, untracked: None
) -> None:
    before = (toy_project / "params.yaml").read_text()
    assert run(toy_project).message == "4 ran"
    state = run(toy_project, overrides={"curate.seed": 4}, from_stage="c")
    assert state.message == "1 ran, 1 cached"
    assert (toy_project / "params.yaml").read_text() == before
    assert run(toy_project).message == "4 cached"  # DVC still has what the old params made


def test_bad_params_stop_before_any_work(
    toy_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy_project / "params.yaml").write_text("curate:\n  sead: 3\n")
    assert main(["--root", str(toy_project)]) == 1
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "params.yaml: curate.sead: unknown key; allowed: seed" in error
    )
    assert run(toy_project).is_failed()
    assert not events(toy_project)


def test_bad_overrides_are_not_blamed_on_the_file(
    toy_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(toy_project), "--set", "curate.sead=3"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: overrides (--set) of params.yaml: curate.sead: unknown key;")
    assert not events(toy_project)


def test_unknown_stage_and_broken_dag(
    toy_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(toy_project), "--stages", "x"]) == 1
    assert "'x' is not a stage; allowed: a, b, c, d" in capsys.readouterr().err
    (toy_project / "dvc.yaml").write_text("stages: 3")
    assert main(["--root", str(toy_project)]) == 1
    assert not events(toy_project)


def test_a_run_whose_worker_is_gone_begins_no_work(
    toy_project: Path, untracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.flow.STARTER", Starter(was_lost=True))
    monkeypatch.setattr("flows.cancellation.drop_output", lambda: None)  # it is pytest's
    state = run(toy_project)
    assert state.is_crashed() and "the worker that started this run has ended" in state.message
    assert not events(toy_project)


def test_force_runs_the_named_stage_only(toy_project: Path, untracked: None) -> None:
    assert run(toy_project, stages=["b"]).message == "2 ran"
    assert run(toy_project, stages=["b"], force=True).message == "1 cached, 1 ran"
    assert [name for kind, name, *_ in events(toy_project) if kind == "start"] == ["a", "b", "b"]


def test_scheduling_without_a_server_says_what_to_do(toy_project: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.pipeline", "--root", str(toy_project)]
    command += ["--schedule", "0 3 * * *"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "PREFECT_API_URL" in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_does_not_answer_is_named(
    toy_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://127.0.0.1:9/api"  # the port of the discard service, on which nothing listens
    for options in ([], ["--schedule", "0 3 * * *"]):
        with temporary_settings({PREFECT_API_URL: url}):
            assert main(["--root", str(toy_project), *options]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"PREFECT_API_URL={url}" in error
    assert not events(toy_project)


def test_a_home_folder_that_cannot_be_written_is_named(
    toy_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with temporary_settings({PREFECT_HOME: Path("/dev/null/home")}):
        assert main(["--root", str(toy_project)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "PREFECT_HOME=/dev/null/home: cannot be written" in error


def test_a_home_folder_that_no_database_address_can_hold_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "h ?x"
    defaults = {PREFECT_API_URL, PREFECT_API_DATABASE_CONNECTION_URL}
    with (
        temporary_settings({PREFECT_HOME: home}, restore_defaults=defaults),
        pytest.raises(ParamsError, match=r"h \?x.*rename the folder"),
    ):
        check_server()


def test_a_socks_proxy_hinders_neither_the_flow_nor_its_stages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = "socks5://127.0.0.1:9"
    monkeypatch.setattr(flows, "STAGE_PROXIES", {})
    monkeypatch.setattr(flows, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv(flows.PROXIES_VARIABLE, "{}")  # so that it is gone afterwards
    for name in ("all_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    flows._put_socks_proxies_away()
    assert os.environ["ALL_PROXY"] == proxy  # another machine may only be reached by it
    for url in ("http://127.0.0.1:4200/api", ""):
        monkeypatch.setenv("ALL_PROXY", proxy)
        monkeypatch.setenv("PREFECT_API_URL", url)
        if not url:
            monkeypatch.delenv("PREFECT_API_URL")
        flows._put_socks_proxies_away()
        assert "ALL_PROXY" not in os.environ and {"ALL_PROXY": proxy} == flows.STAGE_PROXIES
    assert "127.0.0.1" in os.environ["no_proxy"] and "127.0.0.1" in os.environ["NO_PROXY"]
    # A worker of `make serve`, and the run that it starts, get the variable only.
    monkeypatch.setattr(flows, "STAGE_PROXIES", {})
    flows._put_socks_proxies_away()
    assert {"ALL_PROXY": proxy} == flows.STAGE_PROXIES


def test_a_password_is_in_no_output_and_no_database(
    toy_project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hunter2secret"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://reviewer:{secret}@127.0.0.1:9")
    assert main(["--root", str(toy_project), "--stages", "a"]) == 0  # down: only a warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"nonsense://reviewer:{secret}@127.0.0.1:9")
    assert main(["--root", str(toy_project), "--stages", "a"]) == 1
    output = capfd.readouterr()
    assert "does not answer" in output.err and "cannot be used" in output.err
    assert secret not in output.out + output.err
    home = PREFECT_HOME.value()
    written = [path for folder in (toy_project, home) for path in folder.rglob("*")]
    holders = [path for path in written if path.is_file() and secret.encode() in path.read_bytes()]
    assert holders == []
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(limit=2, sort=FlowRunSort.START_TIME_DESC)
    assert {run.state_name for run in newest} == {"Failed", "Completed"}
    assert all(secret not in run.model_dump_json() for run in newest)
    assert all(re.fullmatch(r"by hand \d{4}-\d\d-\d\d \d\d:\d\d a", run.name) for run in newest)


def test_a_schedule_is_not_served_for_an_unknown_stage(
    toy_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.program.serve", lambda *_: pytest.fail("served"))
    options = ["--root", str(toy_project), "--schedule", "0 3 * * *", "--stages", "x"]
    assert main(options) == 1
    assert "'x' is not a stage; allowed: a, b, c, d" in capsys.readouterr().err


def test_dvc_repro_alone_makes_the_same_outputs(
    toy_project: Path, tmp_path: Path, untracked: None
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(toy_project, twin)
    assert run(toy_project).is_completed()
    repro(twin)
    ours, theirs = (yaml.safe_load((root / "dvc.lock").read_text()) for root in (toy_project, twin))
    assert ours == theirs  # but for the order of b and c, which is that in which they ended
