"""Reads safetensors files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lumiere.errors import DataError
from lumiere.files import is_file, raise_machine_error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, by name, on the CPU.

    Raises:
        DataError: if the file is missing or damaged.
        DiskError: if a permission is missing, or the disk fails.
    """
    with _named(path):
        return load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts that a safetensors file holds beside its tensors.

    Raises:
        DataError: if the file is missing or damaged.
        DiskError: if a permission is missing, or the disk fails.
    """
    with _named(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    if not is_file(path):
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb"):  # safetensors reports a missing permission as a missing file
            pass
        yield
    except OSError as error:
        raise_machine_error(error, path)
        raise
    except SafetensorError as error:
        problem = f"{path}: not a whole safetensors file ({error})"
        raise DataError(problem, cure="copy it again") from None
