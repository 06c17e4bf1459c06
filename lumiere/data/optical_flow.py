"""How far things move between two frames, by Farnebäck's dense optical flow."""

from __future__ import annotations

import cv2
import numpy as np

FLOW_FPS = 16  # frames per second between which curation measures flow
FLOW_SIDE = 64  # pixels; flow is measured on frames squashed to this square, so that videos compare

PYRAMID_SCALE, PYRAMID_LEVELS = 0.5, 3
WINDOW, ITERATIONS = 15, 3
POLYNOMIAL, POLYNOMIAL_SIGMA = 5, 1.2
FLAGS = 0


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
    flow = np.zeros((*before.shape, 2), np.float32)  # (h, w, 2)
    flow = cv2.calcOpticalFlowFarneback(
        before,
        after,
        flow,
        PYRAMID_SCALE,
        PYRAMID_LEVELS,
        WINDOW,
        ITERATIONS,
        POLYNOMIAL,
        POLYNOMIAL_SIGMA,
        FLAGS,
    )
    squares = flow * flow
    # The same to the bit as numpy's norm, which takes ten times as long.
    return np.sqrt(squares[..., 0] + squares[..., 1])
