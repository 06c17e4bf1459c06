"""Training state on disk: written whole or not at all, and named after what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.errors import DiskError
from lumiere.training.checkpoint import (
    STATE_FILE,
    TENSORS_FILE,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        weights = {"w": torch.full((3,), float(step))}
        save_checkpoint(folder, {"step": step, "weights": weights, "best": step / 3})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_and_numbers_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    matrix, scalar = torch.arange(6).view(2, 3).to(dtype).t(), torch.tensor(3.5)
    values = {"step": 5, "best": 0.1 + 0.2, "losses": [[1, 1e-300]], "none": None, "empty": {}}
    tensors = {"a.b": matrix, "deeper": {"0": scalar, "plain": 7}}
    save_checkpoint(tmp_path / "new" / "folder", values | {"weights": tensors})
    found = load_checkpoint(tmp_path / "new" / "folder")
    assert found is not None
    weights = found.pop("weights")
    assert found == values
    assert torch.equal(weights["a.b"], matrix) and weights["a.b"].dtype == dtype
    assert torch.equal(weights["deeper"].pop("0"), scalar) and weights["deeper"] == {"plain": 7}


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "step-notes").mkdir()
    (tmp_path / ".writing-12").mkdir()
    assert load_checkpoint(tmp_path) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 5, 10, 100)
    assert names(tmp_path) == ["step-0000010", "step-0000100"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 100


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    save(tmp_path, 5, 5)
    assert names(tmp_path) == ["step-0000005"]


def test_what_was_just_written_survives_later_steps_that_cannot_be_read(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for step in ("step-0000020", "step-0000030"):
        (tmp_path / step).mkdir()
    save(tmp_path, 15)
    assert names(tmp_path) == ["step-0000010", "step-0000015"]


def test_all_damaged_is_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "step-0000001" / STATE_FILE).write_text("{}")
    (tmp_path / "step-0000001" / TENSORS_FILE).write_bytes(b"")
    (tmp_path / "step-0000002" / TENSORS_FILE).unlink()
    assert load_checkpoint(tmp_path) is None
    assert "step-0000002 cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["{}\n", "", '{"step": 1}\n'])
def test_a_damaged_state_beside_whole_tensors_is_not_trusted(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "step-0000002" / STATE_FILE).write_text(damage)
    found = load_checkpoint(tmp_path)
    assert found is not None and found["step"] == 1
    path = tmp_path / "step-0000001" / STATE_FILE
    path.write_text(path.read_text().replace('"step": 1', '"step": 7'))
    assert load_checkpoint(tmp_path) is None


def test_another_runs_leftovers_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".writing-1").mkdir()
    (tmp_path / ".writing-1" / TENSORS_FILE).write_bytes(b"half")
    save(tmp_path, 1)
    assert names(tmp_path) == ["step-0000001"]


def test_state_that_json_cannot_hold_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, {"step": 2, "w": torch.zeros(1), "bad": object()})
    assert names(tmp_path) == ["step-0000001"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file/training: the state of step 1 cannot be written"):
        save(tmp_path / "file" / "training", 1)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert names(tmp_path / "step-0000001") == [STATE_FILE, TENSORS_FILE]
    record = json.loads((tmp_path / "step-0000001" / STATE_FILE).read_text().splitlines()[0])
    assert record["state"]["step"] == 1


def test_a_fingerprint_follows_params_and_contents(tmp_path: Path) -> None:
    def make(root: Path) -> tuple[Path, Path]:
        (root / "code").mkdir(parents=True)
        (root / "code" / "a.py").write_text("a = 1")
        (root / "data.tar").write_bytes(b"data")
        return root / "code", root / "data.tar"

    code, data = make(tmp_path / "here")
    params = {"steps": 3, "seed": 0}
    first = fingerprint(params, [code, data])
    assert len(first) == 16 and int(first, 16) >= 0
    assert fingerprint({"seed": 0, "steps": 3}, [str(data), str(code)]) == first  # no order
    assert fingerprint(params, make(tmp_path / "elsewhere")) == first  # no place
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert fingerprint(params, [code, data]) == first  # no caches

    assert fingerprint(params | {"seed": 1}, [code, data]) != first
    (code / "a.py").write_text("a = 2")
    changed = fingerprint(params, [code, data])
    (code / "a.py").rename(code / "b.py")
    renamed = fingerprint(params, [code, data])
    data.write_bytes(b"other")
    assert len({first, changed, renamed, fingerprint(params, [code, data])}) == 4


def test_a_fingerprint_follows_clips_by_their_index(tmp_path: Path) -> None:
    def decoded(name: str, value: int, null: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        frames, text = (
            np.full((2, 8, 8, 3), value, np.uint8),
            (np.zeros((1, 2), np.float16), np.ones((1, 1), np.uint8)),
        )
        train = write_shards(
            folder, "train", [Sample(pack_frames(frames), *text, {"clip_id": "a@0"})], 1
        )
        write_null_text(folder, text[0] + null, text[1])
        write_index(folder, {"train": train}, fps=16)
        return folder

    first = decoded("first", 7)
    found = fingerprint({}, [first])
    shard, other = first / "train-00000.tar", decoded("other", 8)
    assert shard.stat().st_size == (other / shard.name).stat().st_size
    # Another clip.
    assert fingerprint({}, [decoded("same", 7)]) == found != fingerprint({}, [other])
    assert fingerprint({}, [decoded("null", 7, 1)]) != found

    content = shard.read_bytes()
    shard.write_bytes(bytes(len(content)))
    assert fingerprint({}, [first]) == found  # no shard is read
    shard.write_bytes(content[:-1])
    assert fingerprint({}, [first]) != found
    shard.unlink()
    assert fingerprint({}, [first]) != found


def test_a_fingerprint_of_something_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fingerprint({}, [tmp_path / "nowhere"])
