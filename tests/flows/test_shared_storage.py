"""A fresh clone that pulls from a DVC remote has nothing to do, and shows the same metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import servers
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


DVC = (sys.executable, "-m", "dvc")


def call(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project that is up to date, without a remote."""
    root = tmp_path_factory.mktemp("finished")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "make.py").write_text(MAKE)
    (root / "params.yaml").write_text("seed: 0\n")
    rules = (REPOSITORY / ".gitignore").read_text()
    (root / ".gitignore").write_text(rules)
    call(root, "git", "init", "--quiet")
    call(root, *DVC, "init", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        call(root, *DVC, "repro", "--quiet")
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    return Path(shutil.copytree(finished, tmp_path / "project"))


def share(root: Path, address: str, *options: tuple[str, str]) -> None:
    """Commit the project with a remote, and push to it."""
    call(root, *DVC, "remote", "add", "--default", "shared", address)
    for name, value in options:
        call(root, *DVC, "remote", "modify", "shared", name, value)
    call(root, "git", "add", "--all")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    call(root, "git", *identity, "commit", "--quiet", "--message", "made")
    call(root, *DVC, "push", "--quiet")


def clone_and_check(root: Path) -> Path:
    """Pull in a fresh clone, and check that there is nothing to do."""
    clone = root.parent / "a clone"
    call(root.parent, "git", "clone", "--quiet", str(root), str(clone))
    call(clone, *DVC, "pull", "--quiet")
    assert (clone / "outputs" / "folder" / "file").read_text() == "made"
    assert "Stage 'make' didn't change, skipping" in call(clone, *DVC, "repro")
    assert call(clone, "git", "status", "--porcelain") == ""
    return clone


def test_a_clone_that_pulls_from_a_folder_has_nothing_to_do(project: Path, tmp_path: Path) -> None:
    share(project, str(tmp_path / "remote"))
    clone = clone_and_check(project)
    assert call(clone, *DVC, "status") == "Data and pipelines are up to date.\n"
    assert "3" in call(clone, *DVC, "metrics", "show")


def test_a_clone_that_pulls_from_s3_has_nothing_to_do(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.needs("dvc_s3")
    with servers.s3(tmp_path, monkeypatch) as endpoint:
        share(project, f"s3://{servers.BUCKET}/dvc", ("endpointurl", endpoint))
        keys = [found.key for found in servers.bucket(endpoint).objects.all()]
        assert len(keys) == 2 and all(key.startswith("dvc/files/md5/") for key in keys)
        clone_and_check(project)
    assert servers.S3_SECRET not in (project / ".dvc" / "config").read_text()


def test_a_clone_that_pulls_over_ssh_has_nothing_to_do(project: Path, tmp_path: Path) -> None:
    servers.needs("dvc_ssh")
    with servers.ssh(tmp_path / "ssh") as server:
        address = f"{server.address}{tmp_path}/remote"
        share(project, address, ("keyfile", str(server.key)))
        assert len([path for path in (tmp_path / "remote").rglob("*") if path.is_file()]) == 2
        clone_and_check(project)


def test_what_dvc_does_not_keep_git_does() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for output in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path, options = next(iter(output.items())) if isinstance(output, dict) else (output, {})
            if options.get("cache", True):
                continue
            ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=REPOSITORY)
            assert ignored.returncode == 1, f"{path}: in neither git nor DVC"
