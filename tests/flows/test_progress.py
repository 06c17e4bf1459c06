"""Prefect's pages show how far a stage is, and a server that is away delays nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import prefect
import pytest
from prefect import get_client

from flows import progress
from flows.progress import StageProgress


def show(stage: str, *bars: str) -> threading.Thread | None:
    shown = StageProgress(stage, pause=0.02)
    for bar in bars:
        shown.see(bar)
        time.sleep(0.3)
    shown.end()
    return shown._thread


@prefect.task
def task(*bars: str) -> None:
    thread = show("train_base", *bars)
    if thread is not None:
        thread.join(20)


@prefect.flow
def flow(*bars: str) -> None:
    task(*bars)


def artifacts_of_tasks() -> list[Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    return [each for each in found if each.key == "progress-train-base"]


@pytest.mark.usefixtures("prefect_server")
def test_the_last_position_of_the_bar_is_an_artifact_of_the_task() -> None:
    known = {each.id for each in artifacts_of_tasks()}
    flow(
        "train_base:   3%|▎   | 3/100 [00:01<00:30]",
        "no bar at 50%",
        "train_base:  42%|████ | 42/100",
    )
    (artifact,) = (each for each in artifacts_of_tasks() if each.id not in known)
    assert artifact.type == "progress" and float(artifact.data) == 42.0
    assert artifact.task_run_id is not None
    flow("collecting files")
    assert len(artifacts_of_tasks()) == len(known) + 1


def test_a_server_that_hangs_or_is_away_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(**_: Any) -> None:
        release.wait(20)
        raise ConnectionError("away")

    monkeypatch.setattr(progress, "create_progress_artifact", hang)
    shown = StageProgress("a", pause=0.02)
    began = time.monotonic()
    for percent in range(100):
        shown.see(f"a: {percent:3}%|")
    shown.end()
    assert time.monotonic() - began < 5 and shown._thread is not None
    release.set()
    shown._thread.join(20)
    assert not shown._thread.is_alive()
