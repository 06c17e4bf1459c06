"""A file that this user may not read, or whose disk fails, is not reported as damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lumiere import sample_files
from lumiere.data.shards import read_frames, read_info, read_text
from lumiere.errors import DiskError
from lumiere.files import read_json
from lumiere.tensor_files import read_metadata, read_tensors

ENTRY = {"tar": "a.file", "members": {"json": [0, 9], "text.npz": [0, 9], "video.npz": [0, 9]}}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_info(path.parent, ENTRY),
        lambda path: read_text(path.parent, ENTRY),
        lambda path: read_frames(path.parent, ENTRY),
        read_json,
        read_tensors,
        read_metadata,
        sample_files._read_json,
        lambda path: sample_files._read_arrays(path, ["0"]),
    ],
)
def test_an_error_of_the_machine_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], number: int
) -> None:
    path = tmp_path / "a.file"
    save_file({"a": torch.zeros(1)}, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    # The tests may run as root, who may read every file.
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    words = rf"a\.file: cannot be read: {os.strerror(number)}; let this user read it"
    with pytest.raises(DiskError, match=words):
        read(path)
