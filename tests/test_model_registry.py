"""The model registry: a version for each pipeline, a champion by rule, and a model that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lumiere.errors import DataError, ParamsError
from lumiere.tracking import champion, model_registry, store
from lumiere.tracking.champion import Standing, is_improvement
from lumiere.tracking.model_registry import Candidate


def scores(path: Path, value: float, half: float, **others: Any) -> Path:
    floor = {"value": 3.0, "interval": [2.0, 4.0]}
    score = {"value": value, "interval": [value - half, value + half], "floor": floor}
    found = [
        {"key": "distance", "better": "lower"} | score | others,
        {"key": "seconds", "better": "lower", "value": 1.0, "interval": None, "floor": None},
    ]
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    ("better", "new", "champion_", "expected"),
    [
        ("lower", (50, 40, 60), (100, 90, 110), True),
        ("lower", (85, 75, 95), (100, 90, 110), False),  # the intervals overlap
        ("lower", (150, 140, 160), (100, 90, 110), False),  # worse
        ("higher", (150, 140, 160), (100, 90, 110), True),
        ("higher", (50, 40, 60), (100, 90, 110), False),
        ("closer", (4, 3.5, 4.5), (9, 8, 10), True),  # the floor is 3
        ("closer", (9, 8, 10), (1, 0, 2), False),
        ("lower", (80, None, None), (100, 90, 110), True),  # one of them has no interval
        ("lower", (95, None, None), (100, 90, 110), False),
    ],
)
def test_only_an_improvement_beyond_chance_counts(
    better: str, new: Any, champion_: Any, expected: bool
) -> None:
    made = [Standing(value, better, low, high, 3.0) for value, low, high in (new, champion_)]
    assert is_improvement(*made) is expected
    assert not is_improvement(made[1], made[1])


def test_the_metric_of_the_rule_must_have_an_interval(tmp_path: Path) -> None:
    standings = champion.read_standings(scores(tmp_path / "scores.json", 100, 10))
    assert champion.choose(standings, "distance").shown == "100 [90, 110]"
    for wrong in ("seconds", "nonsense"):
        with pytest.raises(ParamsError, match=rf"registry\.metric: '{wrong}'; allowed: distance"):
            champion.choose(standings, wrong)
    assert champion.from_tags(champion.as_tags(standings), "distance") == standings["distance"]
    assert champion.from_tags({}, "distance") is None
    (tmp_path / "scores.json").write_text('[{"key": 1}]')
    with pytest.raises(DataError, match=r"scores\.json: not the scores"):
        champion.read_standings(tmp_path / "scores.json")


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Path:
    (tmp_path / ".lumiere").mkdir()
    shutil.copy(empty_store, tmp_path / ".lumiere")
    return tmp_path


def make_candidate(
    root: Path, digest: str, value: float, half: float, measured: str = "m1"
) -> Candidate:
    client = store.open_store(root)
    run = client.create_run(store.experiment_id(client, root))
    found = scores(root / "scores.json", value, half)
    return Candidate(
        run.info.run_id,
        root / "pipeline",
        digest,
        found,
        measured,
        "**Good.**",
        {"git_commit": "abc"},
    )


def test_versions_and_champion(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "save_model", lambda folder, pipeline: folder.mkdir())

    def register(digest: str, value: float, half: float, metric: str = "distance") -> str:
        candidate = make_candidate(project, digest, value, half)
        return model_registry.register(project, candidate, "lumiere", metric)

    def best() -> str:
        return str(client.get_model_version_by_alias("lumiere", "champion").version)

    client = store.open_store(project)
    assert "version 1 of lumiere" in (said := register("a", 100, 10)) and "first champion" in said
    said = register("b", 95, 10)
    assert best() == "1"
    assert "version 1 stays the champion: distance 95 [85, 105] against 100 [90, 110]" in said
    said = register("c", 50, 10)
    assert best() == "3"
    assert "it replaces version 1 as the champion: distance 50 [40, 60]" in said
    assert register("c", 50, 10) == ""  # the registry has it
    said = register("b", 20, 1)
    assert "version 2 of lumiere was measured again; it replaces version 3" in said
    version = client.get_model_version("lumiere", "2")
    assert version.description == "**Good.**" and version.tags["git_commit"] == "abc"
    assert json.loads(version.tags["score.distance"])["value"] == 20
    run = client.get_run(version.run_id)
    assert version.source == f"{run.info.artifact_uri}/model"
    assert [file.path for file in client.list_artifacts(version.run_id, "model")] == [
        "model/README.md"
    ]


def test_what_was_measured_in_another_way_is_not_compared(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_registry, "save_model", lambda folder, pipeline: folder.mkdir())

    def register(digest: str, value: float, measured: str) -> str:
        candidate = make_candidate(project, digest, value, 10, measured)
        return model_registry.register(project, candidate, "lumiere", "distance")

    def best() -> str:
        return str(client.get_model_version_by_alias("lumiere", "champion").version)

    client = store.open_store(project)
    register("a", 100, "m1")
    assert "other settings of the evaluation or other reference clips" in register("b", 50, "m2")
    version = client.get_model_version("lumiere", "2")
    assert best() == "1" and version.tags["measured_md5"] == "m2"
    assert version.description.startswith("**Good.**\n\nNot compared with version 1, the champion")
    assert register("b", 50, "m2") == ""
    assert "it is the champion" in register("a", 100, "m2")  # the champion, measured again
    assert client.get_model_version("lumiere", "1").tags["measured_md5"] == "m2"
    assert "it replaces version 1" in register("c", 60, "m2") and best() == "3"
    assert "Not compared" not in client.get_model_version("lumiere", "3").description
    client.delete_model_version_tag("lumiere", "3", "measured_md5")  # as of an older version
    assert "version 3 stays the champion" in register("d", 20, "m2")


def test_a_registry_that_fails_is_only_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = make_candidate(project, "a", 100, 10)
    assert model_registry.register(project, candidate, "lumiere", "nonsense") == ""
    assert "the model is not registered in MLflow: registry.metric: 'nonsense'" in caplog.text
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    candidate.scores.unlink()
    assert model_registry.register(project, candidate, "lumiere", "distance") == ""
    assert caplog.text.count("not registered") == 1
