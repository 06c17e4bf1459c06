"""Git, run as a program."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from lumiere.errors import DataError

TIMEOUT_S = 60


def run_git(
    folder: Path,
    *arguments: str,
    stdin: str = "",
    timeout_s: float | None = TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run `git` in a folder and return what it prints.

    Args:
        folder: where to run it.
        arguments: the command and its own arguments.
        stdin: text that the command reads.
        timeout_s: the limit in seconds; None for a command that may be long, such as a clone.
        env: its environment; by default that of this process.

    Raises:
        DataError: if there is no Git, it fails, or it takes too long; with what it said.
    """
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, input=stdin.encode("utf-8"), capture_output=True, timeout=timeout_s, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"git failed in {folder}: {error}") from None
    if done.returncode:
        problem = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise DataError(f"git {arguments[0]} failed in {folder}: {problem}")
    return done.stdout


def git_text(folder: Path, *arguments: str) -> str | None:
    """Return what `git` prints, without outer white space; None where `run_git` would raise."""
    try:
        return run_git(folder, *arguments).decode("utf-8", "replace").strip()
    except DataError:
        return None
