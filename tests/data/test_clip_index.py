"""The index of many clips: mapped, checked, and equal to that of few."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from lumiere.data import clip_index
from lumiere.data.clips import ClipStore
from lumiere.data.shards import Split, shard_names, write_index
from lumiere.errors import DataError
from lumiere.training.checkpoint import fingerprint
from tests.data.test_clips import write


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Write the same clips with either index."""
    few = write(tmp_path / "few")
    monkeypatch.setattr(clip_index, "MOST_IN_JSON", 3)
    return few, write(tmp_path / "many")


def test_both_indices_give_the_same_clips(both):
    few, many = map(ClipStore, both)
    assert list(many.entries) == list(few.entries) and len(many) == len(few) > 3
    assert many.entries[2:5] == few.entries[2:5] and many.entries[-1] == few.entries[-1]
    assert many.shards == few.shards and many.text_bytes == few.text_bytes > 0
    again = pickle.loads(pickle.dumps(many))
    for i in (0, 5):
        assert again[i].clip_id == few[i].clip_id
        assert np.array_equal(again.frames(i), few.frames(i))
        assert np.array_equal(again.text(i)[0], few.text(i)[0])
    with pytest.raises(IndexError):
        many.entries[len(many)]
    assert len(ClipStore(both[1], "validation")) == 0
    assert shard_names(both[1]) == shard_names(both[0])
    index = json.loads((both[1] / "index.json").read_text())
    assert "shards" not in index and index["splits"]["train"]["num_clips"] == len(few)


def test_a_shard_is_checked_when_it_is_first_read(both):
    shard = both[1] / "train-00001.tar"
    whole = shard.read_bytes()
    before = fingerprint({}, [both[1]])
    shard.write_bytes(whole[:1000])
    store = ClipStore(both[1])
    broken = store.shards.index(shard.name)
    store.frames(0)
    with pytest.raises(DataError, match=r"train-00001.tar: 1000 bytes; by .*decode stage again"):
        store.frames(broken)
    assert fingerprint({}, [both[1]]) != before
    (both[1] / "train.clips.arrow").unlink()
    with pytest.raises(DataError, match=r"train\.clips\.arrow: no such file; run the decode"):
        ClipStore(both[1])


def test_index_json_does_not_grow_with_the_clips(tmp_path):
    """What is read to open the clips: `benchmarks/scale.py` measures the time."""
    members = {name: [512, 100] for name in clip_index.MEMBERS}
    sizes = []
    for count in (10_001, 20_002):
        folder = tmp_path / str(count)
        folder.mkdir()
        shards = {f"train-{i:05d}.tar": {"size": 1, "sha256": "0" * 64} for i in range(count // 64)}
        entries = [
            {"clip_id": f"clip{i}@0", "tar": f"train-{i // 64 % 150:05d}.tar", "members": members}
            for i in range(count)
        ]
        facts = {"fps": 16, "num_frames": 16, "size": 32, "text_encoder": "x", "embed_dim": 2}
        write_index(folder, {"train": Split(entries, shards)}, max_text_tokens=2, **facts)
        assert ClipStore(folder).entries[count - 1]["clip_id"] == f"clip{count - 1}@0"
        sizes.append((folder / "index.json").stat().st_size)
    assert sizes[0] == sizes[1] < 1000
