"""A run that was killed leaves no embedding under another clip's key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lumiere.curation.embedding_cache import EmbeddingCache


def stored(path: Path, keys: list[str]) -> np.ndarray:
    cache = EmbeddingCache(path)
    assert all(key in cache for key in keys)
    found = np.empty((len(keys), cache.size), np.float32)
    cache.copy_to(keys, found)
    return found


@pytest.mark.parametrize("is_saved", [True, False])
def test_vectors_of_another_width_are_never_taken_for_the_old_ones(tmp_path, is_saved):
    path = tmp_path / "e.bin"
    cache = EmbeddingCache(path)
    cache.add(["a", "b", "c"], np.ones((3, 4), np.float32))
    cache.save()
    other = EmbeddingCache(path)
    other.add(["d", "e"], np.full((2, 8), 2, np.float32))  # the bytes of four old vectors
    if is_saved:
        other.save()
        assert np.array_equal(stored(path, ["e", "d"]), np.full((2, 8), 2))
    later = EmbeddingCache(path)
    assert not any(key in later for key in "abc")
    assert ("d" in later) == is_saved


def test_a_kill_at_any_write_leaves_no_key_with_another_vector(tmp_path, monkeypatch):
    path = tmp_path / "e.bin"
    cache = EmbeddingCache(path)
    cache.add(["a"], np.ones((1, 4), np.float32))
    cache.save()
    before = {member: member.read_bytes() for member in tmp_path.iterdir()}
    for method in ("unlink", "open"):  # killed as it is called
        for member, content in before.items():
            member.write_bytes(content)
        killed = EmbeddingCache(path)
        with monkeypatch.context() as patches:
            patches.setattr(Path, method, lambda *_, **__: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                killed.add(["d"], np.full((1, 8), 2, np.float32))
        if "a" in EmbeddingCache(path):
            assert np.array_equal(stored(path, ["a"]), np.ones((1, 4)))


def test_keys_of_lost_vectors_do_not_get_others(tmp_path):
    path = tmp_path / "e.bin"
    cache = EmbeddingCache(path)
    cache.add(["a", "b", "c"], np.ones((3, 4), np.float32))
    cache.save()
    path.unlink()
    EmbeddingCache(path).add(["d", "e"], np.full((2, 4), 2, np.float32))  # killed before it saves
    later = EmbeddingCache(path)
    assert not any(key in later for key in "abcde")
