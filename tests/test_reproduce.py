"""`lumiere reproduce`: a toy project with real git, DVC and MLflow, made again in a clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumiere import tracking
from lumiere.cli.app import app
from lumiere.cli.reproduce import clone
from lumiere.data.video_io import read_video
from lumiere.errors import DataError
from lumiere.run_origin import git_patch
from lumiere.tracking.origins import OF_STAGE, Origin, read_origin

DVC_YAML = """
stages:
  a: {cmd: python make.py input.txt a.txt, deps: [make.py, input.txt], outs: [a.txt]}
  b: {cmd: python make.py a.txt b.txt, deps: [make.py, a.txt], outs: [b.txt]}
"""
MAKE = "import sys; open(sys.argv[2], 'w').write(open(sys.argv[1]).read() + '+')"

VIDEO_YAML = """
stages:
  generate: {cmd: python make.py, deps: [make.py, input.txt], outs: [videos]}
"""
MAKE_VIDEO = """
import pathlib, numpy
from lumiere.data.video_io import write_video

random = numpy.random.default_rng(int(pathlib.Path("input.txt").read_text()))
pathlib.Path("videos").mkdir()
write_video(pathlib.Path("videos/fox.mp4"), random.integers(0, 256, (8, 32, 32, 3), numpy.uint8), 16)
"""


def call(root: Path, *command: str) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Make a project in git and DVC, in which nothing has run."""
    root = tmp_path_factory.mktemp("committed")
    (root / ".lumiere").mkdir()
    shutil.copy(empty_store, root / ".lumiere")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "make.py").write_text(MAKE)
    (root / "input.txt").write_text("first")
    (root / ".gitignore").write_text("/.lumiere/\n")
    call(root, "git", "init", "--quiet")
    call(root, sys.executable, "-m", "dvc", "init", "--quiet")
    call(root, "git", "add", "--all")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    call(root, "git", *identity, "commit", "--quiet", "--message", "first")
    return root


@pytest.fixture
def project(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project into a folder with a space in its name, and enter it."""
    root = Path(shutil.copytree(committed, tmp_path / "a project"))
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    return root


def record(root: Path) -> str:
    """Run the pipeline as the flow does, and return the id of its run."""
    with tracking.pipeline_run(root, {}) as run:
        call(root, sys.executable, "-m", "dvc", "repro", "--quiet")
    assert run.run_id is not None
    return run.run_id


def test_a_run_is_made_again_to_the_byte_also_of_changes_that_were_not_committed(
    project: Path, tmp_path: Path
) -> None:
    (project / "input.txt").write_text("second")
    run_id = record(project)
    assert (project / "b.txt").read_text() == "second++"
    (project / "input.txt").write_text("third")  # what comes later does not count

    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    assert done.stdout == "same  a.txt\nsame  b.txt\n"
    assert (tmp_path / "again" / "b.txt").read_text() == "second++"
    assert not (tmp_path / "again" / ".lumiere").exists()  # nothing was recorded

    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "part"), "--stage", "a"])
    assert (done.exit_code, done.stdout) == (0, "same  a.txt\n")
    assert not (tmp_path / "part" / "b.txt").exists()


def test_a_run_of_some_stages_is_made_again_without_the_others(
    project: Path, tmp_path: Path
) -> None:
    call(project, sys.executable, "-m", "dvc", "repro", "--quiet")
    (project / "make.py").write_text(MAKE.replace("'+'", "'-'"))  # so b.txt is of another program
    with tracking.pipeline_run(project, {}) as run:
        call(project, sys.executable, "-m", "dvc", "repro", "--quiet", "a")
        run.set_tags({OF_STAGE + "a": "ran"})
    folder = tmp_path / "again"
    done = CliRunner().invoke(app, ["reproduce", str(run.run_id), str(folder)])
    assert (done.exit_code, done.stdout) == (0, "same  a.txt\n"), done.output
    assert not (folder / "b.txt").exists()


def test_an_mp4_is_made_again_to_the_byte(project: Path, tmp_path: Path) -> None:
    (project / "dvc.yaml").write_text(VIDEO_YAML)
    (project / "make.py").write_text(MAKE_VIDEO)
    (project / "input.txt").write_text("3")
    run_id = record(project)
    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert (done.exit_code, done.stdout) == (0, "same  videos\n"), done.output
    made, again = (root / "videos" / "fox.mp4" for root in (project, tmp_path / "again"))
    assert made.read_bytes() == again.read_bytes() and made.stat().st_ino != again.stat().st_ino
    assert read_video(again).shape == (8, 32, 32, 3)


def test_nothing_comes_from_a_cache_that_the_clone_shares(project: Path, tmp_path: Path) -> None:
    call(project, sys.executable, "-m", "dvc", "cache", "dir", str(tmp_path / "shared"))
    (project / "make.py").write_text(MAKE.replace("'+'", "str(__import__('time').time_ns())"))
    run_id = record(project)
    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert (done.exit_code, done.stdout) == (1, "DIFFERENT  a.txt\nDIFFERENT  b.txt\n")


def test_a_changed_binary_file_is_in_the_patch_and_new_data_are_named(
    project: Path, tmp_path: Path
) -> None:
    (project / "input.txt").write_bytes(b"a\0b\n \n")
    patch = git_patch(project)
    call(project, "git", "checkout", "--quiet", "input.txt")
    subprocess.run(["git", "apply"], cwd=project, input=patch.encode(), check=True)
    assert (project / "input.txt").read_bytes() == b"a\0b\n \n"

    call(project, "git", "checkout", "--quiet", "input.txt")
    (project / "new.txt").write_text("not known to git")
    (project / "dvc.yaml").write_text(DVC_YAML.replace("input.txt", "new.txt"))
    run_id = record(project)
    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert done.exit_code == 2 and "new.txt: deleted in" in done.output, done.output
    assert "dvc.yaml |" in done.output  # what the patch changes


def test_a_commit_or_patch_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    with pytest.raises(DataError, match="commit is '--orphan=x'"):
        clone(tmp_path, folder, Origin(("a",), "--orphan=x", "", "", {}))
    with pytest.raises(DataError, match="its patch was left out"):
        clone(tmp_path, folder, Origin(("a",), "0" * 40, "The patch has 9 characters", "", {}))
    assert not folder.exists()


def test_what_differs_is_named(project: Path, tmp_path: Path) -> None:
    (project / "make.py").write_text(MAKE.replace("'+'", "str(__import__('time').time_ns())"))
    run_id = record(project)
    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert (done.exit_code, done.stdout) == (1, "DIFFERENT  a.txt\nDIFFERENT  b.txt\n")
    done = CliRunner().invoke(app, ["reproduce", run_id, str(tmp_path / "again")])
    assert done.exit_code == 2 and "exists; name a new folder" in done.output


def test_a_run_that_does_not_say_enough_is_refused(project: Path) -> None:
    with pytest.raises(DataError, match="MLflow has no run 123"):
        read_origin(project, "123")
    with tracking.stage_run("a", {}) as run:
        pass
    with pytest.raises(DataError, match="plain `dvc repro` started it; check out the commit"):
        read_origin(project, str(run.run_id))
