"""Drift from the first frame, and leakage into known pixels: closed forms."""

import math

import numpy as np
import pytest

from lumiere.evaluation.temporal.consistency import known_region_psnr
from lumiere.evaluation.temporal.drift import (
    colour_drift,
    drift_of,
    identity_drift,
    measure_leakage,
)


def greys(levels):
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def lightness(level):
    """CIE L* of an sRGB grey."""
    linear = ((level / 255 + 0.055) / 1.055) ** 2.4
    return 116 * np.cbrt(linear) - 16


def test_a_straight_curve_has_its_slope():
    drift = drift_of(0.5 + 0.25 * np.arange(16), fps=8)
    assert drift.slope == pytest.approx(2)  # per second
    assert drift.change == pytest.approx(0.25 * 13.5)  # the mean of the last four of 16 frames
    assert drift_of(np.full(16, 3.0), fps=8).slope == pytest.approx(0, abs=1e-9)


def test_colour_drift_is_delta_e():
    levels = np.arange(100, 164, 4)
    drift = colour_drift(greys(levels), fps=16)
    # OpenCV interpolates a table, which is off by up to 0.15.
    np.testing.assert_allclose(drift.curve, lightness(levels) - lightness(100), atol=0.15)
    expected = np.polyfit(np.arange(16) / 16, lightness(levels), 1)[0]
    assert drift.slope == pytest.approx(expected, rel=0.01)


def test_colour_drift_starts_at_the_given_picture():
    still = greys([120] * 8)
    assert colour_drift(still, 16).change == 0
    given = colour_drift(still, 16, reference=greys([100])[0])
    np.testing.assert_allclose(given.curve, lightness(120) - lightness(100), atol=0.15)
    assert given.slope == pytest.approx(0, abs=1e-6)


def test_noise_moves_blocks_little():
    rng = np.random.default_rng(0)
    noisy = np.clip(128 + rng.normal(0, 10, (16, 64, 64, 3)), 0, 255).round().astype(np.uint8)
    drift = colour_drift(noisy, 16)
    assert drift.change < 1.5 and abs(drift.slope) < 1


def test_identity_drift_is_one_minus_cosine():
    angles = np.radians([0, 30, 60, 90])
    features = 5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(identity_drift(features, 4).curve, 1 - np.cos(angles), atol=1e-12)
    other = identity_drift(features, 4, reference=np.array([0.0, 2.0]))
    np.testing.assert_allclose(other.curve, 1 - np.sin(angles), atol=1e-12)
    assert other.change == pytest.approx(-1)


def test_leakage_names_the_worst_frame_and_pixel():
    rng = np.random.default_rng(0)
    known = rng.integers(50, 200, (4, 8, 8, 3), dtype=np.uint8)
    mask = np.zeros((4, 8, 8), np.uint8)
    mask[:, :4] = 1
    frames = known.copy()
    frames[:, 4:] = 0  # not known: of no account
    perfect = measure_leakage(frames, known, mask)
    assert perfect.psnr == math.inf and perfect.worst_pixel_error == 0
    frames[1, :4] += 2
    frames[2, 3, 5, 1] += 40
    leak = measure_leakage(frames, known, mask)
    mean_error = (32 * 3 * 2**2 + 40**2) / (4 * 32 * 3)
    assert leak.psnr == pytest.approx(10 * math.log10(255**2 / mean_error))
    assert known_region_psnr(frames, known, mask) == leak.psnr
    assert (leak.worst_pixel_error, leak.worst_pixel) == (40, (2, 3, 5))
    worst = 40**2 / (32 * 3)
    assert leak.worst_frame == 2
    assert leak.worst_frame_psnr == pytest.approx(10 * math.log10(255**2 / worst))


def test_frames_without_known_pixels_do_not_count():
    frames = greys([10, 20])
    mask = np.zeros((2, 16, 16))
    mask[1] = 1
    leak = measure_leakage(frames, greys([90, 25]), mask)
    assert (leak.worst_frame, leak.worst_pixel_error) == (1, 5)
    assert leak.psnr == leak.worst_frame_psnr


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        colour_drift(greys([1]), 16)
    with pytest.raises(ValueError, match="frame rate"):
        colour_drift(greys([1, 2]), 0)
    with pytest.raises(ValueError, match="picture"):
        colour_drift(greys([1, 2]), 16, reference=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 4"):
        colour_drift(greys([1, 2])[:, :2], 16)
    with pytest.raises(ValueError, match="frame 1"):
        identity_drift(np.array([[1.0, 2.0], [np.nan, 1.0]]), 16)
    with pytest.raises(ValueError, match="picture"):
        identity_drift(np.eye(3), 16, reference=np.ones(2))
    with pytest.raises(ValueError, match="no known pixel"):
        measure_leakage(greys([1]), greys([1]), np.zeros((1, 16, 16)))
    with pytest.raises(ValueError, match="agree"):
        measure_leakage(greys([1]), greys([1, 2]), np.ones((1, 16, 16)))
