"""All numbers of one video, and its distances to the real clip."""

import math

import numpy as np
import pytest

from lumiere.evaluation import temporal_flicker
from lumiere.evaluation.temporal.video_numbers import (
    PAIRED_SCORES,
    TEMPORAL_SCORES,
    compare_frames,
    measure_frames,
)
from tests.evaluation.test_motion import pan, still, with_noise
from tests.evaluation.test_spectrum import sine

BAD = [
    (np.zeros((4, 8, 8, 3), np.float32), 16, "uint8"),
    (np.zeros((4, 8, 8, 1), np.uint8), 16, "channels"),
    (np.zeros((0, 8, 8, 3), np.uint8), 16, "at least"),
    (np.zeros((4, 8, 8, 3), np.uint8), 0, "frame rate"),
    (np.zeros((4, 8, 8, 3), np.uint8), math.nan, "frame rate"),
]


def finite(values):
    return {key for key, value in values.items() if math.isfinite(value)}


def test_a_moving_video_has_every_number_but_a_period():
    frames = pan(1)
    values = measure_frames(frames, fps=16)
    assert list(values) == list(TEMPORAL_SCORES)
    assert finite(values) == set(TEMPORAL_SCORES) - {"period_s"}
    assert values["flicker"] == pytest.approx(temporal_flicker(frames), abs=1e-12)
    assert values["is_static"] == 0 and values["large_motion"] == 1


def test_the_period_is_in_seconds():
    for fps in (8, 16):
        values = measure_frames(sine(8, size=16), fps)
        assert values["period_s"] == pytest.approx(8 / fps, rel=0.02)
        assert values["periodicity"] > 0.95


def test_single_frames_and_pairs_have_what_they_can():
    assert finite(measure_frames(still(num_frames=1), 16)) == {"background_noise"}
    pair = finite(measure_frames(pan(1, num_frames=2), 16))
    missing = {"interpolation_smoothness", "high_frequency_share", "period_s"}
    assert pair == set(TEMPORAL_SCORES) - missing


def test_black_videos_stand_still():
    values = measure_frames(still(0), 16)
    assert (values["is_static"], values["flicker"], values["frame_change"]) == (1, 1, 0)
    assert (values["motion_px"], values["background_noise"], values["periodicity"]) == (0, 0, 0)
    assert math.isnan(values["high_frequency_share"]) and math.isnan(values["period_s"])


@pytest.mark.parametrize(("frames", "fps", "message"), BAD)
def test_bad_input_is_refused(frames, fps, message):
    with pytest.raises(ValueError, match=message):
        measure_frames(frames, fps)
    with pytest.raises(ValueError, match=message):
        compare_frames(frames, frames, fps)


def test_noise_worsens_what_sees_noise_step_by_step():
    steps = [measure_frames(with_noise(pan(1), sigma), 16) for sigma in (0, 2, 5, 10, 20)]
    for key, sign in {
        "frame_change": 1,
        "background_flicker": 1,
        "high_frequency_share": 1,
        "flicker": -1,
        "interpolation_smoothness": -1,
    }.items():
        values = [sign * step[key] for step in steps]
        assert values == sorted(values), key


def test_a_video_equals_itself():
    values = compare_frames(pan(1), pan(1), 16)
    assert list(values) == list(PAIRED_SCORES)
    for key in ("motion_log_ratio", "motion_mismatch", "frame_change_log_ratio"):
        assert values[key] == 0
    assert values["spectrum_distance"] == 0
    assert math.isnan(values["period_kept"])


def test_twice_the_motion_and_the_other_way_round():
    faster, slower = compare_frames(pan(2), pan(1), 16), compare_frames(pan(1), pan(2), 16)
    assert faster["motion_log_ratio"] == pytest.approx(math.log(2), abs=0.15)
    assert slower["motion_log_ratio"] == pytest.approx(-faster["motion_log_ratio"])
    assert slower["motion_mismatch"] == pytest.approx(abs(faster["motion_log_ratio"]))


def test_a_frozen_video_moves_far_too_little():
    frozen = np.repeat(pan(1)[:1], 16, axis=0)
    values = compare_frames(frozen, pan(1), 16)
    assert values["motion_log_ratio"] < -3 and math.isfinite(values["motion_log_ratio"])
    assert math.isnan(values["spectrum_distance"])


def test_a_period_is_kept_missed_or_lost():
    kept = compare_frames(sine(8), sine(8), 16)
    assert (kept["period_kept"], kept["period_mismatch_s"]) == (1, 0)
    assert kept["phase_coherence"] == pytest.approx(1)
    other = compare_frames(sine(12), sine(8), 16)
    assert other["period_kept"] == 0
    assert other["period_mismatch_s"] == pytest.approx(4 / 16, rel=0.1)
    lost = compare_frames(still(num_frames=32, size=8), sine(8), 16)
    assert lost["period_kept"] == 0
    assert math.isnan(lost["period_mismatch_s"])


def test_the_longer_video_is_cut():
    values = compare_frames(pan(1, num_frames=20), pan(1, num_frames=16), 16)
    assert values["motion_log_ratio"] == 0
    with pytest.raises(ValueError, match="at least 2"):
        compare_frames(pan(1), pan(1, num_frames=1), 16)
