"""A Ray cluster of two nodes gives the bytes that one machine gives, whatever is killed meanwhile.

Starting a cluster takes long, so these tests only run with the extra ray and when they are asked for:

    LUMIERE_TEST_RAY=1 python -m pytest tests/data/test_ray_engine.py
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumiere.config import CurateConfig
from lumiere.curation.curate import curate
from lumiere.curation.manifest import write_manifest
from lumiere.data import ray_engine
from lumiere.data.prepare import cut_all
from lumiere.data.ray_engine import engine
from lumiere.data.window_choice import WindowSettings
from lumiere.data.workers import Failure, report_progress, run_tasks
from lumiere.errors import DataError, ParamsError, VideoError, WorkerError
from tests.video_factory import encode, numbered

CONFIG = CurateConfig(timeout_s=60.0, workers=1, min_side=48)
SETTINGS = WindowSettings(fps=16, num_frames=16, size=32, clips_per_video=1)


def test_local_is_the_default_and_a_missing_ray_is_named(monkeypatch):
    assert engine("local") is run_tasks
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # the engine sets it
    with pytest.raises(ParamsError, match=r"runtime\.engine: 'ray' is not installed; pip install"):
        engine("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start two nodes of one processor each, and connect to them."""
    if not os.environ.get("LUMIERE_TEST_RAY"):
        pytest.skip("LUMIERE_TEST_RAY=1 runs the tests of Ray")
    ray = pytest.importorskip("ray", reason="pip install -e '.[ray]' to test Ray")
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def odd_task(number: int, folder: Path) -> str:
    """Return a result, raise, crash or hang; a few, once, kill the process that watches them."""
    if number % 10 == 3:
        raise VideoError(f"number {number}")
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        while True:
            pass
    once = folder / f"{number}"
    if number in (7, 20) and not once.exists():
        once.touch()
        os.kill(os.getppid(), signal.SIGKILL)  # the Ray task
        time.sleep(60)
    return f"{number} done"


def outcomes(run: Any, folder: Path, count: int = 24) -> list[tuple[int, Any]]:
    tasks = [(number, folder) for number in range(count)]
    found = list(run(odd_task, tasks, 2, 2.0))
    assert len(found) == len({index for index, _ in found}) == count
    return sorted((index, str(outcome)) for index, outcome in found)


def test_outcomes_are_those_of_one_machine_though_ray_tasks_are_killed(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "SHARD", 6)
    (tmp_path / "local").mkdir()
    for number in (7, 20):
        (tmp_path / "local" / str(number)).touch()  # none of them is killed
    expected = outcomes(run_tasks, tmp_path / "local")
    assert [outcome for index, outcome in expected if index in (4, 5)] == [
        str(Failure("crashed", "the worker process died (exit code -9)")),
        str(Failure("timeout", "no progress for 2 s")),
    ]
    (tmp_path / "ray").mkdir()
    assert outcomes(engine("ray"), tmp_path / "ray") == expected
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {"7", "20"}  # they were


def where(number: int, folder: Path) -> str:
    """Return the Ray task that watches this."""
    return str(os.getppid())


def where_after(number: int, folder: Path) -> str:
    """Return the Ray task that watches this: the first of each shard once two have begun, and the
    others once a node is killed.
    """
    (folder / f"watcher-{os.getppid()}").touch()
    while len(list(folder.glob("watcher-*"))) < 2 or (
        number % 3 and not (folder / "killed").exists()
    ):
        report_progress()
        time.sleep(0.1)
    return str(os.getppid())


def test_a_node_may_die_in_the_middle(cluster, tmp_path, monkeypatch):
    deaths = []
    original = ray_engine._after_death
    monkeypatch.setattr(ray_engine, "SHARD", 3)
    monkeypatch.setattr(
        ray_engine, "_after_death", lambda *died: deaths.append(died[1]) or original(*died)
    )
    (node,) = cluster.worker_nodes

    def kill() -> None:
        cluster.remove_node(node, False)
        time.sleep(5)  # its processes notice
        (tmp_path / "killed").touch()

    killer = threading.Thread(target=kill)
    done: dict[int, Any] = {}
    for index, outcome in engine("ray")(where_after, [(i, tmp_path) for i in range(18)], 1, 60.0):
        assert index not in done and isinstance(outcome, str)
        done[index] = outcome
        if len(done) == 2:  # one of either node
            killer.start()
    killer.join()
    assert sorted(done) == list(range(18))
    assert deaths and len(set(done.values())) >= 2
    cluster.add_node(num_cpus=1)


