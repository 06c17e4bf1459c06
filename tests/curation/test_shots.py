"""Cuts on a labelled set of synthetic videos, and in a file."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.measurement import measure_video
from lumiere.curation.shots import CutFinder, shots_between
from tests.curation.labelled_shots import labelled_set, scene
from tests.video_factory import encode, numbered

THRESHOLD = CurateConfig().shot_threshold


def cuts_in(frames: np.ndarray, fps: int = 24) -> list[int]:
    """The frames that start a shot."""
    finder = CutFinder()
    for frame in frames:
        finder.add(frame)
    return finder.cuts(THRESHOLD, [Fraction(i, fps) for i in range(len(frames))])


def test_precision_and_recall_on_the_labelled_set():
    found = missed = false = 0
    for videos in labelled_set(4).values():
        for frames, cuts in videos:
            answer = set(cuts_in(frames))
            found += len(answer & set(cuts))
            missed += len(set(cuts) - answer)
            false += len(answer - set(cuts))
    assert found > 20
    assert found / (found + missed) > 0.97, "recall"
    assert found / (found + false) > 0.93, "precision"


@pytest.mark.parametrize("lengths", [(10, 74), (10, 10, 64), (4, 5, 40), (30, 4)])
def test_shots_may_be_short(lengths):
    generator = np.random.default_rng(4)
    shots = [scene(generator, length, 1.0, 0.0) for length in lengths]
    assert cuts_in(np.concatenate(shots)) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("fps", [2, 24, 60])
def test_an_insert_is_two_cuts_however_short(length, fps):
    for seed in range(2):
        generator = np.random.default_rng(seed)
        frames, other = (scene(generator, 30, speed, 0.0) for speed in (1.0, 1.0))
        frames[12 : 12 + length] = other[:length]
        assert cuts_in(frames, fps) == [12, 12 + length]


@pytest.mark.parametrize(
    ("length", "fps", "is_flash"),
    [(1, 24, True), (3, 24, True), (7, 60, True), (4, 24, False), (1, 2, False), (12, 60, False)],
)
@pytest.mark.parametrize("color", [(250, 250, 250), (0, 0, 0), (230, 30, 20)])
def test_one_colour_is_a_flash_for_an_eighth_of_a_second(length, fps, is_flash, color):
    frames = scene(np.random.default_rng(3), 40, 0.5, 0.0)
    frames[12 : 12 + length] = color
    assert cuts_in(frames, fps) == ([] if is_flash else [12, 12 + length])


def test_flapping_wings_are_no_cut():
    wings = np.random.default_rng(0).integers(0, 2, (8, 6, 1)) * (150, 90, 40) + (90, 20, 10)
    wings = wings.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = []
    for width in [14, 30, 44, 50, 48, 22, 16, 14, 26, 44, 48, 50] * 3:
        frame, left = np.full((64, 64, 3), 235, np.uint8), (64 - width) // 2
        frame[4:60, left : left + width] = cv2.resize(
            wings, (width, 56), interpolation=cv2.INTER_AREA
        )
        frames.append(frame)
    assert cuts_in(np.stack(frames), 16) == []


def test_a_video_without_a_cut_is_one_shot():
    assert cuts_in(scene(np.random.default_rng(0), 20, 1.0, 0.0)) == []
    assert cuts_in(numbered(1)) == []
    times = [Fraction(i, 25) for i in range(20)]
    assert shots_between(times, [], Fraction(4, 5)) == [(Fraction(0), Fraction(4, 5))]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30_000, 1001)])
def test_shots_of_a_file_start_at_the_exact_time_of_a_frame(tmp_path, fps):
    parts = [numbered(count, subject) for subject, count in ((1, 30), (2, 12), (3, 40))]
    for part, color in zip(parts, ((250, 40, 40), (30, 30, 220), (40, 200, 60)), strict=True):
        part[:, :40] = part[:, :40] // 4 + np.array(color, np.uint8) // 2
    encode(tmp_path / "a.mp4", np.concatenate(parts), fps)
    shots = measure_video(tmp_path, "a.mp4", (), THRESHOLD, tmp_path / "scratch").shots
    assert shots == ((0, 30 / fps), (30 / fps, 42 / fps), (42 / fps, 82 / fps))


def test_a_flash_of_three_frames_is_no_cut_at_any_film_rate() -> None:
    draw = np.random.default_rng(0)
    scene = draw.integers(0, 200, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for rate in (Fraction(24000, 1001), Fraction(24), Fraction(30000, 1001)):
        finder = CutFinder()
        for i in range(40):
            finder.add(np.full_like(scene, 255) if 20 <= i < 23 else np.roll(scene, i, axis=1))
        assert finder.cuts(27.0, [i / rate for i in range(40)]) == []
