"""Measures drift away from a given first frame, and leakage into pixels that should be kept.

Image to video starts from the user's picture; over time, colours wander and the subject becomes
another. Both are curves over the frames. Motion moves them too (a subject that turns its head looks
less like the first frame), so the floor is the same number of the real clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lumiere.data.pixel_values import psnr
from lumiere.evaluation.temporal.consistency import check_frames, known_region_psnr, unit_rows

BLOCKS = 4  # blocks a side whose mean colours are compared
TAIL = 0.25  # the last share of the frames, averaged for the end of the curve


@dataclass(frozen=True)
class Drift:
    """A distance to the first frame (or to the given picture) over time.

    Attributes:
        curve: float64 (t,), one value per frame.
        slope: of the straight line fitted to the curve, per second.
        change: the mean of the last quarter of the frames minus the first value.
    """

    curve: np.ndarray
    slope: float
    change: float


@dataclass(frozen=True)
class Leakage:
    """The amounts by which known pixels were changed.

    Attributes:
        psnr: in dB over all known pixels; infinite if all are equal.
        worst_frame: the frame with the lowest PSNR.
        worst_frame_psnr: that PSNR.
        worst_pixel_error: the largest error of a value, 0 to 255.
        worst_pixel: its (frame, row, column).
    """

    psnr: float
    worst_frame: int
    worst_frame_psnr: float
    worst_pixel_error: int
    worst_pixel: tuple[int, int, int]


def colour_drift(frames: np.ndarray, fps: float, reference: np.ndarray | None = None) -> Drift:
    """Measure how far colours wander from the first frame: CIE 1976 ΔE of 4 × 4 blocks.

    Mean colours (sRGB, D65; OpenCV's Lab, right to about 0.15) of the blocks are compared and their
    ΔE averaged; about 2.3 is just noticeable. Averaging over a block takes most of the noise away:
    on 32 × 32 clips, noise of 5, 10 and 20 grey levels raises `change` of moving clips from 3.1 to
    3.4, 3.8 and 4.6, and of still ones from 0 to 0.7, 1.4 and 2.7. Noise of one strength in all
    frames changes the slope of moving clips by at most 3 %.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames of at least 4 × 4 pixels.
        fps: frames per second, above 0.
        reference: uint8 (h, w, 3), the given picture; the first frame by default.

    Raises:
        ValueError: for other arrays, or another frame rate.
    """
    frames = check_frames(frames, at_least=2)
    if min(frames.shape[1:3]) < BLOCKS or frames.shape[-1] != 3:
        raise ValueError(f"frames of shape {frames.shape}; expected RGB of at least {BLOCKS} px")
    start = frames[0] if reference is None else check_frames(reference[None], at_least=1)[0]
    if start.shape != frames.shape[1:]:
        raise ValueError(f"a picture of shape {start.shape} for frames of {frames.shape[1:]}")
    lab = _block_colours(start)
    distances = [np.linalg.norm(_block_colours(frame) - lab, axis=-1).mean() for frame in frames]
    return drift_of(np.array(distances, np.float64), fps)


def identity_drift(features: np.ndarray, fps: float, reference: np.ndarray | None = None) -> Drift:
    """Measure how far the subject becomes another: 1 − cosine to the first frame's features.

    Args:
        features: (t, d) of the frames, at least 2.
        fps: frames per second, above 0.
        reference: (d,), the features of the given picture; of the first frame by default.

    Raises:
        ValueError: for other shapes, features that are zero, NaN or infinite, or another frame
            rate.
    """
    unit = unit_rows(features, at_least=2)
    start = unit[0] if reference is None else unit_rows(np.atleast_2d(reference), at_least=1)[0]
    if start.shape != unit.shape[1:]:
        raise ValueError(f"a picture of {len(start)} features for frames of {unit.shape[1]}")
    return drift_of(np.clip(1.0 - unit @ start, 0.0, 2.0), fps)


def drift_of(curve: np.ndarray, fps: float) -> Drift:
    """Sum a curve of distances up as its slope per second and its change to the end.

    Args:
        curve: (t,), at least 2 values.
        fps: frames per second, above 0.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"a frame rate of {fps}; expected a number above 0")
    seconds = np.arange(len(curve)) / fps
    slope = np.polynomial.Polynomial.fit(seconds, curve, 1).convert(domain=[-1, 1]).coef
    tail = max(1, round(TAIL * len(curve)))
    return Drift(
        curve=curve,
        slope=float(slope[1]) if len(slope) > 1 else 0.0,
        change=float(curve[-tail:].mean() - curve[0]),
    )


def measure_leakage(frames: np.ndarray, known: np.ndarray, known_mask: np.ndarray) -> Leakage:
    """Measure how far known pixels (M = 1) were changed, in the mean and at the worst place.

    Args:
        frames: uint8 (t, h, w, 3), generated.
        known: uint8 (t, h, w, 3), the video that the known pixels come from.
        known_mask: (t, h, w), non-zero where known.

    Raises:
        ValueError: if the shapes differ, or the mask has no known pixel.
    """
    frames, known = check_frames(frames, at_least=1), check_frames(known, at_least=1)
    mask = np.asarray(known_mask).astype(bool)
    overall = known_region_psnr(frames, known, mask)  # checks the shapes and the mask too
    squares, counts = np.zeros(len(frames)), mask.sum(axis=(1, 2))
    worst, worst_pixel = -1, (0, 0, 0)
    for k, frame in enumerate(frames):
        error = cv2.absdiff(frame, known[k]).reshape(*mask.shape[1:], -1)
        squares[k] = np.square(error[mask[k]].astype(np.float64)).sum()
        largest = np.where(mask[k], error.max(axis=-1).astype(int), -1)
        row, column = np.unravel_index(int(largest.argmax()), largest.shape)
        if largest[row, column] > worst:
            worst, worst_pixel = int(largest[row, column]), (k, int(row), int(column))
    channels = frames.shape[-1]
    known_frames = np.flatnonzero(counts)
    errors = squares[known_frames] / (counts[known_frames] * channels)
    worst_frame = int(errors.argmax())
    return Leakage(
        psnr=overall,
        worst_frame=int(known_frames[worst_frame]),
        worst_frame_psnr=psnr(float(errors[worst_frame]), value_range=255),
        worst_pixel_error=worst,
        worst_pixel=worst_pixel,
    )


def _block_colours(frame: np.ndarray) -> np.ndarray:
    """Return the mean colours of the blocks in CIE Lab: float32 (4, 4, 3)."""
    # Mean values first: Lab is not linear, so the mean of noisy Lab values would be off.
    blocks = cv2.resize(
        frame.astype(np.float32) / 255.0, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA
    )
    return cv2.cvtColor(blocks, cv2.COLOR_RGB2LAB)
