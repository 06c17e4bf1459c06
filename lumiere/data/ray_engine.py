"""Runs tasks on a Ray cluster: a Ray task for each shard of them, with a killable worker inside.

Ray has no time limit for a row, and a decoder that holds the interpreter lock ignores signals. So
the process that reads a video is our own, see `workers`: it is killed when it makes no progress, and
a video that hangs or crashes gives the same failure as on one machine. The Ray task only watches it,
and says every few seconds that it does. One that falls silent is cancelled; one that died, with its
node or alone, is started again for the tasks that it has not finished. What happens to machines
never becomes the outcome of a video.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumiere.data.workers import START_LIMIT_S, Failure, Result, run_tasks, supervise
from lumiere.errors import ParamsError, WorkerError, first_line

RunTasks = Callable[..., Iterator[tuple[int, Any]]]

SHARD = 16  # tasks of a Ray task: starting one, with its worker, takes seconds
BEAT_S = 5.0  # between signs of life of a Ray task
SILENCE_S = 60.0 + START_LIMIT_S  # without one, after which it is cancelled
LOOK_S = 1.0  # between looks at silent tasks
PAUSE_S = 1.0  # after a death, so that Ray notices that a node is gone; longer after each
MOST_DEATHS = 3  # of a shard, one after the other without a finished task between them
SHARDS_PER_CPU = 2  # that are submitted at a time, so that no processor waits


def engine(name: str, address: str = "", needed: Sequence[Any] = ()) -> RunTasks:
    """Return a function like `workers.run_tasks`.

    Args:
        name: "local" or "ray".
        address: of a running Ray cluster, such as "10.0.0.1:6379" or "auto"; by default Ray is
            started on this machine for as long as the tasks run.
        needed: folders that the tasks read. A node that lacks one runs none of them; what is no
            local path is not looked at.

    Raises:
        ParamsError: if Ray is not installed.
    """
    if name == "local":
        return run_tasks
    _import_ray()
    # A node works in the folder where Ray was started there, so relative paths begin here.
    here = Path.cwd()
    folders = [here, *(here / path for path in needed if isinstance(path, Path))]

    def run(
        function: Callable[..., Result],
        tasks: Sequence[tuple],
        workers: int,
        timeout_s: float,
        memory_mb: float = math.inf,
    ) -> Iterator[tuple[int, Result | Failure]]:
        with _cluster(address, workers):
            yield from _run(function, tasks, timeout_s, memory_mb, folders)

    return run


def _import_ray() -> Any:
    # Nothing reports its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # late: an extra
    except ImportError:
        raise ParamsError(
            "runtime.engine: 'ray' is not installed; pip install -e '.[ray]', or use local"
        ) from None
    return ray


@contextlib.contextmanager
def _cluster(address: str, workers: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; leave one that is connected as it is."""
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    where: dict[str, Any] = {"address": address}
    if not address:
        where = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        # Otherwise Ray's ports, which run anyone's code, are open to the network.
        where["_node_ip_address"] = "127.0.0.1"
    try:
        ray.init(**where, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ParamsError(
            f"runtime.address: {address!r} cannot be used: {first_line(error)}; expected the address "
            "of a running Ray cluster, such as 10.0.0.1:6379, or nothing"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@dataclass
class _Shard:
    """Tasks that a Ray task works on.

    Attributes:
        left: indices of the tasks that are not finished.
        deaths: of its Ray tasks since a task was finished.
        beat: when its Ray task was last heard; infinity before it has begun, because it may have to
            wait for a processor.
        not_before: when it may begin.
    """

    left: list[int]
    deaths: int = 0
    beat: float = math.inf
    not_before: float = 0.0


def _run(
    function: Callable[..., Result],
    tasks: Sequence[tuple],
    timeout_s: float,
    memory_mb: float,
    folders: Sequence[Path],
) -> Iterator[tuple[int, Result | Failure]]:
    """Yield the outcomes as they come, from any node."""
    ray = _import_ray()
    remote = ray.remote(num_cpus=1, max_retries=0)(_work)
    indices = range(len(tasks))
    waiting = deque(_Shard(list(indices[i : i + SHARD])) for i in indices[::SHARD])
    running: dict[Any, _Shard] = {}
    try:
        while waiting or running:
            most = max(2, SHARDS_PER_CPU * int(ray.cluster_resources().get("CPU", 0)))
            for shard in _startable(waiting, most - len(running)):
                waiting.remove(shard)
                shard.beat = math.inf
                own = [(i, tasks[i]) for i in shard.left]
                running[remote.remote(function, own, timeout_s, memory_mb, folders)] = shard
            ready = _ready(ray, list(running))
            for stream in [*ready, *_silent(running, ready)]:
                shard = running[stream]
                try:
                    outcome = _next(ray, stream, stream in ready)
                except StopIteration:
                    del running[stream]
                except (ray.exceptions.RayError, WorkerError) as error:
                    del running[stream]
                    waiting.appendleft(_after_death(shard, error))
                else:
                    shard.beat = time.monotonic()
                    if outcome is not None:
                        shard.left.remove(outcome[0])
                        shard.deaths = 0
                        yield outcome
    finally:
        for stream in running:
            ray.cancel(stream, force=True)


def _startable(waiting: Sequence[_Shard], most: int) -> list[_Shard]:
    """Return the first shards that may begin now."""
    now = time.monotonic()
    return [shard for shard in waiting if shard.not_before <= now][: max(0, most)]


def _ready(ray: Any, streams: list[Any]) -> list[Any]:
    """Wait a moment, and return all Ray tasks that have something to tell."""
    if not streams:
        time.sleep(LOOK_S)
        return []
    ray.wait(streams, timeout=LOOK_S)
    return ray.wait(streams, num_returns=len(streams), timeout=0)[0]


def _silent(running: dict[Any, _Shard], ready: Sequence[Any]) -> list[Any]:
    """Return the Ray tasks that have begun, and were not heard for too long."""
    now = time.monotonic()
    return [
        stream
        for stream, shard in running.items()
        if stream not in ready and now - shard.beat > SILENCE_S
    ]


def _next(ray: Any, stream: Any, is_ready: bool) -> tuple[int, Any] | None:
    """Return the next outcome of a Ray task, or None for a sign of life.

    Raises:
        StopIteration: if it has ended.
        RayError: if it has died, or is cancelled here because it is silent.
        WorkerError: if it cannot start a worker.
    """
    if not is_ready:
        ray.cancel(stream, force=True)
        raise ray.exceptions.RayError(f"no sign of life for {SILENCE_S:g} s")
    return ray.get(next(stream))


def _after_death(shard: _Shard, error: Exception) -> _Shard:
    """Return the rest of a shard whose Ray task has died.

    Raises:
        WorkerError: if that has happened too often.
    """
    shard.deaths += 1
    if shard.deaths >= MOST_DEATHS:
        cause = getattr(error, "cause", None) or error  # what was raised on the node
        raise WorkerError(
            f"a Ray task died {MOST_DEATHS} times: {type(cause).__name__}: {first_line(cause)}; look "
            "at the memory and the logs of the nodes, and run the stage again"
        )
    shard.not_before = time.monotonic() + PAUSE_S * shard.deaths
    return shard


def _work(
    function: Callable[..., Result],
    tasks: Sequence[tuple[int, tuple]],
    timeout_s: float,
    memory_mb: float,
    folders: Sequence[Path],
) -> Iterator[tuple[int, Result | Failure] | None]:
    """Do tasks in a worker process, on a node of the cluster.

    Args:
        function, timeout_s, memory_mb: see `workers.run_tasks`.
        tasks: the index of each, and its arguments.
        folders: the project's folder, where relative paths begin, and others that the tasks need.

    Yields:
        (index of the task, its outcome), or None as a sign of life.

    Raises:
        FileNotFoundError: if this node lacks a folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder on the node {platform.node()}")
    os.chdir(folders[0])
    yield None
    own = [task for _, task in tasks]
    with _nothing_as_main():
        for outcome in supervise(function, own, 1, timeout_s, memory_mb, BEAT_S):
            yield None if outcome is None else (tasks[outcome[0]][0], outcome[1])


@contextlib.contextmanager
def _nothing_as_main() -> Iterator[None]:
    """Keep worker processes from importing Ray's own program, which takes seconds."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
