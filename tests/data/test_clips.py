"""Shards, random access, the order of batches, and the way into model range."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from lumiere.data.clips import ClipStore, clip_order, resize_video
from lumiere.data.contact_sheets import contact_sheet, xt_slice
from lumiere.data.extract import fit
from lumiere.data.pixel_values import from_model_range, to_model_range
from lumiere.data.shards import Sample, Split, pack_frames, write_index, write_shards
from lumiere.data.window_choice import window_starts
from lumiere.errors import DataError

NUM_FRAMES, SIZE = 5, 40


def frames_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(
        0, 256, (NUM_FRAMES, SIZE, SIZE, 3), dtype=np.uint8
    )


def sample(number: int) -> Sample:
    generator = np.random.default_rng(number)
    info = {
        "clip_id": f"clip.{number}@0",
        "video": f"{number}.mp4",
        "start": 0.5,
        "captions": [str(number)],
        "fps": 16,
    }
    return Sample(
        video=pack_frames(frames_of(number)),
        prompt_embeds=generator.normal(size=(1, 4, 6)).astype(np.float16),
        prompt_mask=np.ones((1, 4), np.uint8),
        info=info,
    )


def write(folder, count=7):
    folder.mkdir()
    written = write_shards(folder, "train", (sample(i) for i in range(count)), per_shard=3)
    shared = {"fps": 16, "num_frames": NUM_FRAMES, "size": SIZE}
    settings = shared | {"text_encoder": "minilm", "embed_dim": 6, "max_text_tokens": 4}
    write_index(folder, {"train": written, "validation": Split([], {})}, **settings)
    return folder


def test_any_clip_is_read_by_itself(tmp_path):
    store = ClipStore(write(tmp_path / "clips"))
    assert len(store) == 7
    assert (store.fps, store.num_frames, store.embed_dim) == (16, NUM_FRAMES, 6)
    assert (store.sizes, store.buckets) == (((SIZE, SIZE),), [0] * 7)
    for i in (6, 0, 3):
        clip, source = store[i], sample(i)
        assert clip.clip_id == f"clip.{i}@0"
        assert clip.captions == [str(i)]
        assert np.array_equal(clip.frames, frames_of(i))
        assert np.array_equal(clip.prompt_embeds, source.prompt_embeds)
    assert pickle.loads(pickle.dumps(store))[2].clip_id == "clip.2@0"
    assert len(ClipStore(tmp_path / "clips", "validation")) == 0


@pytest.mark.parametrize("frames", [slice(2, 3), slice(1, 4), slice(None, None, 2), slice(None)])
def test_frames_are_read_without_the_others(frames, tmp_path, monkeypatch):
    store, read = ClipStore(write(tmp_path / "clips")), []
    original = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *call: read.append(original(*call)) or read[-1])
    expected = frames_of(4)[frames]
    assert np.array_equal(store.frames(4, frames), expected)
    # Noise is as long.
    assert len(expected) * SIZE * SIZE * 3 < sum(read) < (len(expected) + 0.8) * SIZE * SIZE * 3


def test_the_index_has_the_shards_sizes_and_hashes(tmp_path):
    folder = write(tmp_path / "clips")
    shards = json.loads((folder / "index.json").read_text())["shards"]
    assert sorted(shards) == sorted(path.name for path in folder.glob("*.tar"))
    for name, about in shards.items():
        content = (folder / name).read_bytes()
        assert about == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_shards_that_are_not_those_of_the_index_are_told(tmp_path):
    folder = write(tmp_path / "clips")
    shard = folder / "train-00001.tar"
    whole = shard.stat().st_size
    os.truncate(shard, 1000)
    with pytest.raises(
        DataError,
        match=rf"train-00001.tar: 1000 bytes; by index.json {whole} bytes; run the decode",
    ):
        ClipStore(folder)
    shard.unlink()
    with pytest.raises(
        DataError, match=r"train-00001.tar: no such file; .* run the decode stage again"
    ):
        ClipStore(folder)
    ClipStore(folder, "validation")  # has none of its own


def test_a_damaged_shard_of_the_right_size_is_named(tmp_path):
    folder = write(tmp_path / "clips")
    shard = folder / "train-00000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    store = ClipStore(folder)
    for read in (store.frames, store.text, store.__getitem__):
        with pytest.raises(DataError, match=r"train-00000.tar: cannot be read: .*decode stage"):
            read(0)


def test_an_index_that_is_not_json_is_named(tmp_path):
    folder = write(tmp_path / "clips")
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index.json: not valid JSON"):
        ClipStore(folder)


def test_clips_of_an_older_form_are_told(tmp_path):
    folder = write(tmp_path / "clips")
    index = json.loads((folder / "index.json").read_text())
    del index["format"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        DataError, match=r"index.json: clips in another format .* run the decode stage again"
    ):
        ClipStore(folder)


def test_shards_are_byte_stable_tars_without_names_or_times(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    names = sorted(path.name for path in one.iterdir())
    assert names == ["index.json", "train-00000.tar", "train-00001.tar", "train-00002.tar"]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    with tarfile.open(one / "train-00000.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members[:3]] == [
            "000000.json",
            "000000.text.npz",
            "000000.video.npz",
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
            (0, 0, 0, "", "", 0o644)
        }


def test_unfinished_or_unknown_splits_are_named(tmp_path):
    with pytest.raises(DataError, match="run the decode stage"):
        ClipStore(tmp_path)
    with pytest.raises(ValueError, match="allowed: train, validation"):
        ClipStore(write(tmp_path / "clips"), "test")


@pytest.mark.parametrize("buffer", [1, 3, 8, 20, 1000])
def test_an_epoch_has_every_clip_once_and_is_a_pure_function(buffer):
    shards = ["a"] * 9 + ["b"] * 9 + ["c"] * 2
    orders = [clip_order(shards, 5, epoch, buffer).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (
        clip_order(shards, 5, 2, buffer).tolist()
        == orders[2]
        != clip_order(shards, 6, 2, buffer).tolist()
    )


def test_few_shards_are_read_at_a_time():
    shards = [f"{i // 10:03d}" for i in range(1000)]
    order = clip_order(shards, 0, 0, 50)
    assert max(len({shards[i] for i in order[first : first + 50]}) for first in range(0, 950)) <= 14
    assert len({shards[i] for i in order[:50]}) >= 5
    assert [shards[i] for i in order] != sorted(shards)


def test_with_a_large_buffer_any_clip_may_come_first():
    shards = [str(i // 4) for i in range(12)]
    first = {int(clip_order(shards, 0, epoch, 100)[0]) for epoch in range(200)}
    assert first == set(range(12))


def test_model_range_and_back():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    video = to_model_range(frames)
    assert video.shape == (3, 1, 16, 16)
    assert (video.min(), video.max()) == (-1, 1)
    assert np.array_equal(from_model_range(video), frames)


@pytest.mark.parametrize("size", [(4, 4), (6, 10), (16, 32)])
def test_resizing_keeps_constants_and_the_mean(size):
    video = torch.rand(2, 3, 4, 16, 16)
    small = resize_video(video, size)
    assert small.shape == (2, 3, 4, *size)
    assert torch.allclose(resize_video(torch.full_like(video, 0.3), size), torch.tensor(0.3))
    assert torch.allclose(small.mean(), video.mean(), atol=0.03)
    frame = resize_video(video[:, :, 2:3], size)
    assert torch.allclose(small[:, :, 2:3], frame)


def test_a_fine_checkerboard_becomes_gray():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    assert torch.allclose(resize_video(board.float().expand(1, 3, 1, 32, 32), 8), torch.tensor(0.5))
    picture = np.repeat(board.numpy().astype(np.uint8)[..., None] * 255, 3, axis=-1)
    assert np.abs(fit(picture, (16, 16)).astype(int) - 127).max() <= 1


def test_square_takes_the_middle():
    frame = np.zeros((8, 16, 3), np.uint8)
    frame[:, 4:12] = 200
    assert (fit(frame, (8, 8)) == 200).all()
    assert (fit(frame.transpose(1, 0, 2), (4, 4)) == 200).all()


def test_windows_are_spread_evenly_and_differ():
    assert window_starts(48, 16, 2) == [0, 32]
    assert window_starts(48, 16, 3) == [0, 16, 32]
    assert window_starts(17, 16, 4) == [0, 1]
    assert window_starts(16, 16, 2) == [0]
    assert window_starts(15, 16, 2) == []


def test_pictures():
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet(frames, columns=3))
    assert sheet.shape == (18, 40, 3)
    assert np.array_equal(sheet[10:, 14:26], frames[4])
    assert np.array_equal(np.asarray(xt_slice(frames, scale=2))[::2], frames[:, 4])
