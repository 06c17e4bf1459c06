"""Writes files atomically, hashes their content, and reads JSON files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from lumiere.errors import DataError, DiskError

# Errors about the machine or a permission, whatever the file contains, and what helps.
ALLOW = "let this user read it"
CHECK_DISK = "check its disk"
CLOSE_FILES = "close other programs' files, or raise the limit with `ulimit -n`"
MACHINE_CURES = {
    errno.EACCES: ALLOW,
    errno.EPERM: ALLOW,
    errno.EIO: CHECK_DISK,
    errno.ESTALE: CHECK_DISK,
    errno.ETIMEDOUT: CHECK_DISK,
    errno.EMFILE: CLOSE_FILES,
    errno.ENFILE: CLOSE_FILES,
    errno.ENOMEM: "free memory",
}


def content_hash(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that a killed run leaves no incomplete file at
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def raise_machine_error(error: BaseException, path: Path) -> None:
    """Raise a DiskError if `error` is about the machine or a permission, because making the file
    again does not help then.
    """
    if isinstance(error, OSError) and error.errno in MACHINE_CURES:
        raise DiskError(
            f"{path}: cannot be read: {error.strerror}; {MACHINE_CURES[error.errno]}, and run the "
            "command again"
        ) from None


def is_file(path: Path) -> bool:
    """Return whether `path` is a file.

    Raises:
        DiskError: if the answer is unknown, because a permission is missing or the disk fails.
            `Path.is_file` raises a PermissionError then, or says no, by the version of Python.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise_machine_error(error, path)
        return False


def check_readable(path: Path) -> None:
    """Open a file, or config.json and the safetensors files of a folder, because libraries report a
    missing permission as a missing or a damaged file.

    Raises:
        DiskError: if a permission is missing, or the disk fails.
        OSError: if `path` or such a file does not exist.
    """
    try:
        files = [path]
        if path.is_dir():
            listed = sorted(path.iterdir())
            files = [
                each
                for each in listed
                if each.name == "config.json" or each.suffix == ".safetensors"
            ]
        for path in files:
            with path.open("rb"):
                pass
    except OSError as error:
        raise_machine_error(error, path)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        DataError: if the file is missing, or holds anything else.
        DiskError: if a permission is missing, or the disk fails.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise_machine_error(error, path)
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object")
    return content
