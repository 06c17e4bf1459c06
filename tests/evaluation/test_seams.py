"""Seams: what is measured on pairs of videos, and the ratios with their intervals and floors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lumiere import sample_files
from lumiere.evaluation.scores import LeftOut, Score, flat
from lumiere.evaluation.temporal.seams import (
    SeamRecord,
    consecutive_mse,
    measure_seams,
    missing_floor,
    seam_ratios,
    seam_scores,
)
from lumiere.sample_files import ClipSet, SetEntry

T, WINDOW, OVERLAP = 8, 4, 2
MULTIDIFFUSION = "seam_ratio_multidiffusion"
INDEPENDENT = "seam_ratio_independent"


def moving(num_frames: int = T, side: int = 6, seed: int = 0) -> np.ndarray:
    """A video that changes alike from frame to frame."""
    return np.random.default_rng(seed).integers(0, 100, (num_frames, side, side, 3), dtype=np.uint8)


def jumping(frames: np.ndarray, starts: Sequence[int], height: int = 100) -> np.ndarray:
    """The same video, brighter in every second window."""
    jumped = frames.copy()
    for start in starts:
        jumped[start : start + WINDOW] += np.uint8(height)
    return jumped


def seam_set(
    folder: Path,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    window_size: int = WINDOW,
    overlap: int = OVERLAP,
) -> ClipSet:
    """Pairs of videos, with and without MultiDiffusion."""
    clips = []
    for number, pair in enumerate(pairs):
        for multidiffusion, frames in zip((True, False), pair, strict=True):
            entry = SetEntry(
                prompt=f"fox {number}",
                mode="text_to_video",
                seed=number,
                fps=8,
                clip_id=f"fox{number}@0",
                subject=f"fox{number}.mp4",
                window_size=window_size,
                overlap=overlap if multidiffusion else 0,
                multidiffusion=multidiffusion,
            )
            clips.append((entry, frames))
    sample_files.write_set(folder, "seams", clips)
    return sample_files.read_set(folder, "seams")


def measured(folder: Path, count: int = 3) -> SeamRecord:
    videos = [moving(seed=seed) for seed in range(count)]
    return measure_seams(seam_set(folder, [(video, jumping(video, [4])) for video in videos]))


def by_key(scores: list[Score] | LeftOut) -> dict[str, Score]:
    assert not isinstance(scores, LeftOut), scores
    return {score.key: score for score in scores}


def test_the_errors_of_every_video_and_both_kinds_of_borders(tmp_path: Path) -> None:
    record = measured(tmp_path)
    assert record.borders == [3]  # (0, 4) and (4, 8)
    assert record.own_borders == [1, 3, 5]  # (0, 4), (2, 6) and (4, 8)
    assert record.prompts == ["fox 0", "fox 1", "fox 2"]
    for number in range(3):
        video = moving(seed=number)
        np.testing.assert_array_equal(record.multidiffusion[number], consecutive_mse(video))
        np.testing.assert_array_equal(
            record.independent[number], consecutive_mse(jumping(video, [4]))
        )


def test_a_jump_between_windows_raises_the_ratio_of_its_kind_alone(tmp_path: Path) -> None:
    record = measured(tmp_path)
    scores, each = by_key(seam_scores(record)), seam_ratios(record)
    assert 0.8 < scores[MULTIDIFFUSION].value < 1.25 < 4 < scores[INDEPENDENT].value
    gain = scores["seam_ratio_gain"]
    assert gain.value == pytest.approx(scores[INDEPENDENT].value / scores[MULTIDIFFUSION].value)
    assert "larger in 3 of 3" in gain.note
    for key, kind in ((MULTIDIFFUSION, "multidiffusion"), (INDEPENDENT, "independent")):
        interval = scores[key].interval
        assert interval is not None and len(each[kind]) == scores[key].num_videos == 3
        # Draws of the same video thrice are the widest that there are.
        assert min(each[kind]) - 1e-9 <= interval.low <= scores[key].value <= interval.high
        assert interval.high <= max(each[kind]) + 1e-9
    values = flat(scores.values())
    assert {MULTIDIFFUSION, INDEPENDENT, "seam_ratio_multidiffusion_own_borders"} <= set(values)


def test_the_gain_does_not_depend_on_what_the_videos_show(tmp_path: Path) -> None:
    """All videos jump at the border by themselves; without MultiDiffusion nothing is added."""
    videos = [jumping(moving(seed=seed), [4]) for seed in range(3)]
    scores = by_key(seam_scores(measure_seams(seam_set(tmp_path, [(v, v) for v in videos]))))
    assert scores[MULTIDIFFUSION].value > 4
    gain = scores["seam_ratio_gain"]
    assert gain.interval is not None
    assert gain.value == gain.interval.low == gain.interval.high == 1


def test_the_floor_is_the_middle_of_the_real_clips(tmp_path: Path) -> None:
    """Their edges flicker and their second half is longer; neither is measured."""
    video = moving()

    def real(entry: SetEntry) -> np.ndarray:
        frames = moving(2 * T, side=10, seed=9)
        frames[:T, 2:8, 2:8] = jumping(moving(seed=entry.seed), [4], height=50)
        return frames

    record = measure_seams(seam_set(tmp_path, [(video, video)] * 6), real)
    assert record.real is not None
    for number in range(6):
        expected = consecutive_mse(jumping(moving(seed=number), [4], height=50))
        np.testing.assert_array_equal(record.real[number], expected)
    score = by_key(seam_scores(record))[MULTIDIFFUSION]
    assert score.floor is not None and score.floor.interval is not None
    assert score.floor.value > score.value and score.outside_floor()


def test_real_clips_that_are_too_short_give_no_floor_and_the_reason(tmp_path: Path) -> None:
    video = moving()
    clips = seam_set(tmp_path, [(video, jumping(video, [4]))] * 3)
    record = measure_seams(clips, lambda entry: moving(T - 1 - entry.seed, seed=entry.seed))
    scores, alone = by_key(seam_scores(record)), by_key(seam_scores(measure_seams(clips)))
    assert scores == alone and scores[MULTIDIFFUSION].floor is None
    remark = missing_floor(record)
    assert remark is not None
    assert "shortest real clip has 5 frames and the generated ones have 8" in remark.why
    assert missing_floor(measure_seams(clips)) is None
    assert missing_floor(measure_seams(clips, lambda entry: moving(T))) is None


def test_a_single_video_has_no_interval(tmp_path: Path) -> None:
    assert all(
        score.interval is None for score in by_key(seam_scores(measured(tmp_path, 1))).values()
    )


@pytest.mark.parametrize("window_size", [1, T, T + 5])
def test_clips_of_one_window_are_left_out_with_the_reason(tmp_path: Path, window_size: int) -> None:
    clips = seam_set(tmp_path, [(moving(), moving())], window_size, overlap=0)
    left_out = seam_scores(measure_seams(clips))
    assert isinstance(left_out, LeftOut) and left_out.name == "Seams"
    assert f"in clips of {T} frames; borders between windows" in left_out.why


def test_still_clips_are_left_out_rather_than_infinite(tmp_path: Path) -> None:
    still = np.zeros((T, 6, 6, 3), np.uint8)
    clips = seam_set(tmp_path, [(still, jumping(still, [4]))] * 2)
    left_out = seam_scores(measure_seams(clips))
    assert isinstance(left_out, LeftOut) and "nothing moves inside the windows" in left_out.why


def test_a_set_that_is_not_pairs_of_one_kind_is_refused(tmp_path: Path) -> None:
    whole = seam_set(tmp_path, [(moving(), moving()), (moving(), moving(T + 1))])
    with pytest.raises(ValueError, match="clips of 8 to 9 frames; expected equal lengths"):
        measure_seams(whole)
    with pytest.raises(ValueError, match="with and without multidiffusion in turn"):
        measure_seams(ClipSet(whole.path, whole.entries[::-1]))
    with pytest.raises(ValueError, match="1 clips; expected pairs"):
        measure_seams(ClipSet(whole.path, whole.entries[:1]))
    with pytest.raises(ValueError, match="0 clips; expected pairs"):
        measure_seams(ClipSet(whole.path, []))
