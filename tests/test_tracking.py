"""Runs in a real SQLite store."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from lumiere import run_origin, sqlite_files, tracking
from lumiere.addresses import keep_loopback_direct, redacted
from lumiere.errors import DataError, ParamsError
from lumiere.run_origin import PACKAGES, git_patch, git_tags
from lumiere.tracking import batches, courier, pages, recording, store
from lumiere.tracking.courier import deliver_abandoned
from lumiere.tracking.journal import QUEUE, EntryFile
from lumiere.tracking.system_metrics import system_metrics_recorded

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a project"
    (root / ".lumiere").mkdir(parents=True)
    shutil.copy(empty_store, root / ".lumiere")
    (root / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(root)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        tracking.PARENT_VARIABLE,
        "LUMIERE_TRACKING",
        "RANK",
    ):
        monkeypatch.delenv(name, raising=False)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the tracker has warned of."""
    records = [record for record in caplog.records if record.name.startswith("lumiere.tracking")]
    return [record.getMessage() for record in records]


def journals() -> list[Path]:
    """Return what is not delivered yet."""
    return [path for path in (Path.cwd() / QUEUE).glob("*") if not path.name.startswith(".")]


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait for a condition; return whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def only_run_named(name: str) -> Any:
    client = store.open_store(Path.cwd())
    runs = client.search_runs([store.experiment_id(client, Path.cwd())])
    (found,) = [run for run in runs if run.info.run_name == name]
    return found


def only_run() -> Any:
    client = store.open_store(Path.cwd())
    (run,) = client.search_runs([store.experiment_id(client, Path.cwd())])
    return run


def test_a_stage_run_keeps_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The lock of an earlier run: this run's does not exist yet.
    Path("dvc.lock").write_text("schema: '2.0'\n")
    Path("sub").mkdir()
    monkeypatch.chdir("sub")  # the store belongs to the project, not to the current folder
    video = tmp_path / "a video.mp4"
    video.write_bytes(b"\0" * 10)
    with tracking.stage_run(
        "train_base", {"init_from": "", "optim": {"steps": 7, "note": "x" * 7000}}
    ) as run:
        for step in range(500):
            run.log_metrics({"loss": 1 / (step + 1), "recall@1": 0.5}, step=step)
        run.log_artifact(video, "videos")
        run.log_dict({"b": 1}, "notes/params.json")
        run.set_tags({"device": "cpu"})
    monkeypatch.chdir(tmp_path / "a project")
    found = only_run()
    client = store.open_store(Path.cwd())
    assert found.info.status == "FINISHED" and found.info.run_name == "train_base"
    assert found.data.params["optim.steps"] == "7" and len(found.data.params["optim.note"]) == 6000
    assert found.data.metrics["recall_1"] == 0.5
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history)[-1] == (499, 1 / 500)
    assert len(history) == 500
    assert [file.path for file in client.list_artifacts(found.info.run_id, "videos")] == [
        "videos/a video.mp4"
    ]
    assert found.data.tags["stage"] == "train_base" and "dvc_lock_md5" not in found.data.tags
    assert Path(".lumiere/mlflow.db").exists() and not Path("sub/.lumiere").exists()