def silent(
    function: Any, tasks: Any, timeout_s: float, memory_mb: float, folders: Any
) -> Iterator[Any]:
    """Take the place of a Ray task that stops to say anything, once."""
    yield None
    once = tasks[0][1][1] / "once"
    if not once.exists():
        once.touch()
        while True:
            pass
    for index, task in tasks:
        yield index, function(*task)


def dying(
    function: Any, tasks: Any, timeout_s: float, memory_mb: float, folders: Any
) -> Iterator[Any]:
    """Take the place of a Ray task that dies each time."""
    yield None
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_silent_task_is_cancelled_and_one_that_always_dies_is_named(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "SILENCE_S", 2.0)
    monkeypatch.setattr(ray_engine, "_work", silent)
    found = sorted(engine("ray")(where, [(i, tmp_path) for i in range(3)], 1, 30.0))
    assert [index for index, _ in found] == [0, 1, 2] and (tmp_path / "once").exists()
    monkeypatch.setattr(ray_engine, "_work", dying)
    with pytest.raises(
        WorkerError, match=r"a Ray task died 3 times: WorkerCrashedError.*run the st"
    ):
        list(engine("ray")(where, [(0, tmp_path)], 1, 30.0))


def read_here(path: Path) -> str:
    return path.read_text()


def test_relative_paths_begin_at_the_drivers_folder(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    Path("raw/a").write_text("here")
    run = engine("ray", needed=[Path("raw")])
    assert list(run(read_here, [(Path("raw/a"),)], 1, 30.0)) == [(0, "here")]
    monkeypatch.setattr(ray_engine, "PAUSE_S", 0.0)
    run = engine("ray", needed=[Path("gone")])
    with pytest.raises(WorkerError, match="gone: no such folder on the node"):
        list(run(read_here, [(Path("raw/a"),)], 1, 30.0))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    names = [f"v{i}.mp4" for i in range(5)]
    for i, name in enumerate(names):
        encode(folder / "raw" / name, numbered(20, i + 1))
    (folder / "raw" / "broken.mp4").write_bytes(b"nothing")
    rows = "".join(f"{name},video {name}\n" for name in [*names, "broken.mp4"])
    (folder / "captions.csv").write_text(f"video,caption\n{rows}")
    return folder


def test_manifest_and_windows_are_the_same_bytes_with_both_engines(
    cluster, videos, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "SHARD", 2)
    found = []
    for name in ("local", "ray"):
        run, folder = engine(name), tmp_path / name
        rows, _ = curate(
            videos / "raw", videos / "captions.csv", CONFIG, folder / "scratch", run=run
        )
        write_manifest(folder / "manifest.parquet", rows)
        accepted = [row for row in rows if row["verdict"] == "accepted"]
        files, failures = cut_all(
            accepted, videos / "raw", SETTINGS, 1, 60.0, folder / "cut", run=run
        )
        assert len(files) == 5 and not failures
        paths = [folder / "manifest.parquet", *sorted(files.values())]
        found.append({path.name: path.read_bytes() for path in paths})
    assert found[0] == found[1]


def elsewhere(function: Any, tasks: Any, *limits: Any) -> Iterator[Any]:
    """Return the windows that a node without the shared folder has written."""
    for index, task in enumerate(tasks):
        yield index, [Path("/nowhere/windows.npz") for _ in task[0]]


def test_windows_on_another_machine_are_named(videos, tmp_path):
    rows, _ = curate(videos / "raw", videos / "captions.csv", CONFIG, tmp_path / "scratch")
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    with pytest.raises(DataError, match=r"windows\.npz: not on this machine; give all nodes"):
        cut_all(accepted, videos / "raw", SETTINGS, 1, 60.0, tmp_path / "cut", run=elsewhere)
