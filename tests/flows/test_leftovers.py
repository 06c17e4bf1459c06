"""Runs that a power cut left behind end as Crashed, on a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending, Running, Scheduled

from flows import leftovers, serve
from flows.leftovers import RUN_VARIABLE, crash_leftovers, processes_by_run
from flows.new_data import DEPLOYMENT, has_unfinished_run


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def deployment(client: SyncPrefectClient, request: pytest.FixtureRequest) -> UUID:
    return make_deployment(client, request.node.name)


def make_deployment(client: SyncPrefectClient, pool: str) -> UUID:
    flow, _, name = DEPLOYMENT.partition("/")
    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    flow_id = client.create_flow_from_name(flow)
    return client.create_deployment(flow_id, name, work_pool_name=pool)


def make_run(client: SyncPrefectClient, deployment: UUID, state: State) -> FlowRun:
    made = client.create_flow_run_from_deployment(deployment, state=Scheduled())
    if state.is_cancelling():  # a run that is not at work would be cancelled at once
        client.set_flow_run_state(made.id, Running(), force=True)
    client.set_flow_run_state(made.id, state, force=True)
    return made


def states(client: SyncPrefectClient, runs: list[FlowRun]) -> list[str]:
    found = [client.read_flow_run(run.id).state for run in runs]
    return ["" if state is None else state.name for state in found]


def test_a_power_cut_blocks_no_later_run(
    client: SyncPrefectClient, deployment: UUID, request: pytest.FixtureRequest
) -> None:
    runs = [make_run(client, deployment, state) for state in (Running(), Cancelling(), Pending())]
    later = make_run(client, deployment, Scheduled())
    lines = crash_leftovers(client, request.node.name, patience=0)
    assert states(client, runs) == ["Crashed", "Cancelled", "Crashed"]
    assert states(client, [later]) == ["Scheduled"]
    assert len(lines) == 3 and "was cut off" in lines[0] and runs[0].name in " ".join(lines)
    client.delete_flow_run(later.id)
    assert not has_unfinished_run()
    assert crash_leftovers(client, request.node.name) == []


def test_a_run_that_another_worker_has_at_work_stays(
    client: SyncPrefectClient, deployment: UUID, request: pytest.FixtureRequest
) -> None:
    alive, dead = (make_run(client, deployment, Running()) for _ in range(2))
    env = os.environ | {RUN_VARIABLE: str(alive.id)}
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE) as process:
        assert processes_by_run()[str(alive.id)] == process.pid
        lines = crash_leftovers(client, request.node.name, patience=0.1)
        process.communicate(b"\n")
    assert states(client, [alive, dead]) == ["Running", "Crashed"]
    assert f"at work in process {process.pid}, which another worker has started" in lines[1]
    assert str(alive.id) not in processes_by_run()
    assert len(crash_leftovers(client, request.node.name)) == 1


def test_runs_of_another_pool_stay(client: SyncPrefectClient, deployment: UUID) -> None:
    run = make_run(client, deployment, Running())
    assert crash_leftovers(client, "no-such-pool") == []
    assert states(client, [run]) == ["Running"]
    client.delete_flow_run(run.id)


def test_a_worker_that_may_be_starting_a_run_gets_time(
    client: SyncPrefectClient,
    deployment: UUID,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(client, deployment, Pending())
    looks: list[str] = []

    def look(seconds: float) -> None:
        looks.extend(states(client, [run]))
        client.set_flow_run_state(run.id, Running(), force=True)

    monkeypatch.setattr(leftovers.time, "sleep", look)
    assert len(crash_leftovers(client, request.node.name, patience=60)) == 1
    assert looks == ["Pending"]


def test_serve_ends_leftovers_as_soon_as_the_server_answers(
    client: SyncPrefectClient,
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = "test-serve-leftovers"
    run = make_run(client, make_deployment(client, pool), Running())
    monkeypatch.setattr(serve, "POOL", pool)
    monkeypatch.setattr(serve, "CHECK_SECONDS", 0.01)
    nobody = "http://127.0.0.1:9/api"
    answers = iter([False, True])
    serve.end_leftovers(nobody, lambda: next(answers))  # it is stopped while it waits
    with temporary_settings({PREFECT_API_URL: nobody}):
        serve.end_leftovers(prefect_server, lambda: False)
    assert states(client, [run]) == ["Crashed"]
    assert capsys.readouterr().out.count("was cut off") == 1
