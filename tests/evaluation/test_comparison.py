"""Scores of sets that are known: real videos, noise, other subjects, wrong captions, blank ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lumiere.evaluation.build_report import blank_videos, build_facts, build_wall, counts
from lumiere.evaluation.comparison import Comparison, compare, measure_sets
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measure_videos import Networks, distance_frames, measure, other_times
from lumiere.evaluation.measurements import Measured, feature_sets, frames_of
from lumiere.evaluation.scores import flat
from lumiere.evaluation.videos import LazyVideos, Video, evenly
from tests.evaluation.small_videos import FPS, Patches, drifting

NUM, T = 8, 12  # a window is two blocks of `drifting`, so that both windows begin alike
Frames = Callable[[int], np.ndarray]


def window(index: int, which: int = 0) -> np.ndarray:
    return drifting(index, 2 * T)[which * T : (which + 1) * T]


def noisy(index: int, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(index).normal(0, sigma, (T, 24, 24, 3))
    return np.clip(window(index) + noise, 0, 255).astype(np.uint8)


class Judge:
    """Knows what a video shows by its first pixels, and a caption by its number."""

    name, preprocessing, trained_on, held_out_accuracy = "oracle", "none", "", ""

    def __init__(self, captions: Sequence[str] = ()) -> None:
        self.captions = frozenset(captions)
        firsts = [window(index, which)[0, :2] for which in (0, 1) for index in range(NUM)]
        self.firsts = np.stack(firsts).astype(float)

    def encode_frames(self, frames: np.ndarray) -> np.ndarray:
        distance = np.abs(self.firsts - frames[0, :2]).sum(axis=(1, 2, 3))
        return np.eye(NUM)[[int(distance.argmin()) % NUM] * len(frames)]

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        return np.eye(NUM)[[int(sentence.rpartition(" ")[2]) for sentence in sentences]]


def match(
    generated: Frames,
    captions: Sequence[str] | None = None,
    partners: Sequence[int | None] | None = None,
    num_real: int = NUM,
    windows: bool = True,
    length: int = 4,
    again: Frames = lambda index: window(index, 1),
) -> MatchedSets:
    """Sets in memory: video i shows subject i; there are `num_real` real subjects.

    `length` frames are enough where nothing is asked about time; the optical flow takes a while.
    `again` gives the other windows.
    """

    def video(name: str, frames: np.ndarray, caption: str) -> Video:
        return Video(name, frames[:length], FPS, caption, (caption,) if caption else ())

    own = [f"subject {index}" for index in range(max(NUM, num_real))]
    said = own if captions is None else captions
    return MatchedSets(
        generated=LazyVideos(
            [lambda i=i: video(f"made {i}", generated(i), said[i]) for i in range(NUM)]  # type: ignore[misc]
        ),
        real=LazyVideos(
            [lambda i=i: video(f"real {i}", window(i), own[i]) for i in range(num_real)]  # type: ignore[misc]
        ),
        other_windows={
            i: lambda i=i: video(f"real {i}", again(i), own[i])  # type: ignore[misc]
            for i in range(num_real if windows else 0)
        },
        partners=list(range(NUM)) if partners is None else list(partners),
        real_captions=[(caption,) for caption in own[:num_real]],
        num_frames=length,
        size=(24, 24),
        fps=FPS,
    )


class Contrasts(Patches):
    """Patches around grey: features of different scenes are nearly orthogonal."""

    def embed(self, frames: np.ndarray) -> np.ndarray:
        return super().embed(frames) - 0.5


def compared(sets: MatchedSets, judge: Judge | None = None, backbone: Any = None) -> Comparison:
    backbone = backbone or Patches()
    networks = Networks(backbone, judge=judge)  # type: ignore[arg-type]
    return compare(sets, measure_sets(sets, networks), networks)


def outside(comparison: Comparison) -> dict[str, bool | None]:
    return {score.key: score.outside_floor() for score in comparison.scores}


def test_the_other_window_of_real_videos_is_not_told_apart() -> None:
    found = compared(match(lambda index: window(index, 1), length=T))
    values = flat(found.scores)
    for key in ("independent_frechet", "independent_kernel", "independent_similarity"):
        assert values[key] == pytest.approx(values[f"{key}_floor"], rel=1e-6, abs=1e-9), key
        assert outside(found)[key] is False
    told = {key for key, is_outside in outside(found).items() if is_outside}
    assert not told  # nor is anything in time
    assert (
        found.pairs is not None and counts(match(lambda i: window(i)), found)["num_matched"] == NUM
    )


@pytest.mark.parametrize("sigma", [20, 60])
def test_noise_is_told_apart_in_space_and_time(sigma: float) -> None:
    found = compared(match(lambda index: noisy(index, sigma), length=T))
    told = outside(found)
    assert told["frame_change"] and told["background_noise"] and told["flicker"]
    assert told["high_frequency_share"]


def test_other_subjects_are_far_and_the_worst_comes_first() -> None:
    def later(index: int) -> np.ndarray:
        return drifting(index, T + 1)[1:]

    def found(generated: Frames) -> Comparison:
        return compared(match(generated, again=later), backbone=Contrasts())

    others, same = found(lambda index: window((index + 1) % NUM)), found(window)
    far, near = flat(others.scores), flat(same.scores)
    assert far["independent_similarity"] < 0.3 < 0.8 < far["independent_similarity_floor"]
    assert outside(others)["independent_similarity"] is True
    assert near["independent_similarity"] == pytest.approx(1)
    assert outside(same)["independent_similarity"] is False
    one_wrong = match(lambda index: window(3 if index == 7 else index))
    assert build_wall(one_wrong, compared(one_wrong))[0].name == "made 7"


def test_captions_that_fit_are_found_and_swapped_ones_are_not() -> None:
    captions = [f"subject {index}" for index in range(NUM)]
    sets = match(lambda index: window(index))
    found = compared(sets, Judge(captions))
    values = flat(found.scores)
    assert values["retrieval_r1"] == values["text_alignment"] == 1
    assert values["retrieval_median_rank"] == 1
    assert next(s for s in found.scores if s.key == "retrieval_r1").saturated
    swapped = compared(match(lambda index: window(index), captions[::-1]), Judge(captions))
    values = flat(swapped.scores)
    assert values["retrieval_r1"] == values["text_alignment"] == 0
    assert values["retrieval_r1_floor"] == 1  # the real videos still fit theirs
    assert set(swapped.ranks.values()) == {NUM}  # ties count against the video


@pytest.mark.parametrize(
    ("captions", "judge", "why"),
    [
        ([""] * NUM, Judge(), "need captions"),
        (None, Judge(["something else"]), "trained on none of these captions"),
    ],
)
def test_text_that_cannot_be_judged_is_left_out_and_told(
    captions: list[str] | None, judge: Judge, why: str
) -> None:
    found = compared(match(lambda index: window(index), captions), judge)
    assert not any(score.group == "text" for score in found.scores)
    [remark] = [left for left in found.left_out if left.name == "Text alignment"]
    assert why in remark.why


def test_without_counterparts_all_real_videos_are_the_reference() -> None:
    white = np.full((T, 24, 24, 3), 255, np.uint8)
    sets = match(lambda index: white, partners=[None] * NUM, num_real=2 * NUM)
    found = compared(sets)
    assert len(found.measured.real) == 2 * NUM
    values = flat(found.scores)
    assert values["independent_frechet"] > values["independent_frechet_floor_other_subjects"] > 0
    assert "independent_similarity" not in values and found.pairs is None
    remarks = {left.name: left.why for left in found.left_out}
    assert (
        "no generated video has the name"
        in remarks["Similarity with the real video of its caption"]
    )
    assert "motion_mismatch" not in values


def test_without_other_windows_other_times_are_the_floor() -> None:
    sets = match(lambda index: 255 - window(index), windows=False)
    found = compared(sets)
    values = flat(found.scores)
    assert values["independent_frechet"] > values["independent_frechet_floor"] > 0
    backbone: Any = Patches()
    facts = build_facts(sets, found, Networks(backbone))
    assert (
        "Floor",
        "The floor of a distance compares other frames of the same real videos.",
    ) in facts


def test_blank_videos_are_counted_and_nothing_is_infinite() -> None:
    sets = match(lambda index: np.zeros((T, 24, 24, 3), np.uint8))
    found = compared(sets)
    values = flat(found.scores)  # it refuses numbers that are not finite
    assert counts(sets, found)["num_blank"] == NUM
    assert values["is_static"] == 1 and values["independent_frechet"] > 0
    # Features of zeros have no direction, so no cosine.
    assert "independent_similarity" not in values and "independent_consistency" not in values
    [remark] = blank_videos(found)
    assert remark.why.startswith(
        "8 of 8 show nothing (made 0, made 1, made 2, made 3, made 4, ...)"
    )


def test_the_judge_sees_as_many_frames_of_every_window() -> None:
    """Whatever part of them distances take: a mean of fewer frames would rank differently."""
    judge: Any = SimpleNamespace(encode_frames=lambda frames: frames.reshape(len(frames), -1) / 255)
    networks = Networks(Patches(), judge=judge)  # type: ignore[arg-type]
    video = Video("v", drifting(0, 2 * T), FPS, "", (), "")
    whole, short = measure(0, video, networks), measure(0, video, networks, whole=False)
    assert whole.text_space is not None and short.text_space is not None
    np.testing.assert_array_equal(whole.text_space, short.text_space)
    assert len(short.frames["patches"]) < len(whole.frames["patches"])


def test_a_score_that_is_absent_says_what_it_needs() -> None:
    found = compared(match(window, length=4))
    why = {remark.name: remark.why for remark in found.left_out}
    assert any("it needs 8 frames, and these videos have 4" in reason for reason in why.values())


def test_frames_of_a_distance_and_of_its_floor_are_apart() -> None:
    rows = np.arange(16)[:, None]
    taken, others = distance_frames(rows, False).ravel(), other_times(rows).ravel()
    assert len(taken) == len(others) == 4 and not set(taken) & set(others)
    assert distance_frames(rows, True).ravel().tolist() == [0, 5, 10, 15]
    assert distance_frames(rows[:3], False).ravel().tolist() == [0]
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4] and evenly(5, 1).tolist() == [0]
    with pytest.raises(ValueError, match="one frame"):
        other_times(rows[:1])


def test_every_video_of_a_distance_gives_equally_many_frames() -> None:
    """Without second windows, half of 16 frames could be taken; other subjects were embedded on 4."""

    def measured(index: int, num_frames: int) -> Any:
        return SimpleNamespace(index=index, frames={"network": np.eye(16)[:num_frames]})

    some = {index: measured(index, 16) for index in (0, 1)}
    found = Measured(generated=some, real=some, other_windows={}, others={2: measured(2, 4)})
    sets: Any = SimpleNamespace(partners=[0, 1])
    generated, real = feature_sets(sets, found, frames_of("network"))
    assert {len(rows) for rows in [*generated.features, *real.features]} == {4}
    assert real.windows == [0, 0, 0, 1, 1]
