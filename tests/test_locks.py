"""A folder has one owner among all processes, and none after that process has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lumiere.errors import LockError
from lumiere.locks import inheritable_lock, own_folder, release_folder
from tests.conftest import REPOSITORY

OWNER = """
import sys
from pathlib import Path
from lumiere.locks import own_folder
own_folder(Path(sys.argv[1]), "another work")
print("owned", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    command = [sys.executable, "-c", OWNER, str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "owned\n"
        with pytest.raises(LockError, match=r"work: another work is running in this folder"):
            own_folder(folder, "another work")
        release_folder(folder)  # which this process does not own
        with pytest.raises(LockError):
            own_folder(folder, "another work")
        other.kill()
    own_folder(folder, "another work")
    own_folder(folder, "another work")  # the owner may ask twice
    release_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_an_inherited_lock_is_held_until_the_last_process_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "run.lock"
    with inheritable_lock(path, 0.0, "never shown") as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=(descriptor,),
        )
    try:
        with (
            pytest.raises(LockError, match=r"process \d+ in \{braces\}"),
            inheritable_lock(path, 0.1, "process {owner} in {braces}"),
        ):
            pass
    finally:
        child.kill()
        child.wait()
    with inheritable_lock(path, 1.0, "never shown"):
        pass
