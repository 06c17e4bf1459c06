"""The family of errors, and their messages on one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lumiere import errors
from lumiere.errors import DataError, LumiereError, first_line, one_line
from lumiere.tensor_files import read_metadata, read_tensors


def test_errors_about_values_are_value_errors_too() -> None:
    family = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LumiereError)
    ]
    about_values = {kind.__name__ for kind in family if issubclass(kind, ValueError)}
    assert about_values == {"ParamsError", "DataError", "VideoError"}
    assert len(family) == 7


@pytest.mark.parametrize(
    ("message", "whole", "first"),
    [
        ("one\n  two\n", "one two", "one"),
        ("\n one", "one", "one"),
        ("", "RuntimeError", "RuntimeError"),
    ],
)
def test_messages_fit_on_one_line(message: str, whole: str, first: str) -> None:
    error = RuntimeError(message)
    assert one_line(error) == whole
    assert first_line(error) == first


def test_files_of_tensors_are_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for read in (read_tensors, read_metadata):
        with pytest.raises(DataError, match=r"weights\.safetensors: no such file"):
            read(path)
    save_file({"a": torch.arange(3)}, path, {"about": "a test"})
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    assert read_metadata(path) == {"about": "a test"}
    path.write_bytes(path.read_bytes()[:-1])
    for read in (read_tensors, read_metadata):
        with pytest.raises(DataError, match=r"weights\.safetensors: not a whole safetensors file"):
            read(path)
