"""A fresh clone that pulls from a DVC remote has nothing to do, and shows the same metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.flows.conftest import REPOSITORY

DVC_YAML = """
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    params: [seed]
    outs: [outputs/folder]
    metrics: [{outputs/metrics/make.json: {cache: false}}]
"""
MAKE = """
import pathlib
pathlib.Path("outputs/folder").mkdir(parents=True)
pathlib.Path("outputs/folder/file").write_text("made")
pathlib.Path("outputs/metrics").mkdir(exist_ok=True)
pathlib.Path("outputs/metrics/make.json").write_text('{"score": 3}')
"""


def call(root: Path, *command: str) -> str:
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_a_clone_that_pulls_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    root, clone = tmp_path / "project", tmp_path / "a clone"
    dvc = (sys.executable, "-m", "dvc")
    root.mkdir()
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "make.py").write_text(MAKE)
    (root / "params.yaml").write_text("seed: 0\n")
    rules = (REPOSITORY / ".gitignore").read_text()
    (root / ".gitignore").write_text(rules)
    call(root, "git", "init", "--quiet")
    call(root, *dvc, "init", "--quiet")
    call(root, *dvc, "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    call(root, *dvc, "repro", "--quiet")
    call(root, "git", "add", "--all")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    call(root, "git", *identity, "commit", "--quiet", "--message", "made")
    call(root, *dvc, "push", "--quiet")

    call(tmp_path, "git", "clone", "--quiet", str(root), str(clone))
    call(clone, *dvc, "pull", "--quiet")
    assert call(clone, *dvc, "status") == "Data and pipelines are up to date.\n"
    assert "Stage 'make' didn't change, skipping" in call(clone, *dvc, "repro")
    assert "3" in call(clone, *dvc, "metrics", "show")
    assert call(clone, "git", "status", "--porcelain") == ""


def test_what_dvc_does_not_keep_git_does() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for output in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path, options = next(iter(output.items())) if isinstance(output, dict) else (output, {})
            if options.get("cache", True):
                continue
            ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=REPOSITORY)
            assert ignored.returncode == 1, f"{path}: in neither git nor DVC"
