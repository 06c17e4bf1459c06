"""Runs in a real PostgreSQL database, with artifacts in a real S3 server."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumiere import tracking
from lumiere.errors import DataError
from lumiere.tracking import courier, model_registry, store
from lumiere.tracking.model_registry import Candidate
from tests import servers
from tests.test_tracking import eventually, journals, warnings_of

SECRETS = ("hunter2", servers.S3_SECRET)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "video.mp4").write_bytes(b"\0" * 10)
    monkeypatch.chdir(root)
    monkeypatch.setattr(courier, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(courier, "MAX_RETRY_SECONDS", 0.1)
    return root


@pytest.fixture(scope="module")
def database() -> Iterator[servers.PostgreSQL]:
    with servers.postgresql() as server:
        yield server


def test_runs_and_versions_in_postgresql_with_files_in_s3(
    project: Path,
    tmp_path: Path,
    database: servers.PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.uri)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{servers.BUCKET}/runs/")
    monkeypatch.setattr(model_registry, "save_model", lambda folder, pipeline: folder.mkdir())
    with servers.s3(tmp_path, monkeypatch) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        with tracking.pipeline_run(project, {"curate": {"seed": 0}}) as parent:
            monkeypatch.setenv(tracking.PARENT_VARIABLE, str(parent.reference))
            with tracking.stage_run("train", {"x": 1}) as run:
                for step in range(100):
                    run.log_metrics({"loss": 1 / (step + 1)}, step=step)
                run.log_artifact("video.mp4", "videos")
            assert parent.flush(60)
        assert eventually(lambda: not journals())
        client = store.open_store(project)
        found = client.get_run(str(run.run_id))
        assert found.data.params == {"x": "1"} and found.info.status == "FINISHED"
        assert len(client.get_metric_history(found.info.run_id, "loss")) == 100
        assert found.info.artifact_uri.startswith(f"s3://{servers.BUCKET}/runs/lumiere/")
        keys = {item.key for item in servers.bucket(endpoint).objects.all()}
        assert f"runs/lumiere/{found.info.run_id}/artifacts/videos/video.mp4" in keys
        folder = client.download_artifacts(found.info.run_id, "videos", str(tmp_path))
        assert (Path(folder) / "video.mp4").read_bytes() == b"\0" * 10

        score = {"key": "d", "better": "lower", "value": 2.0, "interval": [1, 3], "floor": None}
        Path("scores.json").write_text(json.dumps([score]))
        scores = project / "scores.json"
        candidate = Candidate(str(parent.run_id), project, "1", scores, "m", "card", {})
        assert "first champion" in model_registry.register(project, candidate, "lumiere", "d")
        version = client.get_model_version_by_alias("lumiere", "champion")
        assert version.source.startswith(f"s3://{servers.BUCKET}/")
    seen = [caplog.text, *capfd.readouterr(), database.content()]
    seen += [path.read_bytes().decode(errors="replace") for path in files(project)]
    for secret in SECRETS:
        assert not any(secret in text for text in seen)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_database_that_goes_away_and_comes_back(
    project: Path,
    database: servers.PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.uri)
    with tracking.stage_run("train", {}) as run:
        assert run.flush(60)
        database.stop()
        run.log_metrics({"loss": 1.0}, step=0)
        assert not run.flush(1)
        database.start()
        assert eventually(lambda: run.flush(1))
    assert len(store.open_store(project).get_metric_history(str(run.run_id), "loss")) == 1
    assert "hunter2" not in caplog.text


def test_a_wrong_password_is_one_sentence(
    project: Path, database: servers.PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = database.uri.replace(servers.POSTGRESQL_PASSWORD, "another%40secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", wrong)
    with pytest.raises(DataError) as raised:
        store.open_store(project)
    message = str(raised.value)
    assert f"postgresql://***@127.0.0.1:{database.port}/postgres refuses" in message
    assert "password authentication failed" in message and "MLFLOW_TRACKING_URI" in message
    assert not any(text in message for text in ("another@secret", "another%40secret", "\n"))


def test_a_database_that_does_not_answer_is_told_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servers.needs("psycopg")
    uri = f"postgresql://u:hunter2secret@127.0.0.1:{servers.free_port()}/lumiere"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConnectionError, match="refused"):
        store.open_store(project)
    with tracking.stage_run("train", {}) as run:
        run.log_metrics({"loss": 1.0}, step=0)
    assert len(journals()) == 1
    (warning,) = [text for text in warnings_of(caplog) if "does not answer" in text]
    assert "postgresql://***@127.0.0.1" in warning and "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("package", "uri", "root", "cure"),
    [
        ("psycopg", "postgresql://u:hunter2secret@127.0.0.1/d", "", "'.[postgresql]'"),
        ("boto3", "", "s3://bucket/runs", "'.[s3]'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str,
    uri: str,
    root: str,
    cure: str,
    project: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project / ".lumiere").mkdir()
    shutil.copy(empty_store, project / ".lumiere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", root)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(store, "find_spec", lambda name: None)
    with pytest.raises((DataError, ImportError)) as raised:
        store.open_store(project)
    problem = store.lasting_problem(raised.value, project)  # type: ignore[arg-type]
    assert cure in str(problem) and "hunter2" not in str(problem)


def test_artifacts_of_a_database_stay_in_the_project_unless_told_otherwise(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:p@h/d")
    inside = urllib.parse.quote(str(project / ".lumiere" / "mlartifacts"))
    assert store.artifact_location(project) == f"file://{inside}"
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/runs")
    assert store.artifact_location(project) == "s3://bucket/runs/lumiere"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert store.artifact_location(project) is None


@pytest.mark.parametrize("place", ["./mlruns", "file:mlruns"])
def test_a_relative_place_for_artifacts_begins_at_the_project_and_stays(
    place: str, project: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".lumiere").mkdir()
    shutil.copy(empty_store, project / ".lumiere")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", place)
    client = store.open_store(project)
    ids = {store.experiment_id(client, project) for _ in range(3)}
    (experiment,) = [each for each in client.search_experiments() if each.name == store.EXPERIMENT]
    assert ids == {experiment.experiment_id}
    assert experiment.artifact_location == f"{(project / 'mlruns').as_uri()}/{store.EXPERIMENT}"
