"""Look-alikes: the screen and the cache change no result, and a shared backdrop is no likeness."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lumiere.curation import look_alikes
from lumiere.curation.look_alikes import Ground, find_look_alikes
from tests.curation.test_copies import one_camera

Clips = list[np.ndarray]


def families(count: int, seed: int) -> Clips:
    """Clips of which every third one repeats an earlier one in other colours."""
    generator = np.random.default_rng(seed)
    clips: Clips = []
    for i in range(count):
        coarse = generator.integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
        clip = np.stack(
            [cv2.resize(frame, (64, 64), interpolation=cv2.INTER_CUBIC) for frame in coarse]
        )
        clips.append(255 - clips[i // 2] if i % 3 == 2 else clip)
    return clips


def brute_force(clips: Clips) -> list[tuple[int, int]]:
    edges = np.stack([[look_alikes._edges(frame) for frame in clip] for clip in clips])
    return [
        (i, j)
        for i in range(len(clips))
        for j in range(i + 1, len(clips))
        if (edges[i] @ edges[j].T).max() >= look_alikes.MIN_EDGE_CORRELATION
        and not look_alikes.is_backdrop_only(Ground(clips[i]), Ground(clips[j]))
    ]


@pytest.mark.parametrize("screen_from", [10, 10_000])
def test_blocks_and_the_screen_lose_no_pair(monkeypatch, screen_from):
    monkeypatch.setattr(look_alikes, "SCREEN_FROM", screen_from)
    monkeypatch.setattr(look_alikes, "ROWS", 16)
    monkeypatch.setattr(look_alikes, "COLUMNS", 24)
    clips = families(45, 0)
    pairs = brute_force(clips)
    assert 15 <= len(pairs) <= 200
    assert find_look_alikes(clips) == pairs


def test_only_new_clips_are_compared(tmp_path, monkeypatch):
    clips, cache = families(40, 1), tmp_path / "cache.npz"
    first = find_look_alikes(clips[:30], cache)
    assert first == brute_force(clips[:30])
    shuffled = [clips[i] for i in np.random.default_rng(0).permutation(40)]
    assert find_look_alikes(shuffled, cache) == brute_force(shuffled)
    monkeypatch.setattr(look_alikes, "_compare", None)  # all are known now
    assert find_look_alikes(shuffled, cache) == brute_force(shuffled)
    assert find_look_alikes(clips[:30], cache) == first
    assert find_look_alikes([clips[0], clips[0]], cache) == [(0, 1)]


def test_clips_of_one_camera_are_not_alike_but_their_copies_are():
    clips = one_camera(6)
    assert find_look_alikes(clips) == []
    bright = np.clip(clips[3] * 1.1 + 10, 0, 255).astype(np.uint8)
    assert find_look_alikes([*clips, bright, clips[2]]) == [(2, 7), (3, 6)]
    empty = np.stack([clips[0][0]] * 4)
    assert find_look_alikes([empty, np.clip(empty + 1.0, 0, 255).astype(np.uint8)]) == [(0, 1)]


def test_clips_that_were_away_are_compared_when_they_come_back(tmp_path):
    clips = families(12, seed=3)
    cache = tmp_path / "cache"
    find_look_alikes(clips[:6], cache)
    find_look_alikes(clips[6:], cache)
    assert find_look_alikes(clips, cache) == brute_force(clips) != []
