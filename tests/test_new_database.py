"""A new database of MLflow, in which the first process ends in the middle or is short."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db import utils

from lumiere import tracking
from lumiere.tracking import recording, store
from lumiere.tracking.new_database import make_database


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)


def statuses() -> list[str]:
    client = store.open_store(Path.cwd())
    return [
        run.info.status for run in client.search_runs([store.experiment_id(client, Path.cwd())])
    ]


@pytest.mark.parametrize("address", ["", "sqlite:///my%20runs.db?timeout=5"])
def test_a_process_that_ends_in_the_middle_spoils_no_later_one(
    address: str, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def end(engine: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(utils, "_upgrade_db", end)
        with pytest.raises(SystemExit):
            store.open_store(Path.cwd())
    assert len(list(Path.cwd().rglob("*.db.new"))) == 1  # as `kill -9` leaves it

    def fill(engine: Any) -> None:
        shutil.copy(empty_store, engine.url.database)

    monkeypatch.setattr(utils, "_initialize_tables", fill)
    with tracking.stage_run("a", {}):
        pass
    assert statuses() == ["FINISHED"]
    assert not list(Path.cwd().rglob("*.db.new*"))


def test_a_short_stage_waits_until_its_database_is_made(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(engine: Any) -> None:
        time.sleep(1)
        shutil.copy(empty_store, engine.url.database)

    monkeypatch.setattr(utils, "_initialize_tables", fill)
    monkeypatch.setattr(recording, "STAGE_PATIENCE", 0.1)
    with tracking.stage_run("a", {}):
        time.sleep(0.3)  # its work; the database is begun meanwhile
    assert statuses() == ["FINISHED"]


def test_two_databases_are_not_made_at_the_same_time(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alembic would mix up their connections."""
    at_work: list[str] = []

    def fill(engine: Any) -> None:
        at_work.append(engine.url.database)
        time.sleep(0.2)
        assert len(at_work) == 1
        shutil.copy(empty_store, engine.url.database)
        at_work.clear()

    monkeypatch.setattr(utils, "_initialize_tables", fill)
    paths = [tmp_path / name for name in ("a.db", "b.db")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda path: make_database(f"sqlite:///{path}", path), paths))
    assert all(path.stat().st_size for path in paths)
