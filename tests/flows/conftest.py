"""A toy project with real DVC: a -> (b, c) -> d, each stage a small process that logs to MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

STAGE = """
import json, os, pathlib, subprocess, sys, time
from lumiere import tracking

name, *inputs = sys.argv[1:]
if pathlib.Path(f"untracked-{name}").exists():  # importing MLflow takes seconds
    os.environ["LUMIERE_TRACKING"] = "off"
with tracking.stage_run(name, {"optim": {"steps": 3}}) as run, open("events.txt", "a") as events:
    print("start", name, os.getpid(), time.time(), file=events, flush=True)
    if pathlib.Path(f"kill-{name}").exists():
        pathlib.Path(f"kill-{name}").unlink()
        os.kill(os.getpid(), 9)
    if pathlib.Path(f"busy-{name}").exists():
        sys.exit(75)
    print(f"{name}: 50%|#####     | 1/2", end="\\r", flush=True)
    if pathlib.Path("slow").exists():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
        print("start", name, child.pid, time.time(), file=events, flush=True)
        time.sleep(120)
    if pathlib.Path("meet").exists() and name in "bc":  # only possible where both run at the same time
        other = "start " + "cb"["bc".index(name)]
        deadline = time.time() + 60
        while other not in pathlib.Path("events.txt").read_text():
            assert time.time() < deadline, "the other branch did not start"
            time.sleep(0.05)
    run.log_metrics({"loss": 0.5}, step=1)
    if pathlib.Path(f"fail-{name}").exists():
        raise RuntimeError("as the test asked for")
    text = "".join(pathlib.Path(path).read_text() for path in inputs)
    pathlib.Path(f"{name}.txt").write_text(f"({name} {text})")
    figures = json.dumps({"size": {"characters": len(text)}})
    pathlib.Path(f"{name}.json").write_text("{" if pathlib.Path(f"corrupt-{name}").exists() else figures)
    if name == "d":
        pathlib.Path("videos").mkdir()
        pathlib.Path("videos/one.mp4").touch()
    print("end", name, os.getpid(), time.time(), file=events, flush=True)
"""

DVC_YAML = """
stages:
  d:
    cmd: python stage.py d b.txt c.txt
    deps: [b.txt, c.txt]
    outs: [d.txt, videos]
    metrics: [{d.json: {cache: false}}]
  b: {cmd: python stage.py b a.txt, deps: [a.txt], outs: [b.txt]}
  c: {cmd: python stage.py c a.txt, deps: [a.txt], params: [curate.seed], outs: [c.txt]}
  a: {cmd: python stage.py a input.txt, deps: [input.txt], outs: [a.txt]}
"""


SHORT_DVC_YAML = """
stages:
  a: {cmd: python stage.py a input.txt, deps: [input.txt], outs: [a.txt]}
  d:
    cmd: python stage.py d a.txt
    deps: [a.txt]
    outs: [d.txt, videos]
    metrics: [{d.json: {cache: false}}]
"""


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a DVC project without stages. Tests copy it, because `dvc init` takes a second."""
    root = tmp_path_factory.mktemp("dvc")
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=root, check=True
    )
    return root


@pytest.fixture
def toy_project(
    tmp_path: Path, empty_project: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Make a fresh DVC project, in a folder with a space in its name."""
    root = tmp_path / "toy project"
    shutil.copytree(empty_project, root)
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("curate:\n  seed: 3\n")
    (root / "input.txt").write_text("first")
    (root / ".lumiere").mkdir()
    shutil.copy(empty_store, root / ".lumiere")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    return root


@pytest.fixture
def short_project(toy_project: Path) -> Path:
    """Make the toy project with its first and its last stage, for a test to which no branch matters."""
    (toy_project / "dvc.yaml").write_text(SHORT_DVC_YAML)
    return toy_project


def repro(root: Path, *arguments: str) -> None:
    """Run plain `dvc repro`, with this interpreter's environment on the path."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--quiet", *arguments], cwd=root, env=env, check=True
    )


def events(root: Path) -> list[tuple[str, str, int, float]]:
    """Read (start or end, stage, process, time), in the order in which the stages wrote them."""
    path = root / "events.txt"
    lines = path.read_text().split("\n") if path.exists() else []
    parts = [line.split() for line in lines if line]
    return [(kind, name, int(pid), float(at)) for kind, name, pid, at in parts]
