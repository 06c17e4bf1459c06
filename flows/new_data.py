"""Starts a run of the deployment `on-new-data` when files in the folder `data/` have changed.

`python -m flows.new_data` looks every minute. A run begins when the files have stayed the same for
a minute, so that a copy in progress ends first. What it saw last is kept on disk, so it also notices
what changed while it was not running.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment

from flows.flow import PROJECT
from flows.program import check_home
from lumiere.errors import first_line, run_program
from lumiere.files import write_atomically
from lumiere.locks import make_folder

DEPLOYMENT = "lumiere-pipeline/on-new-data"
SEEN = Path(".lumiere", "seen-data")


class DataWatch:
    """Compares the files in `data/` with those of the last run that it began.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last = ""
        if not (root / SEEN).exists():  # the first look is not news
            self.accept(fingerprint(root / "data"))

    def news(self) -> str:
        """Return the fingerprint of changed files that stayed the same since the last call; empty
        if there are none.
        """
        now = fingerprint(self._root / "data")
        is_steady = now == self._last
        self._last = now
        seen = self._root / SEEN
        is_known = seen.is_file() and seen.read_text(encoding="utf-8") == now
        return now if is_steady and not is_known else ""

    def accept(self, seen: str) -> None:
        """Note that a run was begun for this state of the files."""
        make_folder((self._root / SEEN).parent)
        write_atomically(self._root / SEEN, seen.encode())


def fingerprint(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files in a folder."""
    lines = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            try:
                status = path.stat()
            except OSError:  # it has just been deleted, or is a broken link
                continue
            lines.append(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def look(watch: DataWatch, start: Callable[[], object], is_busy: Callable[[], bool]) -> None:
    """Look once, and start a run if there is news. While an earlier run waits or works, and while
    the server is away, the news is kept for later.
    """
    seen = watch.news()
    if not seen:
        return
    try:
        if is_busy():
            print("data/ has changed: a run begins when the earlier one has ended", flush=True)
            return
        start()
    except Exception as error:
        print(f"data/ has changed, but no run could be started ({first_line(error)})", flush=True)
        return
    watch.accept(seen)
    print("data/ has changed: a run was started", flush=True)


def has_unfinished_run() -> bool:
    """Return whether a run of the deployment waits or works."""
    states = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(
                name=DeploymentFilterName(any_=[DEPLOYMENT.partition("/")[2]])
            ),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
            ),
            limit=1,
        )
    return bool(runs)


def main() -> None:
    """Look until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m flows.new_data", description=__doc__)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    seconds = parser.parse_args().every
    check_home()
    watch = DataWatch(PROJECT)
    while True:
        look(watch, lambda: run_deployment(DEPLOYMENT, timeout=0), has_unfinished_run)
        time.sleep(seconds)


if __name__ == "__main__":
    run_program(main)
