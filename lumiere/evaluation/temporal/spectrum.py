"""Measures how fast pixels change: their spectrum over time, and period and phase of what repeats.

Lumiere makes a whole clip at once so that repeating motion (steps, wing beats) stays in time
(the paper shows x-t slices). A model that flickers has too much power at the highest frequencies;
a model that drifts or freezes has too little there.

Everything here follows from one small matrix, the products of all pairs of frames, so that a video
of any size is read once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lumiere.evaluation.temporal.consistency import check_frames

MIN_SPECTRUM_FRAMES = 8  # below, the highest quarter of the frequencies is empty
MIN_PERIOD_FRAMES = 5  # two periods of the shortest, and a neighbour to see that it is a peak
MIN_PERIODICITY = 0.5  # correlation from which a video counts as periodic
MULTIPLE = 0.9  # a lag this close to the best wins if it is shorter: 2 P repeats as well as P does
ROWS_VALUES = 4_000_000  # pixel values held as float32 at a time


@dataclass(frozen=True)
class Period:
    """A repeating motion: its period in frames, and the correlation of frames that lie one period
    apart (1 if they are equal).
    """

    frames: float
    strength: float


@dataclass(frozen=True)
class Phase:
    """A video's lag behind another, in turns in [−0.5, 0.5), and how far pixels agree on it.

    Attributes:
        turns: 0.25 means that the video reaches each state a quarter of a period later.
        coherence: 1 if both videos show the same oscillation, 0 if they share none.
    """

    turns: float
    coherence: float


def frame_products(frames: np.ndarray) -> np.ndarray:
    """Return the sums of products of frames, once each pixel's mean over time is subtracted.

    Args:
        frames: uint8 (t, h, w, c).

    Returns:
        float64 (t, t), symmetric; zero for a video that does not change. The spectrum and the
        autocorrelation of the pixels are functions of this matrix.
    """
    frames = check_frames(frames, at_least=1)
    t, height = frames.shape[:2]
    products = np.zeros((t, t))
    rows = max(1, ROWS_VALUES // max(1, frames[:, :1].size))
    for top in range(0, height, rows):
        values = frames[:, top : top + rows].reshape(t, -1).astype(np.float32)
        values -= values.mean(axis=0)
        products += values @ values.T
    return products


def temporal_spectrum(frames: np.ndarray) -> np.ndarray:
    """Return the power of the changes over time at each frequency, averaged over pixels.

    Each pixel's mean is subtracted and a Hann window is laid over time, so that the jump from the
    last frame back to the first does not count as fast motion. White noise has a flat spectrum,
    but for the lowest frequency, which holds about a sixth less.

    Args:
        frames: uint8 (t, h, w, c), at least 8 frames.

    Returns:
        float64 (t // 2,): shares that sum to 1, at the frequencies k / t cycles per frame for
        k = 1 … t // 2. NaN everywhere if nothing changes.

    Raises:
        ValueError: for other arrays or fewer frames.
    """
    frames = check_frames(frames, at_least=MIN_SPECTRUM_FRAMES)
    return _spectrum(frame_products(frames))


def high_frequency_share(spectrum: np.ndarray) -> float:
    """Return the share of the power in the highest quarter of the frequencies.

    White noise has 0.25 if the number of frames is divisible by 8 (a little more, because the
    lowest frequency holds less); smooth motion has a few per cent.

    Args:
        spectrum: from `temporal_spectrum`.
    """
    quarter = max(1, len(spectrum) // 4)
    return float(spectrum[-quarter:].sum())


def spectrum_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the total variation between two spectra: half the sum of absolute differences.

    Args:
        a, b: from `temporal_spectrum`, of videos with equally many frames.

    Returns:
        0 for equal spectra to 1 for spectra without a common frequency; NaN if one of the videos
        does not change.

    Raises:
        ValueError: if the lengths differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(
            f"spectra of {len(a)} and {len(b)} frequencies; cut the videos to equally many frames"
        )
    return float(np.abs(a - b).sum() / 2)


def find_period(frames: np.ndarray) -> Period | None:
    """Find the period of repeating motion: the lag at which frames are most like themselves.

    The autocorrelation of the pixels must have a peak of at least 0.5 at a lag of 2 frames to half
    the video, so that at least two periods are seen. Noise weakens the peak by its share of the
    power of the changes: once noise holds more than half, no period is found.

    Args:
        frames: uint8 (t, h, w, c).

    Returns:
        The period, finer than a frame (a parabola through the peak); None if the video does not
        repeat or has fewer than 5 frames.
    """
    frames = check_frames(frames, at_least=1)
    if len(frames) < MIN_PERIOD_FRAMES:
        return None
    return _period(frame_products(frames))


def phase_difference(frames: np.ndarray, reference: np.ndarray, period: float) -> Phase:
    """Measure by how much a periodic motion runs behind the same motion in another video.

    Args:
        frames, reference: uint8 (t, h, w, c) of one shape, at least one period long.
        period: in frames, above 1.

    Returns:
        The phase; NaN if one of the videos has no power at this period.

    Raises:
        ValueError: if the shapes differ, or the period does not fit into the video.
    """
    frames, reference = check_frames(frames, at_least=2), check_frames(reference, at_least=2)
    if frames.shape != reference.shape:
        raise ValueError(f"videos of shapes {frames.shape} and {reference.shape}; expected one")
    if not 1 < period <= len(frames):
        raise ValueError(f"a period of {period} frames; allowed: above 1, up to {len(frames)}")
    ours, theirs = _amplitudes(frames, period), _amplitudes(reference, period)
    norm = np.linalg.norm(ours) * np.linalg.norm(theirs)
    if norm == 0:
        return Phase(float("nan"), float("nan"))
    product = np.vdot(ours, theirs)  # conj(ours) · theirs: positive angle where ours is late
    turns = float(np.angle(product)) / (2 * np.pi)
    return Phase((turns + 0.5) % 1.0 - 0.5, float(abs(product) / norm))


def _spectrum(products: np.ndarray) -> np.ndarray:
    """Turn frame products into a spectrum: |Σ_k w_k x_k e_k|² = (w e)ᴴ (x xᵀ) (w e), summed over
    pixels.
    """
    t = len(products)
    window = np.sin(np.pi * np.arange(t) / t) ** 2  # periodic Hann
    frequencies = np.arange(1, t // 2 + 1) / t  # cycles per frame
    waves = window * np.exp(-2j * np.pi * frequencies[:, None] * np.arange(t))  # (t // 2, t)
    power = np.einsum("fi,ij,fj->f", waves, products, waves.conj()).real
    power = np.maximum(power, 0.0)
    total = power.sum()
    if total == 0:
        return np.full(len(power), np.nan)
    return power / total


def _period(products: np.ndarray) -> Period | None:
    correlation = _autocorrelation(products)
    peaks = []
    for lag in range(2, len(correlation) - 1):
        before, here, after = correlation[lag - 1 : lag + 2]
        if here >= MIN_PERIODICITY and before < here >= after:
            peaks.append(_peak(lag, before, here, after))
    if not peaks:
        return None
    best = max(peak.strength for peak in peaks)
    return next(peak for peak in peaks if peak.strength >= MULTIPLE * best)


def _peak(lag: int, before: float, here: float, after: float) -> Period:
    """Lay a parabola through three values: a period between two frames would look weak without."""
    shift = 0.5 * (before - after) / (before - 2 * here + after)
    height = here - 0.25 * (before - after) * shift
    return Period(lag + float(shift), float(min(1.0, height)))


def _autocorrelation(products: np.ndarray) -> np.ndarray:
    """Correlate the video with itself at lags 0 … t // 2 + 1, over the frames that overlap."""
    t, energy = len(products), np.diag(products)
    correlation = np.zeros(t // 2 + 2)
    for lag in range(len(correlation)):
        norm = np.sqrt(energy[: t - lag].sum() * energy[lag:].sum())
        if norm > 0:
            correlation[lag] = np.trace(products, offset=lag) / norm
    return correlation


def _amplitudes(frames: np.ndarray, period: float) -> np.ndarray:
    """Return each pixel's complex amplitude at a period, over a whole number of periods."""
    t = round(int(len(frames) / period) * period)
    values = frames[:t].reshape(t, -1).astype(np.float32)
    values -= values.mean(axis=0)
    return np.exp(-2j * np.pi * np.arange(t) / period).astype(np.complex64) @ values
