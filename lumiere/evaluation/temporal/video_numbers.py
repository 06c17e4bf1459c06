"""All numbers of one video that need only its pixels, and its distances to the real clip.

`measure_frames` gives the numbers, `compare_frames` the distances; `TEMPORAL_SCORES` and
`PAIRED_SCORES` say what each key means.
"""

from __future__ import annotations

import math

import numpy as np

from lumiere.evaluation.scores import NOT_NEGATIVE, ZERO_TO_ONE, Better, Definition
from lumiere.evaluation.temporal.consistency import check_frames
from lumiere.evaluation.temporal.motion import (
    Flows,
    Motion,
    frame_change,
    has_large_motion,
    interpolation_smoothness,
    is_static,
    measure_background,
    measure_motion,
)
from lumiere.evaluation.temporal.spectrum import (
    MIN_SPECTRUM_FRAMES,
    Period,
    find_period,
    high_frequency_share,
    phase_difference,
    spectrum_distance,
    temporal_spectrum,
)

SMALLEST_MOTION = 0.01  # px a frame; keeps the logarithm of still videos finite
SMALLEST_CHANGE = 0.1  # grey levels
PERIOD_TOLERANCE = 0.15  # relative; a generated period this close to the real one is kept


TEMPORAL_SCORES: dict[str, Definition] = {
    "flicker": Definition(
        "Temporal flickering",
        Better.CLOSER,
        "",
        "VBench's formula: 1 − mean absolute change / 255. VBench scores still videos only (chosen "
        "by RAFT flow). Here all videos are scored, so motion lowers the score too: compare it "
        "with that of the real clips. Noise of σ grey levels on a still video lowers it by "
        "1.13 σ / 255.",
        bounds=ZERO_TO_ONE,
    ),
    "frame_change": Definition(
        "Change from frame to frame",
        Better.CLOSER,
        "grey levels",
        "The mean absolute change of a pixel value. Motion, flicker and noise all raise it: noise "
        "of σ on a still video adds 1.13 σ.",
        bounds=NOT_NEGATIVE,
    ),
    "motion_px": Definition(
        "Motion",
        Better.CLOSER,
        "px a frame",
        "The mean length of Farnebäck's optical flow at 64×64 pixels. It counts as 0 where the flow "
        "does not explain the change. Noise of 10 grey levels on a still video scores 0.006.",
        bounds=NOT_NEGATIVE,
    ),
    "motion_p95_px": Definition(
        "Motion, 95th percentile",
        Better.CLOSER,
        "px a frame",
        "The 95th percentile of the same lengths, over all pixels and pairs of frames.",
        bounds=NOT_NEGATIVE,
    ),
    "motion_share": Definition(
        "Share of moving pixels",
        Better.CLOSER,
        "",
        "The share of pixels whose flow is at least 0.1 px long and explains the change.",
        bounds=ZERO_TO_ONE,
    ),
    "is_static": Definition(
        "Videos that do not move",
        Better.CLOSER,
        "share",
        "The share of videos that move less than 0.03 px on average: to the next frame, over a "
        "quarter and over half of the video. Noise of up to 10 grey levels does not make a still "
        "video count as moving.",
        bounds=ZERO_TO_ONE,
        is_share=True,
    ),
    "large_motion": Definition(
        "Videos with large motion",
        Better.CLOSER,
        "share",
        "VBench's rule for the dynamic degree. Farnebäck's flow at 64×64 replaces RAFT, so this "
        "is a proxy.",
        bounds=ZERO_TO_ONE,
        is_share=True,
    ),
    "interpolation_smoothness": Definition(
        "Smoothness",
        Better.CLOSER,
        "",
        "Every second frame is predicted from its two neighbours along Farnebäck's flow; 1 means "
        "that the prediction is exact. VBench's motion smoothness predicts with the network AMT, "
        "so this is a proxy. Noise lowers it.",
        bounds=ZERO_TO_ONE,
    ),
    "background_noise": Definition(
        "Speckle in flat areas",
        Better.CLOSER,
        "grey levels",
        "What a Gaussian blur of 1 px removes in the flattest eighth of each frame: its deviation "
        "by the median, scaled so that white noise of σ scores σ.",
        bounds=NOT_NEGATIVE,
    ),
    "background_flicker": Definition(
        "Flicker in flat areas",
        Better.CLOSER,
        "grey levels",
        "The mean absolute change to the next frame, in the flattest eighth of each frame. Noise "
        "of σ adds 1.13 σ.",
        bounds=NOT_NEGATIVE,
    ),
    "high_frequency_share": Definition(
        "Power in the highest quarter of frequencies",
        Better.CLOSER,
        "",
        "A share of the spectrum of pixel values over time. White noise scores 0.25, so the score "
        "tends to 0.25 where noise makes up most of the change.",
        bounds=ZERO_TO_ONE,
    ),
    "period_s": Definition(
        "Period",
        Better.CLOSER,
        "s",
        "The lag of the highest peak of the pixels' autocorrelation, if that peak is at least 0.5. "
        "A video that does not repeat has no period. Noise hides the period if it makes up over "
        "half of the change.",
        bounds=NOT_NEGATIVE,
    ),
    "periodicity": Definition(
        "Periodicity",
        Better.CLOSER,
        "",
        "The correlation of frames that lie one period apart; 0 for a video that does not repeat.",
        bounds=ZERO_TO_ONE,
    ),
}

