"""Computes the scores of a shot; `verdicts` applies the thresholds."""

from __future__ import annotations

import math
from typing import Protocol

import cv2
import numpy as np

from lumiere.data.bars import Box
from lumiere.data.optical_flow import FLOW_SIDE, flow_lengths

NUM_FLOW_PAIRS = 16
CELLS = 32  # of the grid in which sharpness is kept, on a side
# Up to 64 pairs, each is measured; of a longer shot every second to fourth, at least 4 a second.
DENSE_PAIRS = 64
LARGEST_STEP = 4
FAST_PERCENTILE = 95
NUM_SIGNATURE_FRAMES = 4

# Use one thread, because the pool has a process per core and sums must not depend on the number of
# cores.
cv2.setNumThreads(1)


class Frames(Protocol):
    """A sequence of t pictures, uint8 (64, 64, 3): an array, a list, or a `TickFrames`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> np.ndarray: ...


def shrink(frame: np.ndarray) -> np.ndarray:
    """Resize a frame by area, so that large frames do not alias: uint8 (h, w, 3) -> uint8 (64, 64, 3)."""
    return cv2.resize(frame, (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)


def sharpness(gray: np.ndarray) -> float:
    """Return the variance of the Laplacian at full size, uint8 (h, w); low for blurred pictures."""
    edges = cv2.Laplacian(gray, cv2.CV_16S)
    # The mean square less the square of the mean takes half as long as OpenCV's deviation.
    return cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - cv2.mean(edges)[0] ** 2


def sharpness_cells(gray: np.ndarray) -> np.ndarray:
    """Return the mean square of the Laplacian in each cell of a grid, float32 (32, 32) or less, of
    uint8 (h, w).
    """
    squares = np.square(cv2.Laplacian(gray, cv2.CV_32F))
    size = min(CELLS, gray.shape[1]), min(CELLS, gray.shape[0])
    return cv2.resize(squares, size, interpolation=cv2.INTER_AREA)


def sharpness_within(cells: np.ndarray, box: Box, size: tuple[int, int]) -> float:
    """Return the sharpness of the part of a picture within a box.

    The edge between a bar and the picture does not count, nor does the rest of a cell that it lies
    in. That is up to a thirtieth of the picture at each bar, so the result may differ by a few
    percent from that of the same picture without bars.

    Args:
        cells: from `sharpness_cells`; the mean of the Laplacian, nearly 0, is left out.
        box: left, top, width and height in pixels.
        size: the (width, height) of the picture.
    """
    left, top, width, height = box
    rows = _whole_cells(top, height, size[1], cells.shape[0])
    columns = _whole_cells(left, width, size[0], cells.shape[1])
    inner = cells[rows, columns]
    return float((inner if inner.size else cells).mean())


def _whole_cells(begin: int, length: int, side: int, count: int) -> slice:
    """Return which of `count` cells along a side of a picture lie in a part of it, two pixels or more
    from its ends, where these are not those of the picture.
    """
    end = begin + length
    first = math.ceil((begin + 2) * count / side) if begin > 0 else 0
    last = math.floor((end - 2) * count / side) if end < side else count
    return slice(first, max(first, last))


def motion(frames: Frames) -> float:
    """Return the mean length of the optical flow in pixels per frame, over up to 16 pairs of
    neighbouring frames.

    Lengths are averaged, because signed flow cancels where things swing back and forth.

    Args:
        frames: t of uint8 (64, 64, 3).
    """
    return motions(frames)[0]


def motions(frames: Frames) -> tuple[float, list[float]]:
    """Return the motion of a shot, and its motion curve: how fast the fastest twentieth of the
    picture moves from each frame to the next, in pixels.

    The mean says little about one small thing that crosses a noisy picture; the curve shows when it
    does. In a long shot one pair of frames stands for up to four.

    Args:
        frames: t of uint8 (64, 64, 3). A frame that is shown for long is there as one object many
            times, between which nothing moves.
    """
    num_pairs = len(frames) - 1
    if num_pairs < 1:
        return 0.0, []
    step = min(LARGEST_STEP, math.ceil(num_pairs / DENSE_PAIRS))
    means, curve = [], []
    for i in range(0, num_pairs, step):
        pairs = [(frames[k], frames[k + 1]) for k in range(i, min(i + step, num_pairs))]
        changing = [before is not after for before, after in pairs]
        mean, fast = _pair_motion(*pairs[changing.index(True)]) if any(changing) else (0.0, 0.0)
        means.append(mean * sum(changing) / len(pairs))
        curve += [fast * is_changing for is_changing in changing]
    picks = np.unique(np.linspace(0, len(means) - 1, NUM_FLOW_PAIRS).round().astype(int))
    return round(float(np.mean([means[i] for i in picks])), 5), curve


def _pair_motion(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the mean length of the flow between two frames, and that of the fastest twentieth."""
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    lengths = flow_lengths(*grays)
    return float(lengths.mean()), round(_percentile(lengths, FAST_PERCENTILE), 3)


def _percentile(values: np.ndarray, percent: float) -> float:
    """Return what `np.percentile` does, in a quarter of its time."""
    place = percent / 100 * (values.size - 1)
    first = int(place)
    near = np.partition(values.ravel(), (first, first + 1))
    low, high = float(near[first]), float(near[first + 1])
    return low + (high - low) * (place - first)


def signature(frames: Frames) -> np.ndarray:
    """Return the frames at 1/8, 3/8, 5/8 and 7/8 of the shot, uint8 (4, 64, 64, 3), by which
    duplicates are recognised.
    """
    picks = (2 * np.arange(NUM_SIGNATURE_FRAMES) + 1) * len(frames) // (2 * NUM_SIGNATURE_FRAMES)
    return np.stack([frames[i] for i in picks.tolist()])


def perceptual_hash(frame: np.ndarray) -> int:
    """Return a picture's coarse brightness in 64 bits: which of its 8x8 lowest cosine coefficients
    exceed their median.

    Args:
        frame: uint8 (64, 64, 3).
    """
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    # The first coefficient is the mean, which says nothing about the structure.
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")
