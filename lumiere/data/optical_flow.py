"""Measures how far things move between two frames, by Farnebäck's dense optical flow."""

from __future__ import annotations

import cv2
import numpy as np

FLOW_FPS = 16  # frames per second between which curation measures flow
FLOW_SIDE = 64  # pixels; flow is measured on frames squashed to this square, so that videos compare

PYRAMID_SCALE, PYRAMID_LEVELS = 0.5, 3
WINDOW, ITERATIONS = 15, 3
POLYNOMIAL, POLYNOMIAL_SIGMA = 5, 1.2
FLAGS = 0


def squash(picture: np.ndarray) -> np.ndarray:
    """Resize a picture to the square on which flow is measured: uint8 (h, w) or (h, w, 3) ->
    (64, 64) or (64, 64, 3).
    """
    shrinks = min(picture.shape[:2]) > FLOW_SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (FLOW_SIDE, FLOW_SIDE), interpolation=interpolation)


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Measure where each pixel of a frame is in the next one: float32 (h, w, 2), right and down, in
    pixels.

    Args:
        before, after: uint8 or float32 (h, w), grey.
    """
    return cv2.calcOpticalFlowFarneback(
        before,
        after,
        np.zeros((*before.shape, 2), np.float32),
        PYRAMID_SCALE,
        PYRAMID_LEVELS,
        WINDOW,
        ITERATIONS,
        POLYNOMIAL,
        POLYNOMIAL_SIGMA,
        FLAGS,
    )


def flow_length(before: np.ndarray, after: np.ndarray) -> np.float32:
    """Measure the mean length of the flow from one frame to the next, in pixels.

    Lengths are averaged, not vectors: a pan to the left and one to the right score the same.

    Args:
        before, after: uint8 (h, w), grey.
    """
    return flow_lengths(before, after).mean()


def flow_lengths(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Measure the length of the flow from one frame to the next at every pixel, float32 (h, w), in
    pixels.

    Args:
        before, after: uint8 (h, w), grey.
    """
    vectors = flow(before, after)
    squares = vectors * vectors
    # The same to the bit as numpy's norm, which takes ten times as long.
    return np.sqrt(squares[..., 0] + squares[..., 1])
