"""The flow offers a pipeline to a real registry, by what `dvc.lock` says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.registration import register_model
from lumiere.config import Params, to_dict
from lumiere.tracking import store
from tests.flows.test_lock_file import STAGES

REGISTRY = to_dict(Params())["registry"] | {"name": "model"}


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Path:
    (tmp_path / ".lumiere").mkdir()
    shutil.copy(empty_store, tmp_path / ".lumiere")
    for name in ("pipeline", "beside", "videos", "evaluation"):
        (tmp_path / name).mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": STAGES}))
    write_scores(tmp_path, 100)
    return tmp_path


def write_scores(root: Path, value: float) -> None:
    score = {"key": REGISTRY["metric"], "better": "lower", "value": value}
    score |= {"interval": [value - 5, value + 5], "floor": None}
    (root / "evaluation" / "scores.json").write_text(json.dumps([score]))


def test_a_measured_pipeline_becomes_a_version_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = store.open_store(project)
    run = client.create_run(store.experiment_id(client, project)).info.run_id
    outputs = [project / "videos", project / "evaluation"]

    def register(registry: object = REGISTRY, run_id: str | None = run) -> str:
        register_model(project, registry, outputs, run_id, "A card.", {"git_commit": "abc"})  # type: ignore[arg-type]
        return capsys.readouterr().out

    assert register(None) == register(run_id=None) == ""
    assert "version 1 of model in MLflow's registry; it is the first champion" in register()
    (version,) = client.search_model_versions("name = 'model'")
    assert version.description == "A card." and version.run_id == run
    assert version.tags["pipeline_md5"] == "2" and version.tags["git_commit"] == "abc"
    files = {file.path for file in client.list_artifacts(run, "model")}
    assert {"model/MLmodel", "model/README.md", "model/artifacts"} <= files
    assert register() == ""

    changed = STAGES["generate"]["outs"][0] | {"md5": "9"}
    other = STAGES | {"generate": STAGES["generate"] | {"outs": [changed]}}
    other["evaluate"] = STAGES["evaluate"] | {"params": {"params.yaml": {"num_videos": 12}}}
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": other}))
    write_scores(project, 50)
    assert "version 1 stays the champion, because it was measured with other settings" in register()


def test_a_run_without_scores_or_records_registers_nothing(project: Path) -> None:
    register_model(project, REGISTRY, [project / "videos"], "1", "", {})
    (project / "dvc.lock").unlink()
    register_model(project, REGISTRY, [project / "evaluation"], "1", "", {})
    assert store.open_store(project).search_model_versions() == []
