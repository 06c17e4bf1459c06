"""Arrays on the disk hold what was stored, and their files are gone with them."""

from __future__ import annotations

import numpy as np

from lumiere.curation.embedding_cache import EmbeddingCache
from lumiere.data.disk_arrays import ArrayFile, ItemFile, disk_array


def test_items_come_back_in_their_places(tmp_path):
    items = np.random.default_rng(0).integers(0, 255, (5, 2, 3), np.uint8)
    file = ArrayFile((2, 3), np.uint8, tmp_path / "new")
    places = [file.add(items[:3]), file.add(items[:0]), file.add(items[3:])]
    stored = file.finish()
    assert np.array_equal(stored, items)
    assert [np.array_equal(stored[place], part) for place, part in zip(
        places, (items[:3], items[:0], items[3:]), strict=True
    )] == [True] * 3  # fmt: skip
    assert ArrayFile((2, 3), np.uint8, tmp_path).finish().shape == (0, 2, 3)
    array = disk_array((4, 3), np.float32, tmp_path)
    array[2] = 7
    assert array.sum() == 21 and array.dtype == np.float32
    assert disk_array((0, 3), np.float32).shape == (0, 3)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_items_are_read_one_by_one_while_others_are_added(tmp_path):
    items = np.random.default_rng(0).integers(0, 255, (40, 3, 5, 3), np.uint8)
    file = ItemFile((3, 5, 3), np.uint8, tmp_path / "new")
    for i, item in enumerate(items):
        file.append(item)
        assert np.array_equal(file[i // 2], items[i // 2])
    assert len(file) == 40 and np.array_equal(np.stack([file[i] for i in range(40)]), items)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    file.close()


def test_a_killed_run_leaves_vectors_that_do_not_count(tmp_path):
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    cache = EmbeddingCache(tmp_path / "v.bin")
    cache.add(["a", "b"], vectors[:2])
    cache.save()
    cache.add(["lost"], vectors[3:])  # and killed
    again = EmbeddingCache(tmp_path / "v.bin")
    assert "b" in again and "lost" not in again
    again.add(["c"], vectors[2:3])
    again.save()
    found = np.zeros((3, 3), np.float32)
    EmbeddingCache(tmp_path / "v.bin").copy_to(["c", "a", "b"], found)
    assert np.array_equal(found, vectors[[2, 0, 1]])
    another = EmbeddingCache(tmp_path / "v.bin")
    another.add(["x"], np.ones((1, 5), np.float32))  # of another network
    assert "a" not in another and another.size == 5
