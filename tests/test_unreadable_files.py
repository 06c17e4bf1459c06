"""A file that this user may not read, or whose disk fails, is not reported as damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lumiere import sample_files
from lumiere.data.clips import ClipStore
from lumiere.data.shards import read_frames, read_info, read_text
from lumiere.errors import DiskError
from lumiere.evaluation.backbones.weight_files import check_file, check_folder
from lumiere.files import is_file, read_json
from lumiere.models.diffusers_folders import load_network, read_stored_config
from lumiere.tensor_files import read_metadata, read_tensors
from stages import reading

ENTRY = {
    "tar": "a.safetensors",
    "members": {"json": [0, 9], "text.npz": [0, 9], "video.npz": [0, 9]},
}


CURES = {
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
    errno.EIO: "check its disk",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "ulimit -n",
    errno.ENOMEM: "free memory",
}


@pytest.mark.parametrize("number", CURES)
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
        lambda path: check_file(path, None),
        lambda path: load_network(path.parent),
    ],
)
def test_an_error_of_the_machine_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], number: int
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    # The tests may run as root, who may read every file.
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    words = rf"a\.safetensors: cannot be read: {os.strerror(number)}; .*{CURES[number]}"
    with pytest.raises(DiskError, match=words):
        read(path)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_tensors(path),
        lambda path: sample_files.read_set(path.parent, "styles"),
        lambda path: sample_files._read_json(path),
        lambda path: ClipStore(path.parent, "train"),
        lambda path: check_file(path, None),
        lambda path: read_stored_config(path.parent),
    ],
)
@pytest.mark.parametrize("in_stage", [False, True])
def test_a_folder_without_access_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], in_stage: bool
) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    context = reading(tmp_path) if in_stage else nullcontext()
    with pytest.raises(DiskError, match="Permission denied; let this user read it"), context:
        read(tmp_path / "a.file")


def test_a_stage_names_a_permission_that_is_missing(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "a.file"))
    with (
        pytest.raises(
            DiskError, match=r"a\.file: cannot be read: .*let this user read it"
        ) as caught,
        reading(tmp_path),
    ):
        raise error
    assert "dvc repro" not in str(caught.value)


def test_a_model_folder_that_cannot_be_listed_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DiskError, match="Permission denied; let this user read it"):
        check_folder(tmp_path, None)


def test_other_files_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    alone = check_folder(tmp_path, None)
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")
    assert check_folder(tmp_path, None) == alone


def test_a_name_that_leads_nowhere_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert is_file(tmp_path / "file")
    for name in ("gone", "file/below", "loop", "null\0byte", "."):
        assert not is_file(tmp_path / name)
