"""Spectrum, period and phase over time: closed forms."""

import numpy as np
import pytest

from lumiere.evaluation.temporal.spectrum import (
    find_period,
    frame_products,
    high_frequency_share,
    phase_difference,
    spectrum_distance,
    temporal_spectrum,
)


def sine(period, num_frames=32, amplitude=60.0, delay=0.0, size=8):
    """Every pixel oscillates with one period; neighbours differ in phase."""
    offsets = np.linspace(0, 2 * np.pi, size * size * 3).reshape(1, size, size, 3)
    k = np.arange(num_frames)[:, None, None, None]
    values = 128 + amplitude * np.cos(2 * np.pi * (k - delay) / period + offsets)
    return values.round().astype(np.uint8)


def noise(num_frames=32, size=32, sigma=20):
    rng = np.random.default_rng(0)
    values = 128 + rng.normal(0, sigma, (num_frames, size, size, 3))
    return values.clip(0, 255).round().astype(np.uint8)


def test_products_give_the_spectrum_of_the_pixels():
    frames = noise(16, size=4)
    values = frames.reshape(16, -1).astype(float)
    values -= values.mean(axis=0)
    window = np.sin(np.pi * np.arange(16) / 16) ** 2
    power = (np.abs(np.fft.rfft(values * window[:, None], axis=0)) ** 2).sum(axis=1)[1:]
    np.testing.assert_allclose(temporal_spectrum(frames), power / power.sum(), rtol=1e-4)


def test_products_do_not_depend_on_the_rows_read_at_a_time(monkeypatch):
    frames = noise(12, size=10)
    whole = frame_products(frames)
    monkeypatch.setattr("lumiere.evaluation.temporal.spectrum.ROWS_VALUES", 1)
    np.testing.assert_allclose(frame_products(frames), whole, rtol=1e-5, atol=0.1)


@pytest.mark.parametrize("num_frames", [16, 32, 80])
def test_white_noise_has_a_flat_spectrum(num_frames):
    spectrum = temporal_spectrum(noise(num_frames))
    assert spectrum.sum() == pytest.approx(1)
    flat = spectrum[1:] * (len(spectrum) - 1) / spectrum[1:].sum()
    np.testing.assert_allclose(flat, 1, atol=0.12)
    assert high_frequency_share(spectrum) == pytest.approx(0.255, abs=0.015)


def test_a_sine_has_its_power_at_its_frequency():
    spectrum = temporal_spectrum(sine(period=8))
    assert spectrum.argmax() == 32 // 8 - 1
    assert spectrum[2:5].sum() > 0.99  # the Hann window spreads it over three frequencies
    assert high_frequency_share(spectrum) < 0.001


def test_noise_moves_power_to_high_frequencies():
    shares = []
    for sigma in (0, 5, 20):
        frames = sine(period=16, size=32).astype(float)
        frames += np.random.default_rng(0).normal(0, sigma, frames.shape)
        frames = frames.clip(0, 255).round().astype(np.uint8)
        shares.append(high_frequency_share(temporal_spectrum(frames)))
    assert shares[0] < shares[1] < shares[2] < 0.25


def test_spectrum_distance_is_total_variation():
    slow, fast = temporal_spectrum(sine(16)), temporal_spectrum(sine(3))
    assert spectrum_distance(slow, slow) == 0
    assert spectrum_distance(slow, fast) == pytest.approx(1, abs=0.02)
    assert spectrum_distance(slow, fast) == spectrum_distance(fast, slow)
    between = spectrum_distance(slow, temporal_spectrum(noise()))
    assert 0.5 < between < 1
    with pytest.raises(ValueError, match="equally many"):
        spectrum_distance(slow, slow[:-1])


@pytest.mark.parametrize("period", [3, 4, 6.5, 8, 11, 15])
def test_a_sine_has_its_period(period):
    found = find_period(sine(period))
    assert found is not None
    assert found.frames == pytest.approx(period, abs=0.2)
    assert found.strength > 0.85


def test_a_repeated_cut_has_its_period():
    loop = noise(5, size=16)
    found = find_period(np.tile(loop, (4, 1, 1, 1)))
    assert found is not None
    assert found.frames == pytest.approx(5, abs=0.05)
    assert found.strength == pytest.approx(1, abs=1e-6)


def test_what_does_not_repeat_has_no_period():
    ramp = np.arange(32, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 4, np.uint8)
    for frames in (ramp, noise(), np.zeros((16, 8, 8, 3), np.uint8), sine(20), sine(2)[:4]):
        assert find_period(frames) is None


def test_noise_hides_a_period_once_it_holds_half_the_power():
    def noisy(sigma):
        frames = sine(8, amplitude=20, size=32).astype(float)  # a variance of 200
        frames += np.random.default_rng(0).normal(0, sigma, frames.shape)
        return frames.clip(0, 255).round().astype(np.uint8)

    weak = find_period(noisy(np.sqrt(100)))
    assert weak is not None
    assert weak.strength == pytest.approx(200 / 300, abs=0.05)
    assert weak.frames == pytest.approx(8, abs=0.1)
    assert find_period(noisy(np.sqrt(300))) is None


@pytest.mark.parametrize("delay", [0, 1, 2, -2, 3.5])
def test_a_delayed_sine_has_this_phase(delay):
    phase = phase_difference(sine(8, delay=delay), sine(8), period=8)
    assert phase.turns == pytest.approx(delay / 8, abs=0.005)
    assert phase.coherence == pytest.approx(1, abs=0.001)


def test_other_oscillations_do_not_cohere():
    phase = phase_difference(noise(32, size=8), sine(8), period=8)
    assert phase.coherence < 0.3
    still = np.zeros((32, 8, 8, 3), np.uint8)
    assert np.isnan(phase_difference(still, sine(8), period=8).turns)


def test_what_never_changes_has_no_spectrum():
    assert np.isnan(temporal_spectrum(np.full((16, 8, 8, 3), 201, np.uint8))).all()
    assert np.isnan(temporal_spectrum(np.full((80, 8, 8, 3), 201, np.uint8))).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        temporal_spectrum(sine(4, num_frames=7))
    with pytest.raises(ValueError, match="uint8"):
        temporal_spectrum(sine(4).astype(np.float32))
    with pytest.raises(ValueError, match="expected one"):
        phase_difference(sine(4), sine(4, num_frames=16), 4)
    with pytest.raises(ValueError, match="period"):
        phase_difference(sine(4), sine(4), 33)
