"""A new database of MLflow, in which the first process ends in the middle or is short."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db import utils

from lumiere import tracking
from lumiere.tracking import recording, store


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
