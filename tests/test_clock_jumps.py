"""The machine's clock is set in the middle of a run, an hour forwards or backwards."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lumiere import tracking
from lumiere.run_origin import has_lost_its_process, process_tags
from lumiere.tracking import clock, store
from lumiere.tracking.courier import deliver_abandoned
from lumiere.tracking.journal import begin_journal

REPOSITORY = Path(__file__).resolve().parents[1]
HOUR = 3600.0
# What the clock of the machine decides, and only this: the times that MLflow shows, the names of
# journals, and the age of files, which the same clock measures.
READERS = {
    "lumiere/tracking/clock.py",
    "lumiere/tracking/journal.py",
    "lumiere/evaluation/feature_cache.py",
}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lumiere").mkdir()
    shutil.copy(empty_store, tmp_path / ".lumiere")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)


def only_run() -> Any:
    client = store.open_store(Path.cwd())
    (run,) = client.search_runs([store.experiment_id(client, Path.cwd())])
    return run


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_run_keeps_its_duration_and_the_order_of_its_metrics(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    began = time.monotonic()
    with tracking.stage_run("a", {}) as run:
        run.log_metrics({"loss": 2.0})
        time.sleep(0.01)  # the times are in milliseconds
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        run.log_metrics({"loss": 1.0})
    spent = 1000 * (time.monotonic() - began)
    found = only_run()
    assert 0 <= found.info.end_time - found.info.start_time <= spent
    assert found.data.metrics["loss"] == 1.0  # MLflow takes the point of the latest time
    client = store.open_store(Path.cwd())
    points = client.get_metric_history(found.info.run_id, "loss")
    assert [point.value for point in sorted(points, key=lambda point: point.timestamp)] == [2, 1]


def test_a_killed_run_does_not_end_before_it_began() -> None:
    journal = begin_journal(Path.cwd(), store.store_name(Path.cwd()))
    now = int(time.time() * 1000)
    journal.figures.add({"do": "create", "name": "a", "tags": {}, "parent": None, "time": now})
    set_back = now / 1000 - HOUR
    os.utime(journal.figures.path, (set_back, set_back))
    journal._file_lock.release()  # as the end of its process does
    assert deliver_abandoned(Path.cwd(), 60) == (0, None)
    assert (only_run().info.status, only_run().info.end_time) == ("KILLED", now)


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_run_at_work_is_not_taken_for_a_lost_one(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = process_tags()
    boot = psutil._psplatform.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot + jump)  # as the kernel does
    assert not has_lost_its_process(tags)
    assert has_lost_its_process(tags | {"pid": "1"})
    late = tags | {"pid_started": tags["pid_started"] + "1"}  # another boot
    assert has_lost_its_process(late)
    assert not has_lost_its_process(late | {"pid_namespace": "of a container"})


def test_processes_of_runs_that_an_older_version_recorded_are_found() -> None:
    started = psutil.Process().create_time()
    assert not has_lost_its_process(process_tags() | {"pid_started": str(started + 1)})
    assert has_lost_its_process(process_tags() | {"pid_started": str(started - 100)})


def test_nothing_else_asks_for_the_time_of_day() -> None:
    asks = re.compile(r"time\.time(_ns)?\(|datetime\.(now|utcnow|today)\(|import time\b.*\btime\(")
    files = [
        path
        for name in ("lumiere", "flows", "stages")
        for path in (REPOSITORY / name).rglob("*.py")
    ]
    found = {str(path.relative_to(REPOSITORY)) for path in files if asks.search(path.read_text())}
    assert found == READERS


def test_the_time_is_right_where_the_system_has_no_clock_of_its_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        with monkeypatch.context() as patch:
            for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime"):  # as on Windows
                patch.delattr(time, name, raising=False)
            importlib.reload(clock)
            assert abs(clock.now_in_ms() - 1000 * time.time()) < 1000
    finally:
        importlib.reload(clock)
    assert abs(clock.now_in_ms() - 1000 * time.time()) < 1000