def test_exceptions_end_as_failed_and_exits_as_killed() -> None:
    with pytest.raises(ZeroDivisionError), tracking.stage_run("a", {}):
        _ = 1 / 0
    assert only_run().info.status == "FAILED"
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("b", {}):
        raise KeyboardInterrupt
    client = store.open_store(Path.cwd())
    runs = client.search_runs([store.experiment_id(client, Path.cwd())])
    assert {run.info.run_name: run.info.status for run in runs} == {"a": "FAILED", "b": "KILLED"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_ends_as_killed(number: signal.Signals) -> None:
    code = (
        "import time; from lumiere import tracking\n"
        "with tracking.stage_run('a', {}) as run:\n"
        "    run.flush(60); run.log_metrics({'loss': 1.0}); print('here', flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(number)
    assert process.wait(20) in (128 + signal.SIGTERM, -signal.SIGKILL)
    if number == signal.SIGKILL:  # nobody could write it down; the next process does
        assert only_run().info.status == "RUNNING"
        assert deliver_abandoned(Path.cwd(), 60) == (0, None)
    assert only_run().data.metrics == {"loss": 1.0}
    assert only_run().info.status == "KILLED"


def test_a_later_process_with_the_same_number_does_not_keep_a_run_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracking.stage_run("a", {}) as run:
        assert run.flush(60)
        store.close_abandoned_runs(store.open_store(Path.cwd()), Path.cwd(), set())
        assert only_run().info.status == "RUNNING"
        earlier = {
            "pid": str(os.getpid()),
            "pid_started": str(psutil.Process().create_time() - 100),
        }
        client = store.open_store(Path.cwd())
        for key, value in earlier.items():
            client.set_tag(only_run().info.run_id, key, value)
        kept = {only_run().info.run_id}  # its journal says how it ended
        store.close_abandoned_runs(client, Path.cwd(), kept)
        assert only_run().info.status == "RUNNING"
        store.close_abandoned_runs(client, Path.cwd(), set())
        assert only_run().info.status == "KILLED"


def test_parent_and_children_and_a_foreign_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path.cwd()
    with tracking.pipeline_run(root, {"curate": {"seed": 0}}) as parent:
        assert parent.run_id
        monkeypatch.setenv(tracking.PARENT_VARIABLE, parent.run_id)
        monkeypatch.setenv("MLFLOW_RUN_ID", parent.run_id)
        with tracking.stage_run("a", {"x": 1}) as child:
            assert child.flush(60) and child.run_id != parent.run_id
        tracking.log_cached_stage(root, parent.run_id, "b", {"y": 2}, {"score": 3.0})
        with pytest.raises(ZeroDivisionError), tracking.stage_run("c", {}):
            _ = 1 / 0
        Path("dvc.lock").write_text("with a and b\n")
    client = store.open_store(root)
    runs = {
        run.info.run_name: run for run in client.search_runs([store.experiment_id(client, root)])
    }
    assert (
        runs["a"].data.tags["mlflow.parentRunId"]
        == runs["b"].data.tags["mlflow.parentRunId"]
        == parent.run_id
    )
    assert runs["b"].data.tags["cached"] == "true" and runs["b"].data.metrics == {"score": 3.0}
    assert {file.path for file in client.list_artifacts(str(parent.run_id))} == {
        "params.json",
        "dvc.lock",
    }
    digest = hashlib.md5(b"with a and b\n").hexdigest()
    tagged = {name[:1]: run.data.tags.get("dvc_lock_md5") for name, run in runs.items()}
    # DVC does not record a stage that failed.
    assert tagged == {"p": digest, "a": digest, "b": digest, "c": None}


def test_new_code_makes_a_run_dirty_and_outputs_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repository"
    root.mkdir()

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    def is_dirty() -> str:
        return git_tags(root)["git_dirty"]

    assert git_tags(root) == {}
    git("init")
    (root / "lumiere").mkdir()
    for name, text in {
        "lumiere/a.py": "a",
        "params.yaml": "a: 1",
        "dvc.lock": "1",
        ".gitignore": "outputs/",
    }.items():
        (root / name).write_text(text)
    git("add", ".")
    git("commit", "-m", "first")
    assert is_dirty() == "false" and git_patch(root) == ""
    (root / "outputs").mkdir()
    (root / "outputs" / "a.yaml").write_text("made by a run")
    (root / "dvc.lock").write_text("2")
    (root / "notes.txt").write_text("not read by any run")
    assert is_dirty() == "false"
    for name in ("lumiere/new.py", "flows/sub/new.py", "stages/new.py", "my params.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("new")
        assert is_dirty() == "true", name
        (root / name).unlink()
        assert is_dirty() == "false"
    (root / "params.yaml").write_text("a: 2")
    assert is_dirty() == "true"
    assert "+a: 2" in git_patch(root) and "dvc.lock" not in git_patch(root)
    monkeypatch.setattr(run_origin, "MAX_PATCH", 10)
    assert "params.yaml | 2 +-" in git_patch(root) and "is left out because" in git_patch(root)


def test_a_change_within_the_second_of_the_checkout_is_seen_in_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git itself looks at the size and the seconds of its times only."""
    root = tmp_path / "repository"
    root.mkdir()

    def write(text: str) -> None:
        (root / "params.yaml").write_text(text)
        os.utime(root / "params.yaml", (1000, 1000))

    write("seed: 1")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    arguments: list[tuple[str, ...]] = [("init",), ("config", "core.trustctime", "false")]
    for command in (*arguments, ("add", "."), (*who, "commit", "-m", "first")):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    write("seed: 2")
    monkeypatch.setenv("DVC_EXP_NAME", "brown-fox")
    assert git_tags(root)["git_dirty"] == "true"
    assert "+seed: 2" in git_patch(root)
    write("seed: 1")
    assert git_tags(root)["git_dirty"] == "false" and git_patch(root) == ""


def test_a_state_that_git_cannot_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc", "status": None, "ls-files": ""}
    monkeypatch.setattr(run_origin, "_git", lambda root, command, *rest: answers[command])
    assert git_tags(Path.cwd())["git_dirty"] == "unknown"


def test_a_broken_store_costs_two_warnings_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = ("metrics", "tags", "params")
    with tracking.stage_run("a", {}) as run:
        assert run.flush(60)
        with sqlite3.connect(
            ".lumiere/mlflow.db"
        ) as database:  # it breaks under a run that has begun
            for table in tables:
                database.execute(f"ALTER TABLE {table} RENAME TO lost_{table}")
        run.log_metrics({"loss": 1.0})
        assert not run.flush(60)
        run.log_params({"x": 1})
        run.set_tags({"a": "b"})
    during, after = warnings_of(caplog)
    assert "does not answer" in during and ".lumiere/mlflow-queue" in during
    assert "the next run delivers it" in after
    with sqlite3.connect(".lumiere/mlflow.db") as database:
        for table in tables:
            database.execute(f"ALTER TABLE lost_{table} RENAME TO {table}")
    with tracking.stage_run("b", {}) as later:  # in this process, whose thread has not given up
        assert later.flush(60)
    assert eventually(lambda: not journals())
    found = store.open_store(Path.cwd()).get_run(str(run.run_id))
    assert found.info.status == "FINISHED" and found.data.metrics == {"loss": 1.0}
    assert found.data.params == {"x": "1"} and found.data.tags["a"] == "b"


def test_an_address_that_cannot_be_used_is_an_error_of_the_flow_and_a_warning_of_a_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/none.db")
    with tracking.stage_run("b", {"x": 1}) as run:
        run.log_metrics({"loss": 1.0})
        run.set_tags({"a": "b"})
    assert run.run_id is None
    assert "/dev/null/none.db cannot be used" in warnings_of(caplog)[0]
    for address, shown in (
        ("sqlite:////dev/null/none.db", "/dev/null/none.db"),
        ("nonsense://me:hunter2secret@host", "nonsense://***@host"),
        ("./mlruns", "./mlruns"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with (
            pytest.raises(DataError, match=f"{re.escape(shown)} cannot be used .*MLFLOW_TRACKING"),
            tracking.pipeline_run(Path.cwd(), {}),
        ):
            pass


def test_off_and_other_ranks_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with tracking.stage_run("a", {"x": 1}) as run:
        run.log_metrics({"loss": 1.0})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    with tracking.stage_run("a", {"x": 1}), tracking.pipeline_run(Path.cwd(), {}) as parent:
        parent.log_artifact("no such file")
    tracking.log_cached_stage(Path.cwd(), None, "a", {}, {})
    assert [path.name for path in Path(".lumiere").iterdir()] == ["mlflow.db"]
    client = store.open_store(Path.cwd())
    assert client.get_experiment_by_name(tracking.EXPERIMENT) is None


def test_off_does_not_even_import_mlflow() -> None:
    code = (
        "import sys; from pathlib import Path; from lumiere import tracking\n"
        "with tracking.pipeline_run(Path.cwd(), {}) as parent, tracking.stage_run('a', {'x': 1}) as run:\n"
        "    for one in (parent, run):\n"
        "        one.log_params({'x': 1}); one.log_metrics({'loss': 1.0}); one.set_tags({'a': 'b'}); one.flush()\n"
        "        one.log_artifact('nothing'); one.log_dict({}, 'a.json')\n"
        "sys.exit('mlflow' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "LUMIERE_TRACKING": "off"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


def test_a_moved_project_does_not_write_into_its_old_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.stage_run("a", {}):
        pass
    (tmp_path / "a project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    Path("file.txt").write_text("x")
    with tracking.stage_run("b", {}) as run:
        run.log_artifact("file.txt")
    assert list((tmp_path / "moved" / ".lumiere" / "mlartifacts").rglob("file.txt"))
    assert not (tmp_path / "a project").exists()
    assert only_run().info.run_name == "b"


def test_four_processes_may_open_a_new_store_at_once() -> None:
    Path(".lumiere/mlflow.db").unlink()
    code = (
        "import os, sys\n"
        "import mlflow.store.tracking.sqlalchemy_store\n"  # takes seconds, so once for all
        "from lumiere import tracking\n"
        "children = []\n"
        "while len(children) < 4:\n"
        "    children.append(os.fork())\n"
        "    if children[-1] == 0:\n"
        "        with tracking.stage_run('a', {}) as run:\n"
        "            assert run.flush(100)\n"
        "            [run.log_metrics({'loss': 1.0}, step=i) for i in range(150)]\n"
        "        sys.exit()\n"
        "print([os.waitpid(child, 0)[1] for child in children])"
    )
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, timeout=180
    )
    assert told.stdout == "[0, 0, 0, 0]\n"
    client = store.open_store(Path.cwd())
    runs = client.search_runs([store.experiment_id(client, Path.cwd())])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert all(len(client.get_metric_history(run.info.run_id, "loss")) == 150 for run in runs)


def test_numbers_are_flat_and_finite() -> None:
    values = {"a": {"b": 1, "c": float("nan"), "d": "text"}, "e": 0.5, "f": [1, 2], "g": True}
    assert tracking.numbers(values) == {"a.b": 1.0, "e": 0.5, "g": 1.0}


def test_a_deleted_experiment_is_restored(caplog: pytest.LogCaptureFixture) -> None:
    with tracking.stage_run("a", {}):
        pass
    client = store.open_store(Path.cwd())
    client.delete_experiment(store.experiment_id(client, Path.cwd()))
    with tracking.pipeline_run(Path.cwd(), {}) as run:
        assert run.run_id is not None
    assert only_run_named("a").info.lifecycle_stage == "active"
    assert "is restored" in "".join(warnings_of(caplog))


@pytest.mark.parametrize("damage", ["cut short", "not a database"])
def test_a_damaged_database_is_set_aside(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    database = Path(".lumiere/mlflow.db")
    whole = database.read_bytes()
    broken = whole[: len(whole) // 2] if damage == "cut short" else b"nothing of that kind" * 100
    database.write_bytes(broken)
    store._set_aside_if_damaged(database)
    assert not database.exists()
    (aside,) = Path(".lumiere").glob("mlflow.db.damaged-*")
    assert aside.read_bytes() == broken
    (warning,) = warnings_of(caplog)
    assert aside.name in warning and "a new one begins" in warning
    store._set_aside_if_damaged(database)  # there is nothing to mend now


def test_a_database_that_another_program_locks_delays_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_files, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(courier, "MAX_RETRY_SECONDS", 0.1)
    with sqlite3.connect(".lumiere/mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with tracking.pipeline_run(Path.cwd(), {}) as run:  # not refused: the lock will end
            assert run.run_id is None
        other.execute("ROLLBACK")
    assert "mlflow.db: another process has locked the database" in warnings_of(caplog)[0]
    assert eventually(lambda: not journals())
    assert only_run().info.status == "FINISHED"


def test_a_database_of_another_version_names_the_file_and_the_cure() -> None:
    with sqlite3.connect(".lumiere/mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    store_path = re.escape(f"sqlite:///{Path.cwd()}/.lumiere/mlflow.db")
    with (
        pytest.raises(DataError, match=f"{store_path} belongs to another version .*db upgrade"),
        tracking.pipeline_run(Path.cwd(), {}),
    ):
        pass
    assert not journals()


@pytest.mark.parametrize("name", ["p ?q=1", "50%20x"])
def test_a_path_that_no_database_address_can_hold_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / name
    root.mkdir()
    (root / "dvc.yaml").touch()
    monkeypatch.chdir(root)
    before = sorted(tmp_path.iterdir())
    with (
        pytest.raises(ParamsError, match="rename the folder"),
        tracking.pipeline_run(root, {}),
    ):
        pass
    with tracking.stage_run("a", {}) as run:  # a stage goes on without a record
        run.log_metrics({"loss": 1.0})
    assert "rename the folder" in "".join(warnings_of(caplog))
    assert sorted(tmp_path.iterdir()) == before and [path.name for path in root.iterdir()] == [
        "dvc.yaml"
    ]


@pytest.mark.parametrize("name", ["100% x", "a #b", "c+d&e;f"])
def test_other_paths_are_kept_as_they_are(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / name
    (root / ".lumiere").mkdir(parents=True)
    shutil.copy(empty_store, root / ".lumiere")
    (root / "dvc.yaml").touch()
    monkeypatch.chdir(root)
    Path("file.txt").write_text("x")
    with tracking.stage_run("a", {}) as run:
        run.log_artifact("file.txt")
    assert only_run().info.status == "FINISHED"
    assert list((root / ".lumiere" / "mlartifacts").rglob("file.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "a project"})


@pytest.mark.parametrize("folder", ["tmpabc", "standalone/tmpabc"])  # of the queue, and of --temp
def test_a_queued_experiment_is_recorded_in_the_project(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "a project"
    copy = project / ".dvc" / "tmp" / "exps" / folder
    (copy / ".dvc").mkdir(parents=True)
    (copy / "dvc.yaml").touch()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("DVC_EXP_NAME", "brisk-owl")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    with tracking.stage_run("a", {}):
        pass
    assert not (copy / ".lumiere").exists()
    monkeypatch.chdir(project)
    tags = only_run().data.tags
    assert (tags["dvc_exp_name"], tags["dvc_exp_baseline"]) == ("brisk-owl", "abc123")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))
    assert tracking.project_root() == project


def test_a_relative_address_of_a_store_begins_at_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the flow, one of a stage in another folder, and one of a queued experiment."""
    project = Path.cwd()
    (project / "dvc.yaml").touch()
    (project / ".lumiere" / "mlflow.db").rename(project / "mine.db")
    copy = project / ".dvc" / "tmp" / "exps" / "tmpabc"
    (copy / ".dvc").mkdir(parents=True)
    (copy / "dvc.yaml").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db?timeout=5")
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(tmp_path)
    with tracking.pipeline_run(project, {}, "all") as parent:
        monkeypatch.setenv(tracking.PARENT_VARIABLE, str(parent.reference))
        for folder in (project / ".lumiere", copy):
            monkeypatch.chdir(folder)
            with tracking.stage_run(folder.name, {}):
                pass
    client = store.open_store(project)
    found = client.search_runs([store.experiment_id(client, project)])
    assert {run.info.run_name for run in found} == {"all", ".lumiere", "tmpabc"}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert [path.relative_to(project).name for path in tmp_path.rglob("mine.db*")] == ["mine.db"]
    assert not (project / ".lumiere" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("chosen", "address"),
    [
        ("", "sqlite:////p/.lumiere/mlflow.db"),
        ("sqlite:///mine.db?timeout=5", "sqlite:////p/mine.db?timeout=5"),
        ("sqlite+pysqlite:///a/b.db", "sqlite+pysqlite:////p/a/b.db"),
        ("sqlite:////elsewhere/mine.db", "sqlite:////elsewhere/mine.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_addresses_of_the_store_are_absolute(
    chosen: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", chosen)
    assert store.tracking_uri(Path("/p")) == address
    if chosen.startswith("sqlite:///mine"):
        with pytest.raises(ParamsError, match="rename the folder"):
            store.tracking_uri(Path("/p ?q"))


def test_params_of_every_run_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_shared_params", {})
    tracking.record_with_every_run({"launch": {"precision": "bf16"}})
    with tracking.stage_run("a", {"optim": {"steps": 3}}):
        pass
    assert only_run().data.params == {"optim.steps": "3", "launch.precision": "bf16"}


def test_a_reviewer_finds_data_versions_and_a_description() -> None:
    with tracking.pipeline_run(Path.cwd(), {}) as run:
        run.describe("**Good.**")
        run.log_inputs({"data/raw": "0123456789abcdef0123456789abcdef.dir"}, "pipeline")
    found = only_run()
    assert found.data.tags["mlflow.note.content"] == "**Good.**"
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == (
        "data/raw",
        "0123456789abcdef0123456789abcdef.dir",
    )
    for package in PACKAGES:
        assert found.data.tags[package] == version(package)
    experiment = store.open_store(Path.cwd()).get_experiment(found.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_searches_of_the_page_for_reviewers_find_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brown-fox")
    params = {"train_base": {"optim": {"seed": 1}}}
    with tracking.pipeline_run(Path.cwd(), params, "nightly 2026-11-29 03:00 all stages") as run:
        run.log_metrics({"evaluate/independent_frechet": 127.4})
        run.set_tags({"git_dirty": "false", "git_commit": "1a2b3c4d"})
        monkeypatch.setenv(tracking.PARENT_VARIABLE, str(run.reference))
        with pytest.raises(ZeroDivisionError), tracking.stage_run("train_base", {}):
            _ = 1 / 0
    page = (REPOSITORY / "docs" / "review.md").read_text()
    searches = re.findall(r"^\| .* \| `(.*)` \|$", page, re.MULTILINE)
    assert len(searches) >= 9
    client = store.open_store(Path.cwd())
    for search in searches:
        assert client.search_runs([store.experiment_id(client, Path.cwd())], search), search


def test_the_pages_open_at_the_runs_of_the_store_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")  # restored at the end
    served: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: served.append(words))
    monkeypatch.setattr(sys, "argv", ["pages", "--port", "5001", "--allowed-hosts", "a.example"])
    pages.main()
    link = "http://127.0.0.1:5001/#/experiments/1/runs?workflowType=machine_learning"
    assert link in capsys.readouterr().out
    (words,) = served
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--allowed-hosts") + 1] == "a.example"
    # Not in the command, which every user of the machine can read: an address may hold a password.
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == tracking.tracking_uri(Path.cwd())
    assert "--backend-store-uri" not in words

    shutil.copy(".lumiere/mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    pages.main()
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{Path.cwd()}/other.db"


def test_a_full_disk_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking.stage_run("a", {}) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.flush(60)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, line: len(line) // 2)
            run.log_metrics({"loss": 2.0}, step=2)
            run.log_metrics({"loss": 3.0}, step=3)
        run.log_metrics({"loss": 4.0}, step=4)
        run.log_artifact("no such file")
    assert len(warnings_of(caplog)) == 1
    history = store.open_store(Path.cwd()).get_metric_history(str(run.run_id), "loss")
    assert [point.value for point in history] == [1.0, 4.0]


def test_an_entry_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    entries = EntryFile(tmp_path, "figures")
    entries.add({"do": "a"})
    with entries.path.open("ab") as file:
        file.write(b'{"do": "b"')  # a kill, in the middle of it
    later = EntryFile(tmp_path, "figures")
    assert [entry["do"] for entry, _ in later.pending()] == ["a"]
    later.add({"do": "c"})
    pending = list(later.pending())
    assert [entry["do"] for entry, _ in pending] == ["a", "c"]
    later.advance(pending[0][1])
    assert [entry["do"] for entry, _ in EntryFile(tmp_path, "figures").pending()] == ["c"]
    (tmp_path / "figures.json").write_text("")  # a power cut: how far it was is unknown
    again = EntryFile(tmp_path, "figures")
    assert [entry["do"] for entry, _ in again.pending()] == ["a", "c"] and again.progress.may_exist


def test_lost_progress_doubles_nothing() -> None:
    with tracking.stage_run("a", {"x": 1}) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.flush(60)
        first, journal = run.run_id, run._journal
        assert journal is not None
        journal.begin_again()
        assert run.flush(60) and run.run_id == first
    assert only_run().info.status == "FINISHED"
    history = store.open_store(Path.cwd()).get_metric_history(str(first), "loss")
    assert [point.value for point in history] == [1.0]


def test_a_forked_child_leaves_the_run_to_its_parent() -> None:
    with tracking.stage_run("a", {}) as run:
        assert run.flush(60)
        child = os.fork()
        if not child:
            run.log_metrics({"loss": 2.0})
            run.log_text("x", "x.txt")
            run.end("KILLED")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert courier.courier(Path.cwd()).journals  # nobody takes it for an abandoned one
        assert deliver_abandoned(Path.cwd(), 60) == (0, None) and len(journals()) == 1
        run.log_metrics({"loss": 1.0})
    assert only_run().info.status == "FINISHED" and only_run().data.metrics == {"loss": 1.0}


def test_what_was_delivered_but_not_deleted_is_deleted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            monkeypatch.setattr(courier.Courier, "_forget_if_complete", lambda self, journal: None)
            with tracking.stage_run("a", {}) as run:
                run.log_metrics({"loss": 1.0})
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(journals()) == 1 and only_run().info.status == "FINISHED"
    assert deliver_abandoned(Path.cwd(), 60) == (0, None)
    assert not journals() and only_run().data.metrics == {"loss": 1.0}


def test_a_run_that_mlflow_refuses_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    send = batches.log_batch
    refused: set[str | None] = set()

    def log_batch(client: Any, run_id: str, kind: str, items: list[list[Any]]) -> None:
        if run_id in refused:
            raise MlflowException("not allowed", error_code=PERMISSION_DENIED)
        send(client, run_id, kind, items)

    monkeypatch.setattr(batches, "log_batch", log_batch)
    monkeypatch.setattr(courier, "MAX_RETRY_SECONDS", 0.1)
    with tracking.stage_run("a", {}) as first:
        assert first.flush(60)
        refused.add(first.run_id)
        first.log_metrics({"loss": 1.0})
        with tracking.stage_run("b", {}) as second:
            second.log_text("x", "x.txt")
        assert eventually(lambda: len(journals()) == 1)
        files = store.open_store(Path.cwd()).list_artifacts(str(second.run_id))
        assert [file.path for file in files] == ["x.txt"]
        refused.clear()
    assert eventually(lambda: not journals())
    assert only_run_named("a").data.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no http://a:b@host/x", "no http://***@host/x"),
        ("postgresql://u:p@ss@h:5/db and sqlite:////a@b/c.db", None),
        ("s3://bucket?token=abc&x=1", "s3://bucket?token=***&x=1"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_passwords_are_hidden(
    text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:p@ss@h:5/db")
    assert redacted(text) == (expected or "postgresql://***@h:5/db and sqlite:////a@b/c.db")
    assert "p@ss" not in redacted('role "u" with password p@ss is refused')


def test_loopback_is_added_to_the_users_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org, 127.0.0.1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    keep_loopback_direct()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    monkeypatch.setenv("no_proxy", "*")
    keep_loopback_direct()
    assert os.environ["no_proxy"] == "*"


def test_the_load_of_the_machine_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    run = recording._begin_run(Path.cwd(), "train", {"stage": "train"}, None)
    with system_metrics_recorded(run, 0.01):
        assert eventually(lambda: run._journal is not None and run._points >= 20)
    threads = {thread.name for thread in threading.enumerate()}
    assert "lumiere-system-metrics" not in threads
    run.end()
    found = only_run().data.metrics
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= found.keys()


def test_a_load_that_cannot_be_read_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with system_metrics_recorded(tracking.Run(), 0.001):  # records nothing
        assert "lumiere-system-metrics" not in {thread.name for thread in threading.enumerate()}
    run = recording._begin_run(Path.cwd(), "train", {"stage": "train"}, None)

    def fail() -> None:
        raise PermissionError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    with system_metrics_recorded(run, 0.001):
        assert eventually(lambda: bool(warnings_of(caplog)))
    run.discard()
    assert warnings_of(caplog) == ["the load of the machine is not recorded: /proc/meminfo"]
