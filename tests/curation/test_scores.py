"""Tests shots, motion, duplicates and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.dedupe import clusters, find_duplicates
from lumiere.curation.filters import motion, shrink, signature
from lumiere.curation.look_alikes import find_look_alikes
from lumiere.curation.split import assign_splits, is_validation
from lumiere.data.video_io import read_video

RAW = Path(__file__).resolve().parents[2] / "data" / "raw"


def textured(step: int, count: int = 12) -> np.ndarray:
    """Make a random texture that moves by `step` pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    wide = np.repeat(np.repeat(noise, 4, axis=0), 4, axis=1)
    return np.stack([np.roll(wide, step * i, axis=1)[:, 64:128] for i in range(count)])


def heart(color: tuple[int, int, int], phase: float = 0.0) -> np.ndarray:
    """Make a beating disc on a plain background. Only its colour distinguishes it from others."""
    y, x = np.mgrid[:64, :64]
    frames = np.full((24, 64, 64, 3), 235, np.uint8)
    for i, frame in enumerate(frames):
        frame[(x - 32) ** 2 + (y - 32) ** 2 < (18 + 4 * np.sin(i / 3 + phase)) ** 2] = color
    return frames


def clock(hour: int) -> np.ndarray:
    """Make the trembling face of a clock. Only its hand distinguishes the hours."""
    y, x = np.mgrid[:64, :64]
    frames = heart((250, 250, 250))
    for i, frame in enumerate(frames):
        frame[abs((x - 32) ** 2 + (y - 32) ** 2 - 500) < 60] = 30
        angle = np.pi / 6 * hour
        for length in range(14):
            row, column = (
                round(32 - length * np.cos(angle)),
                round(32 + i % 2 + length * np.sin(angle)),
            )
            frame[row - 1 : row + 2, column - 1 : column + 2] = 20
    return frames


def test_motion_has_no_sign():
    left, right = motion(textured(-2)), motion(textured(2))
    assert left == pytest.approx(right, rel=0.1)
    assert left > 1
    swing = np.concatenate([textured(2, 7), textured(2, 7)[::-1]])
    assert motion(swing) > 1


def test_stills_and_single_frames_do_not_move():
    assert motion(np.repeat(textured(0)[:1], 20, axis=0)) < CurateConfig().min_motion
    assert motion(textured(2, 1)) == 0


def test_a_re_encoding_is_a_duplicate_and_a_look_alike_is_not(tmp_path):
    generator = np.random.default_rng(0)
    noisy = np.clip(
        heart((30, 60, 230)).astype(int) + generator.integers(-6, 7, (24, 64, 64, 3)), 0, 255
    )
    clips = {
        "blue": heart((30, 60, 230)),
        "blue again": noisy.astype(np.uint8),
        "green": heart((40, 190, 60)),
        "purple": heart((120, 40, 230)),
        "three": clock(3),
        "twelve": clock(12),
        "six": clock(6),
    }
    names = list(clips)
    pairs = find_duplicates([signature(frames) for frames in clips.values()], max_distance=4)
    assert [(names[i], names[j]) for i, j in pairs] == [("blue", "blue again")]
    # If the hash accepts everything, colour and position still decide.
    assert (
        find_duplicates([signature(frames) for frames in clips.values()], max_distance=64) == pairs
    )


def frames_of(name: str) -> np.ndarray:
    return signature(np.stack([shrink(frame) for frame in read_video(RAW / f"{name}.mp4", fps=16)]))


def test_look_alikes_know_no_colour_contrast_or_phase():
    clips = [
        heart((30, 60, 230)),
        heart((40, 190, 60)),
        255 - heart((30, 60, 230)),
        heart((250, 220, 40), phase=2.0),
    ]
    clips += [
        textured(2, 24),
        np.full((24, 64, 64, 3), 200, np.uint8),
        np.zeros((24, 64, 64, 3), np.uint8),
    ]
    pairs = find_look_alikes([signature(frames) for frames in clips])
    assert pairs == [(i, j) for i in range(4) for j in range(i + 1, 4)]
    assert find_look_alikes([signature(clips[0])]) == find_look_alikes([]) == []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("blue_heart", "green_heart", True),
        ("ram", "sheep", True),
        ("oncoming_automobile", "oncoming_taxi", True),
        ("passenger_ship", "ship", True),
        ("clock12", "cyclone", False),
        ("clown_face", "nerd_face", False),
        ("monkey_face", "tropical_fish", False),
    ],
)
def test_the_samples_borderline_pairs_lie_on_their_sides(one, other, alike):
    assert find_look_alikes([frames_of(one), frames_of(other)]) == ([(0, 1)] if alike else [])


def test_clusters_join_what_is_linked_through_others():
    assert clusters(6, [(1, 4), (4, 5), (0, 2)]) == [0, 1, 0, 3, 1, 1]
    assert clusters(3, []) == [0, 1, 2]
    assert find_duplicates([], 4) == []


def test_shrink_keeps_the_mean():
    frame = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    assert shrink(frame).shape == (64, 64, 3)
    assert abs(shrink(frame).mean() - frame.mean()) < 1


def alone(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}


def test_adding_data_never_moves_a_clip():
    names = [f"video-{i}" for i in range(2000)]
    before = assign_splits(alone(names[:1000]), seed=3, fraction=0.1)
    after = assign_splits(alone(names), seed=3, fraction=0.1)
    assert all(after[name] == split for name, split in before.items())
    assert 150 < sum(split == "validation" for split in after.values()) < 250
    assert after != assign_splits(alone(names), seed=4, fraction=0.1)
    assert before == {
        name: "validation" if is_validation(name, 3, 0.1) else "train" for name in names[:1000]
    }


def test_a_look_alike_moves_clips_into_training_only():
    names = [f"video-{i}" for i in range(2000)]
    draws = assign_splits(alone(names), seed=3, fraction=0.5)
    groups = {name: names[i - i % 2] for i, name in enumerate(names)}  # pairs
    splits = assign_splits(groups, seed=3, fraction=0.5)
    for one, other in zip(names[::2], names[1::2], strict=True):
        held_out = draws[one] == draws[other] == "validation"
        assert splits[one] == ("validation" if held_out else "train")
    assert set(splits.values()) == {"train", "validation"}


def test_no_split_stays_empty_where_two_groups_could_fill_both():
    for seed in range(30):
        assert set(assign_splits(alone(["a", "b", "c"]), seed, 0.1).values()) == {
            "train",
            "validation",
        }
        assert set(assign_splits({"a": "a", "b": "a", "c": "c"}, seed, 0.1).values()) == {
            "train",
            "validation",
        }
    assert assign_splits({"a": "a"}, 0, 0.1) == {"a": "train"} or is_validation("a", 0, 0.1)
    assert set(assign_splits(alone(["a", "b", "c"]), 0, 0.0).values()) == {"train"}
