"""Measures flicker, motion, consistency of features over time, and how well known pixels are kept."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from lumiere.data.optical_flow import flow_length, squash
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
    frames = check_frames(frames)
    difference = np.abs(frames[1:].astype(np.int16) - frames[:-1].astype(np.int16))
    return 1.0 - float(difference.mean(dtype=np.float64)) / 255.0


def motion_magnitude(frames: np.ndarray) -> float:
    """Return the mean length of the optical flow in pixels per frame, at 64 × 64 pixels.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames.
    """
    frames = check_frames(frames)
    grey = [cv2.cvtColor(squash(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    lengths = [flow_length(before, after) for before, after in itertools.pairwise(grey)]
    return float(np.mean(lengths))


def known_region_psnr(frames: np.ndarray, known: np.ndarray, known_mask: np.ndarray) -> float:
    """Return the PSNR in dB over the known pixels (M = 1), a measure of how well they were kept.

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
    squares = 0.0
    for frame, known_frame, known_here in zip(frames, known, mask, strict=True):  # to save memory
        error = frame[known_here].astype(np.float64) - known_frame[known_here].astype(np.float64)
        squares += float(np.sum(error**2))
    return psnr(squares / (mask.sum() * frames[0, 0, 0].size), value_range=255)


def subject_consistency(features: np.ndarray) -> float:
    """Compute VBench's subject consistency from the features of one video's frames.

    For each frame but the first, its cosine to the first and to the previous frame, each cut off
    at 0, are averaged; the score is the mean over frames (arXiv 2311.17982). VBench takes DINO
    ViT-B/16; with another backbone the number is a proxy and needs that backbone's name.

    Over a set, VBench pools the frames of all videos; with equally long videos that is the mean
    over videos. A still video scores 1, and noise that differs from frame to frame lowers the
    score, by as much as the backbone reacts to it.

    Args:
        features: (t, d), at least 2 frames.

    Returns:
        In [0, 1].

    Raises:
        ValueError: for other shapes, fewer frames, a row of zeros, NaN or infinity.
    """
    unit = unit_rows(features, at_least=2)
    to_first = np.maximum(0.0, unit[1:] @ unit[0])
    to_previous = np.maximum(0.0, (unit[1:] * unit[:-1]).sum(axis=1))
    return min(1.0, float((to_first + to_previous).mean() / 2))


def background_consistency(features: np.ndarray) -> float:
    """Compute VBench's background consistency: `subject_consistency` of CLIP ViT-B/32 features.

    VBench does not cut the background out; the features are those of whole frames.

    Args:
        features: (t, d), at least 2 frames.
    """
    return subject_consistency(features)


def aesthetic_quality(features: np.ndarray, weight: np.ndarray, bias: float) -> float:
    """Compute VBench's aesthetic quality: LAION's linear head on CLIP ViT-L/14 features, over 10.

    Args:
        features: (t, 768) of the frames, of any length; rows are normalised first.
        weight: (1, 768) or (768,), `weight` of the file sa_0_4_vit_l_14_linear.pth.
        bias: `bias` of that file.

    Returns:
        The mean over frames; about 0 to 1.

    Raises:
        ValueError: if the head does not fit the features, or a value is not finite.
    """
    unit = unit_rows(features, at_least=1)
    weight, bias = np.asarray(weight, np.float64).reshape(-1), float(np.asarray(bias).reshape(()))
    if len(weight) != unit.shape[1]:
        raise ValueError(
            f"a head for features of {len(weight)} values, features of {unit.shape[1]}; "
            "the LAION head needs CLIP ViT-L/14 (768)"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias)):
        raise ValueError("the aesthetic head holds NaN or infinite weights")
    return float((unit @ weight + bias).mean() / 10)


def unit_rows(features: np.ndarray, at_least: int) -> np.ndarray:
    """Check the features of a video's frames and divide each row by its length.

    Args:
        features: (t, d).
        at_least: the number of frames needed.

    Returns:
        float64 (t, d).

    Raises:
        ValueError: for other shapes, fewer frames, a row of zeros, NaN or infinity.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < at_least:
        raise ValueError(
            f"features of shape {features.shape}; expected (t, d) of at least {at_least} frames"
        )
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        frame = int(np.argmax(~(np.isfinite(lengths) & (lengths > 0))))
        raise ValueError(f"features of frame {frame} are zero, NaN or infinite")
    return features / lengths


def check_frames(frames: np.ndarray, at_least: int = 2) -> np.ndarray:
    """Return a video's frames as an array, once they are uint8 (t, h, w, c) and enough.

    Raises:
        ValueError: if the dtype or rank differs, a frame is empty, or there are fewer frames.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames: {frames.dtype} of shape {frames.shape}; expected uint8 (t, h, w, c)"
        )
    if len(frames) < at_least:
        raise ValueError(f"frames: {len(frames)}; this measure needs at least {at_least}")
    return frames
