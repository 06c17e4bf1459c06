"""Prefect's pages show how far a stage is, and a server that is away delays nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any
from uuid import UUID, uuid4

import prefect
import pytest
from prefect import get_client

from flows import progress
from flows.progress import StageProgress
from flows.supervisor import split_output

NESTED = """
import time
from tqdm import tqdm
for _ in tqdm(range(4), desc="generate", mininterval=0, miniters=1):
    for _ in tqdm(range(3), desc="base model", leave=LEAVES, mininterval=0, miniters=1):
        time.sleep(0.02)
"""


@pytest.mark.parametrize("leaves", [False, True])
def test_the_outer_one_of_two_bars_counts(leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, seen = StageProgress("generate"), []
    monkeypatch.setattr(StageProgress, "_send", lambda self: None)
    code = NESTED.replace("LEAVES", str(leaves))
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for text, _ in split_output(process.stderr.fileno()):
            shown.see(text)
            seen.append(shown._newest)
    assert list(dict.fromkeys(seen)) == [("generate", 25.0 * i) for i in range(5)]


@prefect.task
def task(*bars: str) -> None:
    shown = StageProgress("train_base", pause=0.02)
    for bar in bars:
        shown.see(bar)
        time.sleep(0.3)
    shown.end()
    if shown._thread is not None:
        shown._thread.join(20)


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


def test_a_server_that_comes_back_gets_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    key = uuid4()

    def create(progress: float, **_: Any) -> UUID:
        calls.append(progress)
        if len(calls) < 3:
            raise ConnectionError("away")
        return key

    def update(artifact: UUID, progress: float, **_: Any) -> None:
        assert artifact == key
        calls.append(progress)

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    shown = StageProgress("a", pause=0.02)
    shown.see("a:  10%|#")
    deadline = time.monotonic() + 20
    while len(calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    shown.see("a: 100%|##########| 9/9")
    shown.end()
    assert shown._thread is not None
    shown._thread.join(20)
    assert calls == [10.0, 10.0, 10.0, 100.0]


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
