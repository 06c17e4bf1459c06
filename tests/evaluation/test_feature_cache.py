"""The cache of features: equal results, damaged and old entries, two processes."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lumiere.evaluation.backbones import load_backbone
from lumiere.evaluation.backbones.weight_files import Weights
from lumiere.evaluation.feature_cache import FeatureCache, default_folder
from tests import forked
from tests.conftest import REPOSITORY


class CountingBackbone:
    """Mean colours, with a count of its calls."""

    name = "counting"
    preprocessing = "None."
    weights = Weights(Path("none"), "0" * 64)

    def __init__(self, identity: str = "a") -> None:
        self.identity = identity
        self.calls = 0

    def embed(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        return frames.mean(axis=(1, 2)).astype(np.float32)

    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.full((len(frames), 5), 0.2, np.float32)


def clip(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.features"))


def test_computes_once_and_returns_the_same_bits(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    cold = FeatureCache(tmp_path).embed(backbone, clip(0))
    warm = FeatureCache(tmp_path).embed(backbone, clip(0))
    assert backbone.calls == 1
    assert cold.dtype == warm.dtype
    np.testing.assert_array_equal(cold, warm)


def test_a_warm_run_of_the_embedded_backbone_equals_a_cold_one(tmp_path: Path) -> None:
    """Also if only some of the videos were computed before."""
    backbone = load_backbone("efficientnet_lite0")
    clips = [clip(seed, n) for seed, n in ((0, 4), (1, 1), (2, 6))]
    FeatureCache(tmp_path / "some").embed(backbone, clips[1])
    cache = FeatureCache(tmp_path / "some")
    for frames in clips:
        cold = FeatureCache(tmp_path / "cold").embed(backbone, frames)
        np.testing.assert_array_equal(cache.embed(backbone, frames), cold)
    assert (cache.hits, cache.misses) == (1, 2)


def test_anything_else_is_another_entry(tmp_path: Path) -> None:
    cache, backbone = FeatureCache(tmp_path), CountingBackbone()
    frames = clip(0)
    changed = frames.copy()
    changed[0, 0, 0, 0] ^= 1
    cache.embed(backbone, frames)
    cache.embed(backbone, changed)
    cache.embed(backbone, frames.reshape(3, 4, 9, 3))  # the same bytes
    cache.embed(CountingBackbone("b"), frames)
    cache.probabilities(backbone, frames)
    assert (cache.hits, cache.misses) == (0, 5) and len(entries(tmp_path)) == 5


def test_probabilities_are_kept_too(tmp_path: Path) -> None:
    cache, backbone = FeatureCache(tmp_path), CountingBackbone()
    first = cache.probabilities(backbone, clip(0))
    np.testing.assert_array_equal(cache.probabilities(backbone, clip(0)), first)
    assert backbone.calls == 1


def test_frames_that_are_a_view_are_hashed_by_content(tmp_path: Path) -> None:
    cache, backbone = FeatureCache(tmp_path), CountingBackbone()
    frames = clip(0, n=6)
    cache.embed(backbone, frames[::2])
    cache.embed(backbone, frames[::2].copy())
    assert cache.hits == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: str) -> None:
    backbone = CountingBackbone()
    expected = FeatureCache(tmp_path).embed(backbone, clip(0))
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    damaged = {
        "flipped": bytes(content),
        "cut": path.read_bytes()[:-4],
        "empty": b"",
        "foreign": b"not an array, but longer than a digest of thirty-two bytes",
    }
    path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(FeatureCache(tmp_path).embed(backbone, clip(0)), expected)
    assert backbone.calls == 2
    FeatureCache(tmp_path).embed(backbone, clip(0))
    assert backbone.calls == 2  # mended


def test_the_entries_used_longest_ago_are_removed(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    FeatureCache(tmp_path).embed(backbone, clip(0))
    (first,) = entries(tmp_path)
    size = first.stat().st_size
    cache = FeatureCache(tmp_path, max_bytes=10 * size)
    for seed in range(1, 10):
        cache.embed(backbone, clip(seed))
    now = time.time()
    for path in entries(tmp_path):
        os.utime(path, (now - 50, now - 50))
    cache.embed(backbone, clip(0))  # a hit: used just now
    cache.embed(backbone, clip(10))  # one too many
    left = entries(tmp_path)
    assert sum(path.stat().st_size for path in left) <= 10 * size
    assert first in left and len(left) == 8


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    cache, backbone = FeatureCache(tmp_path, max_bytes=1), CountingBackbone()
    (tmp_path / "00").mkdir()
    old, new = tmp_path / "00" / "old.tmp", tmp_path / "00" / "new.tmp"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    cache.embed(backbone, clip(0))
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache, backbone = FeatureCache(blocked), CountingBackbone()
    with caplog.at_level(logging.WARNING):
        first = cache.embed(backbone, clip(0))
        cache.embed(backbone, clip(1))
    np.testing.assert_array_equal(cache.embed(backbone, clip(0)), first)
    assert backbone.calls == 3
    assert len(caplog.records) == 1 and str(blocked) in caplog.text


def write_and_read(folder: Path) -> None:
    """What each of two processes does; the folder holds less than it writes."""
    cache, backbone = FeatureCache(folder, max_bytes=4000), CountingBackbone()
    for _ in range(5):
        for seed in range(20):
            found = cache.embed(backbone, clip(seed))
            assert np.array_equal(found, CountingBackbone().embed(clip(seed)))


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Both write and remove the same entries, because the folder holds less than they need."""
    command = ["tests.evaluation.test_feature_cache", str(tmp_path / "cache")]
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    for process in [forked.start(command, log, REPOSITORY) for log in logs]:
        process.wait()
    assert entries(tmp_path / "cache") and not list(tmp_path.rglob("*.tmp"))


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lumiere" / "features"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / ".cache" / "lumiere" / "features"


def test_max_bytes_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        FeatureCache(tmp_path, max_bytes=0)


if __name__ == "__main__":
    write_and_read(Path(sys.argv[1]))
