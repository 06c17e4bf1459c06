"""Programs that are killed at a moment that shows in their files."""

from __future__ import annotations

import glob
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests import forked
from tests.conftest import REPOSITORY

VARIABLES = {"LUMIERE_TRACKING": "off", "LUMIERE_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def found(pattern: str) -> set[tuple[str, int]]:
    """Paths and when they were written."""
    entries = set()
    for path in glob.glob(pattern):
        try:
            entries.add((path, os.stat(path).st_mtime_ns))
        except FileNotFoundError:
            continue  # gone in between
    return entries


def kill_after(
    command: list[str],
    root: Path,
    log: Path,
    pattern: str,
    seconds: float,
    imports: Sequence[str] = (),
) -> int:
    """Run a program, and kill it with all its processes so long after something new appears; its exit code."""
    before = found(pattern)
    program = forked.start(command, log, root, VARIABLES, imports)
    patience = time.monotonic() + 120
    while program.exit_code is None and not found(pattern) - before and time.monotonic() < patience:
        time.sleep(0.001)
    time.sleep(seconds)
    if program.exit_code is None:
        os.killpg(program.pid, signal.SIGKILL)
    while program.exit_code is None:
        time.sleep(0.001)
    return program.exit_code


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
