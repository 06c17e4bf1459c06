"""Measures motion without a sign, and the noise that is so easily taken for motion.

Optical flow answers every pair of frames, also one of pure noise: on a still picture with Gaussian
noise of 10 grey levels, Farnebäck's method finds 0.28 px a frame, nearly as much as real clips have
(0.32). So flow counts here only where it explains the change: carried back along the flow, the next
frame must be much closer to the frame than without. On the same noise this leaves 0.006 px.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from lumiere.data import optical_flow
from lumiere.data.optical_flow import FLOW_SIDE, squash
from lumiere.evaluation.temporal.consistency import check_frames

# Measured on 32 real clips of the sample data, frozen and moving, with Gaussian noise added:
# these values keep the real clips' motion within 12 % up to a deviation of 20 grey levels.
SMOOTHING = 1.0  # deviation in pixels; frames are blurred before flow is measured
NEIGHBOURHOOD = 2.0  # deviation in pixels of the window over which squared errors are compared
EXPLAINED = 0.5  # the flow must leave less than this share of the squared change
MIN_CHANGE = 4.0  # grey levels; a smaller change (root mean square) is noise or codec
MIN_LENGTH = 0.1  # pixels a frame; shorter flow is no motion
STATIC_LAGS = (1 / 16, 1 / 4, 1 / 2)  # of the video's length
STATIC_MOTION = 0.03  # pixels on average, at each of these lags

FLAT_SHARE = 1 / 8  # the share of pixels that counts as background: the flattest
FLAT_SCALE = 1.0  # pixels; flatness is the gradient at this scale,
FLAT_SPREAD = 2.0  # averaged over a window of this deviation, to keep away from edges
NOISE_SCALE = 1.0  # pixels; noise is what smoothing at this scale takes away
DEVIATION_OF_MEDIAN = 1.4826  # of a normal distribution: its deviation over its median |x|

# VBench's dynamic degree: more than 6 px on frames of 256 px in a quarter of the pairs at 8 fps.
LARGE_MOTION, LARGE_MOTION_SIDE, LARGE_MOTION_FPS = 6.0, 256.0, 8.0
TOP_SHARE = 0.05
LARGE_PAIRS = 4 / 16

_ROWS, _COLUMNS = np.mgrid[:FLOW_SIDE, :FLOW_SIDE].astype(np.float32)


@dataclass(frozen=True)
class Motion:
    """Flow that explains the change, in pixels a frame on frames squashed to 64 × 64.

    Attributes:
        mean: length averaged over all pixels and pairs; pixels that do not move count as 0.
        percentile_95: of the same lengths.
        share: the share of pixels that move, 0 to 1.
        moving: mean length over the moving pixels alone; NaN if none moves.
    """

    mean: float
    percentile_95: float
    share: float
    moving: float


@dataclass
class Flows:
    """Flow between frames of one video; each pair is computed once.

    Args:
        frames: uint8 (t, h, w, 3).
    """

    frames: np.ndarray
    _grey: list[np.ndarray] = field(init=False)
    _smooth: list[np.ndarray] = field(init=False)
    _known: dict[tuple[int, int], np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._grey = [
            squash(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
            for frame in check_frames(self.frames, at_least=1)
        ]
        self._smooth = [cv2.GaussianBlur(frame, (0, 0), SMOOTHING) for frame in self._grey]

    def __len__(self) -> int:
        return len(self._grey)

    def grey(self, index: int) -> np.ndarray:
        """Return a frame as uint8 (64, 64)."""
        return self._grey[index]

    def between(self, i: int, j: int) -> np.ndarray:
        """Return the flow from frame i to frame j, float32 (64, 64, 2) in pixels (x, y)."""
        if (i, j) not in self._known:
            self._known[i, j] = optical_flow.flow(self._smooth[i], self._smooth[j])
        return self._known[i, j]

    def lengths(self, i: int, j: int) -> np.ndarray:
        """Return the length of the flow where it explains the change, else 0: float32 (64, 64)."""
        flow = self.between(i, j)
        length = np.linalg.norm(flow, axis=-1)
        before, after = self._smooth[i].astype(np.float32), self._smooth[j].astype(np.float32)
        change = _local_mean((after - before) ** 2)
        left = _local_mean((_carry(after, flow) - before) ** 2)
        explained = (left < EXPLAINED * change) & (change > MIN_CHANGE**2) & (length > MIN_LENGTH)
        return np.where(explained, length, 0.0)


def measure_motion(frames: np.ndarray | Flows) -> Motion:
    """Measure motion by flow that explains the change.

    A pan to the left and one to the right score the same. Smooth areas do not count, even inside
    an object that moves: nothing can be seen to move there. Neither do changes of brightness, nor
    what changes by less than 4 grey levels (very dark or pale footage, very slow motion).

    Noise: a still video with Gaussian noise of 5, 10 and 20 grey levels scores 0.000, 0.006 and
    0.036 px (real clips: 0.14; unchecked flow: 0.11, 0.24 and 0.50). On moving clips, noise of up
    to 20 raises the mean by at most 12 %.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames; or their `Flows`.

    Raises:
        ValueError: for other arrays, or a single frame.
    """
    flows = _flows(frames, at_least=2)
    lengths = np.stack([flows.lengths(k, k + 1) for k in range(len(flows) - 1)])
    moves = lengths > 0
    return Motion(
        mean=float(lengths.mean()),
        percentile_95=float(np.percentile(lengths, 95)),
        share=float(moves.mean()),
        moving=float(lengths[moves].mean()) if moves.any() else float("nan"),
    )


def is_static(frames: np.ndarray | Flows) -> bool:
    """Return whether a video does not move: no lag shows 0.03 px of motion on average.

    Frames are compared with the next frame and with those a quarter and half of the video later:
    slow motion adds up over a lag, false flow of noise does not. Noise of up to 10 grey levels does
    not hide that a video does not move; at 20, half of the still videos count as moving. A video
    that only changes its colour or brightness is static. 5 % of the sample data's real clips are.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames; or their `Flows`.
    """
    flows = _flows(frames, at_least=2)
    for share in STATIC_LAGS:
        lag = max(1, round(share * len(flows)))
        starts = range(0, len(flows) - lag, max(1, lag // 2))
        if np.mean([flows.lengths(k, k + lag).mean() for k in starts]) >= STATIC_MOTION:
            return False
    return True


def frame_change(frames: np.ndarray) -> float:
    """Return the mean absolute change of a pixel value from one frame to the next, in grey levels.

    It is 255 (1 − `temporal_flicker`): motion, flicker and noise together. Gaussian noise of
    deviation σ on a still video adds 2 σ / √π = 1.13 σ.

    Args:
        frames: uint8 (t, h, w, c), at least 2 frames.
    """
    frames = check_frames(frames, at_least=2)
    total = 0.0
    for before, after in itertools.pairwise(frames):
        total += float(cv2.absdiff(before, after).mean(dtype=np.float64))
    return total / (len(frames) - 1)


def has_large_motion(frames: np.ndarray | Flows, fps: float) -> bool:
    """Return whether a video moves fast, by the rule of VBench's dynamic degree with another flow.

    VBench takes frames at 8 fps, averages the 5 % longest flow vectors of each pair, and calls a
    video dynamic if that exceeds 6 px (at 256 px) in a quarter of the pairs; its flow is RAFT.
    Here the flow is Farnebäck's where it explains the change, at 64 × 64, so this is a proxy and
    does not compare with published dynamic degrees.

    Args:
        frames: uint8 (t, h, w, 3), at least 2 frames; or their `Flows`.
        fps: frames per second.
    """
    flows = _flows(frames, at_least=2)
    step = max(1, round(fps / LARGE_MOTION_FPS))
    picked = range(0, len(flows), step)
    slower = max(1.0, LARGE_MOTION_FPS / fps)  # at fewer frames a second, things move further
    threshold = slower * LARGE_MOTION * FLOW_SIDE / LARGE_MOTION_SIDE
    needed = max(1, round(LARGE_PAIRS * len(picked)))
    count = 0
    for i, j in itertools.pairwise(picked):
        lengths = np.sort(flows.lengths(i, j), axis=None)
        count += lengths[-int(TOP_SHARE * lengths.size) :].mean() > threshold
    return count >= needed


def interpolation_smoothness(frames: np.ndarray | Flows) -> float:
    """Return how well every second frame follows from its neighbours: 1 − mean error / 255.

    VBench's motion smoothness interpolates with the network AMT. Here both neighbours are carried
    half way along Farnebäck's flow between them, on grey frames of 64 × 64, so this is a proxy.
    A still video scores 1; jerky motion and noise lower it (noise of deviation σ on still
    32 × 32 clips by 0.4 σ / 255).

    Args:
        frames: uint8 (t, h, w, 3), at least 3 frames; or their `Flows`.
    """
    flows = _flows(frames, at_least=3)
    errors = []
    for k in range(1, len(flows) - 1, 2):
        half = 0.5 * flows.between(k - 1, k + 1)
        before = _carry(flows.grey(k - 1).astype(np.float32), -half)
        after = _carry(flows.grey(k + 1).astype(np.float32), half)
        errors.append(np.abs(0.5 * (before + after) - flows.grey(k)).mean())
    return 1.0 - float(np.mean(errors)) / 255.0


@dataclass(frozen=True)
class Background:
    """Noise in the flattest eighth of the pixels, in grey levels.

    Attributes:
        noise: deviation of what smoothing takes away: speckle. White noise of deviation σ gives σ.
        flicker: mean absolute change to the next frame; NaN for a single frame.
    """

    noise: float
    flicker: float


def measure_background(frames: np.ndarray) -> Background:
    """Measure speckle and flicker where the picture is flat, mostly in the background.

    In each frame the eighth of the pixels with the smallest gradient counts as flat. There, noise
    is the deviation of frame − smoothed frame (Gaussian of 1 px), divided by what that filter
    leaves of white noise. The deviation is 1.4826 · median |·|, so that the edges and stripes of a
    picture with few flat pixels do not count as noise; speckle in less than half of them is not
    seen. Blotches wider than about 4 px are seen only where they flicker.

    On 16 frames of 32 × 32 pixels, 24 real clips of the sample data score 0.07 and 0.09; with noise
    of 0.5, 1, 2, 5, 10 and 20 grey levels their noise is 0.45, 1.2, 2.1, 5.1, 9.9 and 18.6.

    Args:
        frames: uint8 (t, h, w, c), at least 1 frame.
    """
    frames = check_frames(frames, at_least=1)
    residuals, changes = [], []
    for k, frame in enumerate(frames):
        flat = _flattest(frame)
        values = frame.astype(np.float32)
        residual = values - cv2.GaussianBlur(values, (0, 0), NOISE_SCALE).reshape(values.shape)
        residuals.append(np.abs(residual[flat]))
        if k + 1 < len(frames):
            changes.append(np.abs(frames[k + 1][flat].astype(np.float32) - values[flat]).mean())
    deviation = DEVIATION_OF_MEDIAN * float(np.median(np.concatenate(residuals)))
    noise = deviation / math.sqrt(_gain())
    return Background(noise, float(np.mean(changes)) if changes else float("nan"))


def _flattest(frame: np.ndarray) -> np.ndarray:
    """Return the flattest pixels of a frame: boolean (h, w)."""
    smooth = cv2.GaussianBlur(frame.astype(np.float32), (0, 0), FLAT_SCALE)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    slope = (across**2 + down**2).reshape(*frame.shape[:2], -1).sum(axis=-1)
    slope = cv2.GaussianBlur(slope, (0, 0), FLAT_SPREAD)
    count = max(1, int(FLAT_SHARE * slope.size))
    flat = np.zeros(slope.size, dtype=bool)
    flat[np.argpartition(slope, count - 1, axis=None)[:count]] = True
    return flat.reshape(slope.shape)


def _gain() -> float:
    """Return the share of white noise's power that is left once a smoothed copy is subtracted."""
    impulse = np.zeros((15, 15), np.float32)
    impulse[7, 7] = 1.0
    return float(np.square(impulse - cv2.GaussianBlur(impulse, (0, 0), NOISE_SCALE)).sum())


def _flows(frames: np.ndarray | Flows, at_least: int) -> Flows:
    if isinstance(frames, Flows):
        check_frames(frames.frames, at_least)
        return frames
    return Flows(check_frames(frames, at_least))


def _carry(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Read a picture at the ends of the flow vectors."""
    return cv2.remap(
        picture,
        _COLUMNS + flow[..., 0],
        _ROWS + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _local_mean(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), NEIGHBOURHOOD)
