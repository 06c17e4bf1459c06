"""Motion, noise in the background, static videos: closed forms on videos made for the purpose."""

import math

import cv2
import numpy as np
import pytest

from lumiere.evaluation import temporal_flicker
from lumiere.evaluation.temporal.motion import (
    Flows,
    frame_change,
    has_large_motion,
    interpolation_smoothness,
    is_static,
    measure_background,
    measure_motion,
)

SQUARE = slice(16, 48)


def texture(shape, seed=0):
    """A texture of a few pixels' grain, which flow can follow."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = cv2.GaussianBlur(np.pad(noise, 8, mode="wrap"), (0, 0), 2.0)[8:-8, 8:-8]
    smooth = (smooth - smooth.mean()) / smooth.std()
    return np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=-1)


def moving_square(step, num_frames=16, axis=2):
    """A textured square of 32 × 32 that moves `step` pixels a frame in 64 × 64."""
    frames = np.full((num_frames, 64, 64, 3), 128, np.uint8)
    picture = texture((128, 128))[:32, :32]
    for k in range(num_frames):
        left = round(16 + step * (k - num_frames // 2))
        frames[k, SQUARE, left : left + 32] = picture
    return frames if axis == 2 else np.ascontiguousarray(frames.swapaxes(1, 2))


def pan(step, num_frames=16, size=64):
    picture = texture((128, 128))
    frames = [np.roll(picture, round(step * k), axis=1)[:size, :size] for k in range(num_frames)]
    return np.stack(frames)


def with_noise(frames, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def still(value=128, num_frames=16, size=32):
    return np.full((num_frames, size, size, 3), value, np.uint8)


@pytest.mark.parametrize("step", [1, 2, -1])
def test_a_pan_moves_by_its_step(step):
    motion = measure_motion(pan(step))
    assert motion.moving == pytest.approx(abs(step), rel=0.1)
    assert motion.share > 0.8


@pytest.mark.parametrize("axis", [1, 2])
def test_a_square_moves_by_its_step_inside_and_nowhere_else(axis):
    flows = Flows(moving_square(1, axis=axis))
    lengths = flows.lengths(7, 8)
    assert np.median(lengths[22:42, 22:42]) == pytest.approx(1.0, rel=0.1)
    outside = lengths.copy()
    outside[8:56, 8:56] = 0
    assert outside.max() < 0.1
    assert measure_motion(flows).share == pytest.approx(0.25, abs=0.12)


def test_motion_counts_in_pixels_of_64_whatever_the_size():
    small = measure_motion(pan(1, size=64))
    picture = texture((128, 128))
    large = np.stack([np.roll(picture, 2 * k, axis=1) for k in range(16)])
    assert measure_motion(large).moving == pytest.approx(small.moving, rel=0.15)


@pytest.mark.parametrize("sigma", [2, 5, 10])
def test_noise_is_no_motion(sigma):
    noisy = with_noise(still(), sigma)
    assert measure_motion(noisy).mean < 0.02
    assert is_static(noisy)
    assert not has_large_motion(noisy, 16)


@pytest.mark.parametrize("sigma", [5, 10])
def test_noise_does_not_hide_motion(sigma):
    clean = measure_motion(pan(1)).mean
    noisy = with_noise(pan(1), sigma)
    assert measure_motion(noisy).mean == pytest.approx(clean, rel=0.15)
    assert not is_static(noisy)


def test_a_fade_is_no_motion():
    frames = np.stack([np.full((32, 32, 3), 100 + 5 * k, np.uint8) for k in range(16)])
    assert measure_motion(frames).mean == 0
    assert is_static(frames)


def test_slow_motion_is_not_static():
    slow = moving_square(0.125)  # a pixel in 8 frames
    assert not is_static(slow)
    assert is_static(np.repeat(slow[:1], 16, axis=0))


def test_only_fast_videos_have_large_motion():
    assert not has_large_motion(moving_square(0.5), fps=16)  # 1 px in the pairs at 8 fps
    assert has_large_motion(moving_square(1), fps=16)  # 2 px; the threshold is 1.5
    assert not has_large_motion(moving_square(1), fps=8)
    # Half as many frames a second may move twice as far.
    assert not has_large_motion(moving_square(2), fps=4)


def test_frame_change_is_the_mean_change():
    ramp = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 6, 3), 3, np.uint8)
    assert frame_change(ramp) == pytest.approx(3)
    assert frame_change(ramp[::-1]) == pytest.approx(3)
    noisy = with_noise(still(), 5)
    assert frame_change(noisy) == pytest.approx(2 * 5 / math.sqrt(math.pi), rel=0.02)
    assert 1 - frame_change(noisy) / 255 == pytest.approx(temporal_flicker(noisy), abs=1e-12)


def test_smooth_motion_interpolates_better_than_jerks():
    smooth, jerky = pan(1), pan(1)[[0, 3, 1, 6, 2, 9, 4, 12, 5, 15, 7, 10]]
    assert interpolation_smoothness(still()) == 1
    assert interpolation_smoothness(smooth) > 0.985
    assert interpolation_smoothness(jerky) < interpolation_smoothness(smooth) - 0.05
    assert interpolation_smoothness(with_noise(smooth, 10)) < interpolation_smoothness(smooth)


@pytest.mark.parametrize("sigma", [2, 5, 10])
def test_white_noise_gives_its_deviation(sigma):
    background = measure_background(with_noise(still(size=64), sigma))
    assert background.noise == pytest.approx(sigma, rel=0.06)
    assert background.flicker == pytest.approx(2 * sigma / math.sqrt(math.pi), rel=0.06)


def test_background_noise_ignores_objects_and_what_stays():
    frames = moving_square(0)
    assert measure_background(frames).noise < 0.1
    assert measure_background(frames).flicker == 0
    frozen = np.repeat(with_noise(still(num_frames=1), 5), 8, axis=0)
    assert measure_background(frozen).noise > 4
    assert measure_background(frozen).flicker == 0
    one = measure_background(frozen[:1])
    assert one.noise > 4 and math.isnan(one.flicker)


def test_black_videos_have_nothing():
    black = still(0)
    assert measure_motion(black).mean == 0
    assert math.isnan(measure_motion(black).moving)
    assert measure_background(black) == measure_background(black)
    assert measure_background(black).noise == 0
    assert is_static(black)


@pytest.mark.parametrize(
    "measure",
    [measure_motion, is_static, frame_change, interpolation_smoothness, measure_background],
)
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(measure, frames):
    with pytest.raises(ValueError, match="frames"):
        measure(frames)


def test_single_frames_are_refused():
    one = still(num_frames=1)
    for measure in (measure_motion, is_static, frame_change, interpolation_smoothness):
        with pytest.raises(ValueError, match="at least"):
            measure(one)
        with pytest.raises(ValueError, match="at least"):
            measure(Flows(one)) if measure is not frame_change else measure(one)
