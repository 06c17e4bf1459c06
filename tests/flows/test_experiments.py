"""Experiments, branches and links of DVC on toy projects with real git, DVC and MLflow."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.cli import main
from dvc.repo import Repo

from lumiere.tracking import store
from tests.flows.conftest import REPOSITORY

STAGE = """
import json, os, pathlib, yaml
from lumiere import tracking

params = yaml.safe_load(pathlib.Path("params.yaml").read_text())["train"]
if "DVC_EXP_NAME" not in os.environ:  # importing MLflow takes seconds
    os.environ["LUMIERE_TRACKING"] = "off"
with tracking.stage_run("train", params):
    with open(os.environ["DVC_ROOT"] + "/.lumiere/trained", "a") as log:
        print(params["seed"], file=log)
    pathlib.Path("model.txt").write_text(f"model of seed {params['seed']}")
    pathlib.Path("train.json").write_text(json.dumps({"loss": params["seed"] / 2}))
    rows = [f"{step},{params['seed'] / (step + 1)}" for step in range(2)]
    pathlib.Path("losses.csv").write_text("\\n".join(["step,loss", *rows]))
"""
DVC_YAML = """
stages:
  train:
    cmd: python stage.py
    deps: [stage.py]
    params: [train]
    outs: [model.txt]
    metrics: [train.json]
    plots: [losses.csv: {x: step, y: loss}]
"""


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")


@pytest.fixture
def project(
    environment: None, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    root = tmp_path / "toy project"
    (root / ".lumiere").mkdir(parents=True)
    shutil.copy(empty_store, root / ".lumiere")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("train:\n  seed: 1\n")
    (root / ".gitignore").write_text("/.lumiere/\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    )
    return root


def test_an_experiment_is_found_in_mlflow_and_in_dvcs_tables(
    project: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def dvc(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    git("init", "--quiet", "--initial-branch", "master")
    dvc("init", "--quiet")
    dvc("repro")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")

    # As a worker of the queue runs it: in a temporary copy of the project.
    dvc("exp", "run", "--temp", "--name", "brown-fox", "--set-param", "train.seed=2")
    client = store.open_store(project)
    (run,) = client.search_runs(
        [store.experiment_id(client, project)], 'tags.dvc_exp_name = "brown-fox"'
    )
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "2"}
    assert (
        run.data.tags["dvc_exp_baseline"] == run.data.tags["git_commit"] == git("rev-parse", "HEAD")
    )
    assert run.data.tags["git_dirty"] == "true"
    patch = Path(client.download_artifacts(run.info.run_id, "uncommitted.patch")).read_text()
    assert "-  seed: 1\n+  seed: 2\n" in patch

    table = list(csv.DictReader(io.StringIO(dvc("exp", "show", "--csv"))))
    shown = {row["Experiment"] or row["rev"]: (row["train.seed"], row["loss"]) for row in table}
    assert shown == {"workspace": ("1", "0.5"), "master": ("1", "0.5"), "brown-fox": ("2", "1.0")}

    dvc("exp", "apply", "brown-fox")
    assert Path("model.txt").read_text() == "model of seed 2"
    with Repo() as repo:
        figures, changed, curves = repo.metrics.diff(), repo.params.diff(), repo.plots.diff()
    loss = {"old": 0.5, "new": 1.0, "diff": 0.5}
    assert figures == {"diff": {"train.json": {"loss": loss}}}
    seed = {"old": 1, "new": 2, "diff": 1}
    assert changed == {"diff": {"params.yaml": {"train.seed": seed}}}
    assert curves.keys() == {"HEAD", "workspace"}

    Path("params.yaml").write_text("train:\n  seed: 1\n")
    dvc("repro")
    assert "Stage 'train' is cached - skipping run" in caplog.text
    assert Path("model.txt").read_text() == "model of seed 1"
    assert Path(".lumiere/trained").read_text() == "1\n2\n"  # nothing was trained again


GRAPH = """
stages:
  a: {cmd: cat in.txt a.yaml > a.txt && echo a >> ran, deps: [in.txt, a.yaml], outs: [a.txt]}
  b: {cmd: cat in.txt b.yaml > b.txt && echo b >> ran, deps: [in.txt, b.yaml], outs: [b.txt]}
  c: {cmd: cat a.txt b.txt > c.txt && echo c >> ran, deps: [a.txt, b.txt], outs: [c.txt]}
"""


def make_graph(root: Path) -> None:
    (root / "dvc.yaml").write_text(GRAPH)
    for name in ("in.txt", "a.yaml", "b.yaml"):
        (root / name).write_text(f"{name} 1\n")


def test_the_locks_of_two_branches_are_merged_as_the_page_says(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_graph(tmp_path)
    Path(".gitignore").write_text("/ran\n/site-cache/\n")
    git("init", "--quiet", "--initial-branch", "master")
    assert main(["init", "--quiet"]) == main(["repro", "--quiet"]) == 0
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    for branch, name in (("one", "a"), ("two", "b")):
        git("checkout", "--quiet", "-b", branch, "master")
        Path(f"{name}.yaml").write_text("2\n")
        assert main(["repro", "--quiet"]) == 0
        git("commit", "--quiet", "--all", "--message", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git("merge", "one")
    assert git("diff", "--name-only", "--diff-filter=U") == "dvc.lock"  # of c, which reads both

    Path("ran").unlink()
    git("checkout", "--ours", "dvc.lock")
    assert main(["repro", "--quiet"]) == 0
    assert Path("c.txt").read_text() == "in.txt 1\n2\nin.txt 1\n2\n"
    assert Path("ran").read_text() == "c\n"  # DVC's cache has the others
    git("commit", "--quiet", "--all", "--message", "both")
    assert main(["status", "--quiet"]) == 0


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_a_stage_that_runs_again_leaves_linked_outputs_in_the_cache_as_they_were(
    kind: str,
    environment: None,
    tmp_path: Path,
    empty_project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(shutil.copytree(empty_project, tmp_path / "project"))
    monkeypatch.chdir(root)
    make_graph(root)
    with Path(".dvc/config").open("a") as settings:
        settings.write(f"[cache]\n    type = {kind}\n")
    assert main(["repro", "--quiet"]) == 0
    linked = Path("a.txt")
    assert linked.is_symlink() if kind == "symlink" else linked.stat().st_nlink == 2
    Path("a.yaml").write_text("2\n")
    assert main(["repro", "--quiet"]) == 0
    assert linked.read_text() == "in.txt 1\n2\n"
    cached = [path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert len(cached) == 5  # a and c twice, b once
    for path in cached:
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name


def test_dvc_deletes_every_output_before_its_stage_writes_it_again() -> None:
    """Otherwise a stage would write through the links of the test above."""
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].items():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                settings = next(iter(out.values())) if isinstance(out, dict) else {}
                assert not settings.get("persist"), name
