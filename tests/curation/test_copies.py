"""Edited copies of a video stay on its side of the split, and the original is kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation import copies, verdict_cache
from lumiere.curation.captions import Caption
from lumiere.curation.copies import NEAREST, embed_clips, find_copies
from lumiere.curation.measurement import measure_video
from lumiere.curation.split import MOST_HELD_OUT, assign_splits, split_notes
from lumiere.curation.verdict_cache import VerdictCache
from lumiere.curation.verdicts import decide
from lumiere.data.video_io import read_video
from lumiere.data.workers import Failure
from lumiere.errors import WorkerError
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone
from tests.curation.test_scores import RAW
from tests.video_factory import encode


def graded(frames: np.ndarray) -> np.ndarray:
    """Warmer and with more contrast."""
    levels = (frames / np.float32(255)) ** 0.75 * 1.1 * np.float32([1.05, 1, 0.85])
    return (np.clip(levels, 0, 1) * 255).astype(np.uint8)


def with_logo(frames: np.ndarray) -> np.ndarray:
    copy = frames.copy()
    copy[:, 8:32, 120:152] = (240, 30, 30)
    return copy


COPIES = {
    "trimmed": lambda frames: frames[9:],
    "mirrored": lambda frames: frames[:, :, ::-1],
    "cropped": lambda frames: frames[:, 16:144, 16:144],
    "logo": with_logo,
    "graded": graded,
    "letterboxed": lambda frames: np.pad(frames, ((0, 0), (44, 44), (0, 0), (0, 0))),
}


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0Backbone:
    return EfficientNetLite0Backbone()


def test_all_kinds_of_copies_are_found_and_others_are_not(tmp_path, network):
    for name in ("bus", "pig2", "ox"):
        frames = read_video(next(RAW.glob(f"{name}.mp4")))[:32]
        encode(tmp_path / f"{name}.mp4", frames)
        if name == "bus":
            for kind, edit in COPIES.items():
                encode(tmp_path / f"{kind}.mp4", edit(frames), crf="23")
    names = sorted(path.name for path in tmp_path.glob("*.mp4"))
    measured = {name: measure_video(tmp_path, name, (), 27.0, tmp_path / "s") for name in names}
    captions = {name: [Caption("a thing")] for name in names}

    def edited(signatures):
        return find_copies(signatures, embed_clips(signatures, network, tmp_path / "cache.npz"))

    rows, _ = decide(measured, captions, CurateConfig(min_motion=0.0), edited)
    groups = {row["clip_id"]: row["group"] for row in rows}
    assert len({groups[name] for name in (*COPIES, "bus")}) == 1
    assert len({groups[name] for name in ("bus", "pig2", "ox")}) == 3


def one_camera(num_clips: int) -> list[np.ndarray]:
    """Signatures of clips in which objects of other patterns, each at its own height, cross the same
    backdrop.
    """
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    backdrop = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    clips = []
    for number in range(num_clips):
        clip = np.stack([backdrop] * 4)
        pattern = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        thing = cv2.resize(pattern, (14, 14), interpolation=cv2.INTER_CUBIC)
        top = 8 * number
        for frame, left in zip(clip, (2, 14, 26, 38), strict=True):
            frame[top : top + 14, left : left + 14] = thing
        clips.append(clip)
    return clips


def test_clips_of_one_camera_are_no_copies_but_edited_copies_of_them_are():
    clips = one_camera(6)
    same = np.ones((6, 2, 4), np.float32) / 2  # the network takes all for possible copies
    assert find_copies(clips, same) == []
    edited = [*clips, clips[2][:, :, ::-1], np.clip(clips[4] * 0.7 + 20, 0, 255).astype(np.uint8)]
    assert find_copies(edited, np.ones((8, 2, 4), np.float32) / 2) == [(2, 6), (4, 7)]


def test_each_clip_is_compared_with_its_nearest_only(monkeypatch):
    count, compared = 3 * NEAREST, []
    monkeypatch.setattr(
        "lumiere.curation.copies.is_copy", lambda one, other: compared.append((one, other))
    )
    angles = np.linspace(0, 0.5, count, dtype=np.float32)  # all possible copies of each other
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None].repeat(2, axis=1)
    find_copies(list(np.arange(count)), vectors)
    assert len(compared) == len(set(compared)) <= NEAREST * count
    partners = {
        i: [j for pair in compared for j in pair if i in pair and j != i] for i in range(count)
    }
    assert set(partners[0]) >= set(range(1, NEAREST + 1))
    assert all(len(partners[i]) >= NEAREST for i in range(count))
    assert (0, count - 1) not in compared


def test_only_new_pairs_are_compared(tmp_path, monkeypatch):
    compared = []
    real = copies.is_copy
    monkeypatch.setattr(copies, "is_copy", lambda *pair: compared.append(pair) or real(*pair))
    clips, cache = [*one_camera(4), one_camera(4)[1][:, :, ::-1]], tmp_path / "copies.npz"
    same = np.ones((5, 2, 4), np.float32) / 2

    def found(count):
        compared.clear()
        return find_copies(clips[:count], same[:count], cache), len(compared)

    assert found(4) == ([], 6)
    assert found(5) == ([(1, 4)], 4)
    assert found(5) == ([(1, 4)], 0)
    assert found(4) == ([], 0) and found(5) == ([(1, 4)], 0)  # a threshold was tried
    # Clips of the same content are compared once, and other code compares all again.
    compared.clear()
    assert len(find_copies([clips[0]] * 3, same[:3], cache)) == 3
    assert len(compared) == 1
    monkeypatch.setattr(copies, "code_version", lambda name: {name: "changed"})
    assert found(5) == ([(1, 4)], 10)


CRASHED = Failure("crashed", "the worker process died")


def test_processes_find_the_same_pairs_in_the_same_order(tmp_path, monkeypatch):
    generator = np.random.default_rng(3)
    clips = list(generator.integers(0, 255, (12, 4, 64, 64, 3), np.uint8))
    clips += [clip[:, :, ::-1].copy() for clip in clips[:4]] + [clips[5]]
    vectors = np.ones((17, 2, 4), np.float32) / 2
    alone = find_copies(clips, vectors)
    assert alone == [(0, 12), (1, 13), (2, 14), (3, 15), (5, 16)]
    monkeypatch.setattr(copies, "PROCESSES_FROM", 2)
    monkeypatch.setattr(copies, "PAIRS", 50)
    monkeypatch.setattr(copies.os, "cpu_count", lambda: 2)
    cache = tmp_path / "copies.npz"
    assert find_copies(clips, vectors, cache, workers=2) == alone
    content = cache.read_bytes()
    assert find_copies(clips, vectors, tmp_path / "other.npz") == alone
    assert (tmp_path / "other.npz").read_bytes() == content
    monkeypatch.setattr(
        copies, "run_tasks", lambda _, tasks, *limits: enumerate([CRASHED] * len(tasks))
    )
    assert find_copies(clips, vectors, workers=2) == alone, "compared here instead"

    def failing(_, tasks, *limits):
        yield 1, copies.compare(*tasks[1])
        raise WorkerError("a worker cannot start")

    monkeypatch.setattr(copies, "run_tasks", failing)
    assert find_copies(clips, vectors, workers=2) == alone, "and no error"


def test_embeddings_are_computed_once(tmp_path):
    class Counting:
        identity = "counting"
        num_frames = 0

        def embed(self, frames):
            self.num_frames += len(frames)
            return frames.reshape(len(frames), -1)[:, :8].astype(np.float32)

    network, clips = Counting(), list(np.random.default_rng(0).integers(1, 255, (5, 4, 64, 64, 3)))
    first = embed_clips(clips[:3], network, tmp_path / "cache.npz")
    second = embed_clips(clips, network, tmp_path / "cache.npz")
    assert network.num_frames == 2 * 5
    assert np.array_equal(first, second[:3])
    assert np.allclose(np.linalg.norm(second, axis=-1), 1)


@pytest.mark.parametrize("crf", ["4", "38"])
def test_the_original_is_kept_whatever_the_bitrate_of_its_copy(tmp_path, crf):
    frames = read_video(next(RAW.glob("bus.mp4")))[:24]
    original = encode(tmp_path / "z-original.mp4", frames, crf="16")
    encode(tmp_path / "a-copy.mp4", read_video(original), crf=crf)
    names = ["a-copy.mp4", "z-original.mp4"]
    measured = {name: measure_video(tmp_path, name, (), 27.0, tmp_path / "s") for name in names}
    copy, kept = decide(
        measured, {name: [Caption("a")] for name in names}, CurateConfig(min_motion=0.0)
    )[0]
    assert (copy["reason"], kept["verdict"]) == ("duplicate", "accepted")
    assert (copy["bitrate"] > kept["bitrate"]) == (crf == "4")


def test_verdicts_that_no_clip_needs_are_forgotten_if_they_are_many(tmp_path, monkeypatch):
    path = tmp_path / "copies.npz"
    monkeypatch.setattr(verdict_cache, "MOST_UNUSED", 10)

    def run(keys: list[tuple[str, str]]) -> VerdictCache:
        cache = VerdictCache(path, "code")
        for key in keys:
            if key not in cache:
                cache.add(key, len(key[0]) > 1)
        cache.save()
        return VerdictCache(path, "code")

    first = [("a", str(i)) for i in range(10)]
    run(first)
    later = [("bb", str(i)) for i in range(5)]
    cache = run(later)
    assert all(key in cache for key in [*first, *later])  # the others may be back tomorrow
    cache = run([("bb", "5"), *later[:4]])
    assert [key for key in [*first, *later] if key in cache] == later[:4]
    assert all(cache[key] for key in later[:4])


def test_the_held_out_share_is_bounded():
    generator = np.random.default_rng(0)
    for seed in range(300):
        count = int(generator.integers(2, 40))
        names = [f"video-{i}" for i in range(count)]
        clips = dict(zip(names, generator.geometric(0.2, count).tolist(), strict=True))
        groups = {name: names[i // 3 * 3] for i, name in enumerate(names)}
        splits = assign_splits(groups, seed, 0.1, clips)
        if len(splits) < 2:
            continue
        sizes = {group: sum(clips[n] for n in names if groups[n] == group) for group in splits}
        held_out = sum(sizes[group] for group, side in splits.items() if side == "validation")
        assert set(splits.values()) == {"train", "validation"}
        assert held_out <= max(MOST_HELD_OUT * 0.1 * sum(clips.values()), min(sizes.values()))


def rows_of(groups: str, held_out: str = "") -> list[dict[str, str]]:
    """Accepted rows, one for each letter, which is its group."""
    return [
        {
            "video": f"{group}.mp4",
            "group": group,
            "verdict": "accepted",
            "split": "validation" if group in held_out else "train",
        }
        for group in groups
    ]


def test_a_split_that_holds_nothing_out_or_has_a_large_group_is_told():
    rejected = {"video": "z.mp4", "group": "z", "verdict": "rejected", "split": ""}
    (note,) = split_notes([*rows_of("aaaa"), rejected], 0.1)
    assert "no clip is held out" in note and "all 4" in note and "a.mp4" in note
    (note,) = split_notes([*rows_of("aabbbbcdef", "a"), rejected], 0.1)
    assert note.startswith("4 of 10 accepted clips are in one group, that of b.mp4")
    assert split_notes(rows_of("aabbbcdefg", "a"), 0.1) == []
    assert split_notes(rows_of("ab", "a"), 0.5) == []  # each stands for itself
    assert split_notes([rejected], 0.1) == []
