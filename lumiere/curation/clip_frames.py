"""Decodes the few frames of a clip that models look at, in a process that can be killed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.curation.frame_pass import SAMPLE_FPS
from lumiere.curation.probe import locate
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span
from lumiere.data.bars import Box, crop
from lumiere.data.remote import RemoteFolder
from lumiere.data.video_io import Ticks, code_version, decode_spans
from lumiere.errors import FetchError, VideoError

# If any of these changes, earlier answers of the models are not reused.
CODE = code_version(
    __name__,
    "lumiere.data.bars",
    "lumiere.data.decoder_signs",
    "lumiere.data.display",
    "lumiere.data.frame_times",
    "lumiere.data.key_frames",
    "lumiere.data.video_io",
    "lumiere.data.video_source",
    "lumiere.data.video_streams",
)
NUM_FRAMES = 4  # of each clip, evenly spread
PER_SECOND, MOST_FRAMES = 2, 28  # for models that follow a clip
SHORTER_SIDE = 384  # pixels, at most; what BLIP takes, and more than most CLIP models do


def clip_frames(
    raw: Path | RemoteFolder,
    name: str,
    spans: Sequence[Span],
    boxes: Sequence[Box | None],
    roots: tuple[Path, ...] = (),
    counts: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Decode evenly spread frames of some stretches of a video.

    Args:
        raw: the folder of raw videos.
        name: the file's path in it.
        spans: (start, end) of each stretch, in seconds from the first frame.
        boxes: the picture of each stretch within black bars: left, top, width and height in pixels.
        roots: other folders that links may lead to.
        counts: how many frames n of each stretch, in the middles of n equal parts; by default
            `NUM_FRAMES`.

    Returns:
        For each stretch, uint8 (n, h, w, 3), RGB, as shown and without bars. The shorter side has
        at most `SHORTER_SIDE` pixels.

    Raises:
        Rejection: if the file cannot be opened or decoded any more.
        FetchError: if a remote file cannot be fetched now.
    """
    try:
        path = locate(raw, name, roots)
    except OSError as error:
        raise FetchError(f"{name}: cannot be fetched: {error.strerror or error}") from None
    counts = counts or [NUM_FRAMES] * len(spans)
    picks = [_picks(span, count) for span, count in zip(spans, counts, strict=True)]
    ticks = [
        Ticks(Fraction(SAMPLE_FPS), start, end, frozenset(own), functools.partial(_fit, box=box))
        for (start, end), own, box in zip(spans, picks, boxes, strict=True)
    ]
    frames_of: dict[int, np.ndarray] = {}
    try:
        for place, decoded in decode_spans(path, ticks):
            order = sorted(set(picks[place]))
            rows = [min(order.index(pick), len(decoded.frames) - 1) for pick in picks[place]]
            frames_of[place] = decoded.frames[rows]
        return [frames_of[place] for place in range(len(spans))]
    except (VideoError, OSError, IndexError) as error:
        detail = f"Its frames cannot be read again ({error}); `dvc repro -f curate` tries again."
        raise Rejection(Reason.UNREADABLE, detail) from None


def frames_to_follow(span: Span) -> int:
    """Return how many frames show how a stretch goes on: about `PER_SECOND`, at most `MOST_FRAMES`.

    It is an odd multiple of `NUM_FRAMES`, so that `sparse` finds these among them.
    """
    wanted = min(MOST_FRAMES, float(span[1] - span[0]) * PER_SECOND)
    return NUM_FRAMES * (1 + 2 * math.ceil(max(0.0, wanted / NUM_FRAMES - 1) / 2))


def sparse(frames: np.ndarray) -> np.ndarray:
    """Return the `NUM_FRAMES` frames of a clip among those of `frames_to_follow`."""
    step = len(frames) // NUM_FRAMES
    return frames[step // 2 :: step]


def _picks(span: Span, num_frames: int) -> list[int]:
    """Return the ticks to look at; a very short stretch repeats some."""
    count = max(1, math.ceil((span[1] - span[0]) * SAMPLE_FPS))
    return [(2 * i + 1) * count // (2 * num_frames) for i in range(num_frames)]


def _fit(frame: np.ndarray, box: Box | None) -> np.ndarray:
    """Cut the bars off, and shrink the rest to `SHORTER_SIDE`; a smaller one stays as it is."""
    frame = crop(frame, box)
    height, width = frame.shape[:2]
    scale = SHORTER_SIDE / min(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
