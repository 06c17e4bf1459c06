"""Measures flicker, motion, and how well known pixels are kept, without a model."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from lumiere.data.optical_flow import FLOW_SIDE, flow_length
from lumiere.data.pixel_values import psnr


def temporal_flicker(frames: np.ndarray) -> float:
    """Compute VBench's temporal flickering: 1 − mean |frame(k+1) − frame(k)| / 255.

    A still picture scores 1, so read the score together with the motion. VBench scores still scenes
    only, where every change is flicker. Here motion lowers the score too, so compare it with the
    score of real clips.

    Args:
        frames: uint8 (t, h, w, c), at least 2 frames.

    Returns:
        In [0, 1].

    Raises:
        ValueError: if the dtype or rank differs, or there are fewer than 2 frames.
    """
    frames = _check_video(frames)
    difference = np.abs(frames[1:].astype(np.int16) - frames[:-1].astype(np.int16))
    return 1.0 - float(difference.mean(dtype=np.float64)) / 255.0


def motion_magnitude(frames: np.ndarray) -> float:
    """Return the mean length of the optical flow in pixels per frame, at 64 × 64 pixels.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames.
    """
    frames = _check_video(frames)
    grey = [cv2.cvtColor(_resize(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    lengths = [flow_length(before, after) for before, after in itertools.pairwise(grey)]
    return float(np.mean(lengths))


def known_region_psnr(frames: np.ndarray, known: np.ndarray, known_mask: np.ndarray) -> float:
    """Return the PSNR in dB over the known pixels (M = 1), which tells how well they were kept.

    Args:
        frames: uint8 (t, h, w, 3), generated.
        known: uint8 (t, h, w, 3), the video that the known pixels come from.
        known_mask: (t, h, w), non-zero where known.

    Returns:
        The PSNR; infinite if all known pixels are equal.

    Raises:
        ValueError: if the shapes differ, or the mask has no known pixel.
    """
    frames, known, mask = np.asarray(frames), np.asarray(known), np.asarray(known_mask).astype(bool)
    if frames.shape != known.shape or frames.shape[:3] != mask.shape:
        raise ValueError(f"shapes {frames.shape}, {known.shape} and mask {mask.shape} do not agree")
    if not mask.any():
        raise ValueError("the mask has no known pixel")
    error = frames[mask].astype(np.float64) - known[mask].astype(np.float64)
    return psnr(float(np.mean(error**2)), value_range=255)


def _check_video(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise ValueError(
            f"frames: {frames.dtype} of shape {frames.shape}; expected uint8 (t, h, w, c)"
        )
    if len(frames) < 2:
        raise ValueError(f"frames: {len(frames)}; a change over time needs at least 2")
    return frames


def _resize(frame: np.ndarray) -> np.ndarray:
    shrinks = min(frame.shape[:2]) > FLOW_SIDE
    return cv2.resize(
        frame,
        (FLOW_SIDE, FLOW_SIDE),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