PAIRED_SCORES: dict[str, Definition] = {
    "motion_log_ratio": Definition(
        "Motion against the real clip",
        Better.CLOSER,
        "",
        "The natural logarithm of motion_px divided by that of the real clip of the same caption. "
        "Below 0, the video moves less.",
    ),
    "motion_mismatch": Definition(
        "Motion, distance to the real clip",
        Better.LOWER,
        "",
        "The absolute value of motion_log_ratio, so that too much and too little motion do not "
        "cancel out.",
        bounds=NOT_NEGATIVE,
    ),
    "frame_change_log_ratio": Definition(
        "Change from frame to frame against the real clip",
        Better.CLOSER,
        "",
        "The natural logarithm of frame_change divided by that of the real clip; 1 means 2.7 "
        "times the change.",
    ),
    "spectrum_distance": Definition(
        "Spectrum over time, distance to the real clip",
        Better.LOWER,
        "",
        "The total variation between the two spectra, from 0 to 1. A video that does not change "
        "has no spectrum.",
        bounds=ZERO_TO_ONE,
    ),
    "period_kept": Definition(
        "Periodic clips whose period is kept",
        Better.HIGHER,
        "share",
        "The share of the repeating real clips whose generated video repeats with the same period, "
        "within 15 %.",
        bounds=ZERO_TO_ONE,
        is_share=True,
    ),
    "period_mismatch_s": Definition(
        "Period, distance to the real clip",
        Better.LOWER,
        "s",
        "The absolute difference of the periods, where both videos repeat.",
        bounds=NOT_NEGATIVE,
    ),
    "phase_coherence": Definition(
        "Agreement of the oscillation",
        Better.HIGHER,
        "",
        "How far the pixels oscillate like those of the real clip, at its period and up to one "
        "common shift in time: from 0 to 1, where the real clip repeats.",
        bounds=ZERO_TO_ONE,
    ),
}


def measure_frames(frames: np.ndarray, fps: float) -> dict[str, float]:
    """Measure one video.

    Args:
        frames: uint8 (t, h, w, 3), at least 1 frame.
        fps: frames per second, above 0.

    Returns:
        A number for each key of `TEMPORAL_SCORES`. NaN where the video does not allow it: changes
        of a single frame, the spectrum of fewer than 8 frames or of a video that never changes,
        the period of a video that does not repeat.

    Raises:
        ValueError: for other arrays, or another frame rate.
    """
    frames = _check(frames, fps)
    values = dict.fromkeys(TEMPORAL_SCORES, math.nan)
    background = measure_background(frames)
    values["background_noise"] = background.noise
    values["background_flicker"] = background.flicker
    if len(frames) < 2:
        return values
    change = frame_change(frames)
    values["frame_change"] = change
    values["flicker"] = 1.0 - change / 255.0
    flows = Flows(frames)
    values |= _motion_values(measure_motion(flows))
    values["is_static"] = float(is_static(flows))
    values["large_motion"] = float(has_large_motion(flows, fps))
    if len(frames) >= 3:
        values["interpolation_smoothness"] = interpolation_smoothness(flows)
    if len(frames) >= MIN_SPECTRUM_FRAMES:
        values["high_frequency_share"] = high_frequency_share(temporal_spectrum(frames))
    period = find_period(frames)
    values["periodicity"] = 0.0
    if period is not None:
        values["period_s"] = period.frames / fps
        values["periodicity"] = period.strength
    return values


def compare_frames(generated: np.ndarray, real: np.ndarray, fps: float) -> dict[str, float]:
    """Measure how far a generated video moves like the real clip of its caption.

    The longer video is cut to the frames of the shorter one.

    Args:
        generated, real: uint8 (t, h, w, 3), at least 2 frames, both at this frame rate.
        fps: frames per second, above 0.

    Returns:
        A number for each key of `PAIRED_SCORES`; NaN where the videos do not allow it.

    Raises:
        ValueError: for other arrays, fewer frames or another frame rate.
    """
    count = min(len(generated), len(real))
    generated, real = _check(generated, fps)[:count], _check(real, fps)[:count]
    values = dict.fromkeys(PAIRED_SCORES, math.nan)
    ratio = _log_ratio(measure_motion(generated).mean, measure_motion(real).mean, SMALLEST_MOTION)
    values["motion_log_ratio"] = ratio
    values["motion_mismatch"] = abs(ratio)
    values["frame_change_log_ratio"] = _log_ratio(
        frame_change(generated), frame_change(real), SMALLEST_CHANGE
    )
    if count >= MIN_SPECTRUM_FRAMES:
        values["spectrum_distance"] = spectrum_distance(
            temporal_spectrum(generated), temporal_spectrum(real)
        )
    period = find_period(real)
    if period is not None:
        values |= _period_values(generated, real, period, fps)
    return values


def _motion_values(motion: Motion) -> dict[str, float]:
    return {
        "motion_px": motion.mean,
        "motion_p95_px": motion.percentile_95,
        "motion_share": motion.share,
    }


def _period_values(
    generated: np.ndarray, real: np.ndarray, period: Period, fps: float
) -> dict[str, float]:
    values = {"period_kept": 0.0}
    generated_period = find_period(generated)
    if generated_period is not None:
        difference = abs(generated_period.frames - period.frames)
        values["period_mismatch_s"] = difference / fps
        values["period_kept"] = float(difference <= PERIOD_TOLERANCE * period.frames)
    if generated.shape == real.shape:
        values["phase_coherence"] = phase_difference(generated, real, period.frames).coherence
    return values


def _log_ratio(value: float, reference: float, smallest: float) -> float:
    return math.log(max(value, smallest) / max(reference, smallest))


def _check(frames: np.ndarray, fps: float) -> np.ndarray:
    frames = check_frames(frames, at_least=1)
    if frames.shape[-1] != 3:
        raise ValueError(f"frames of {frames.shape[-1]} channels; expected RGB")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"a frame rate of {fps}; expected a number above 0")
    return frames
