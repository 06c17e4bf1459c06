"""Spoils real videos step by step, to find out which scores notice (`lumiere.evaluation.study.sensitivity`).

A degradation changes the frames of each video, or it shows the video of another subject.
Its steps grow, and they are nested: a stronger step repeats what a weaker one did and adds to it.
All randomness comes from a seed, so that equal calls return equal bytes.

Lengths are pixels of a frame that is 32 pixels high; they grow with the frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import cv2
import numpy as np

from lumiere.evaluation.temporal.consistency import check_frames
from lumiere.evaluation.videos import LazyVideos, Video

UNIT_HEIGHT = 32  # frames of this height have lengths in their own pixels
TILES = 8  # per side; torn shapes are swapped tiles
FLAT_RANGE = 8  # grey levels; a pixel whose 3 × 3 neighbours differ by no more is flat
WARP_GRID = 4  # nodes per side of a smooth random displacement


class Touches(StrEnum):
    """The aspect of a degraded set that a person notices."""

    LOOK = "look"
    TIME = "time"
    TEXT = "text"


@dataclass(frozen=True)
class Step:
    """One strength of a degradation: its name in tables, and the number behind it."""

    label: str
    amount: float


# (frames, amount, rng) → frames; uint8 (t, h, w, 3) of the same shape
FrameFunction = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
# (videos, amount, rng) → for each video, the index of the one that is shown in its place;
# indices from `videos` on mean videos of other subjects
SourceFunction = Callable[[int, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Degradation:
    """A way to spoil a set of videos.

    Attributes:
        key: its name in files: lower-case letters and underscores.
        label: its name in tables.
        touches: what a person notices.
        steps: from weak to strong.
        frames: changes the frames of a video; None if `sources` does the work.
        sources: changes which video is shown for which subject; None if `frames` does the work.
    """

    key: str
    label: str
    touches: frozenset[Touches]
    steps: tuple[Step, ...]
    frames: FrameFunction | None = None
    sources: SourceFunction | None = None


def degrade_frames(
    degradation: Degradation, amount: float, frames: np.ndarray, seed: int = 0, index: int = 0
) -> np.ndarray:
    """Spoil the frames of one video.

    Args:
        degradation: one that changes frames.
        amount: of a step.
        frames: uint8 (t, h, w, 3).
        seed, index: of the random numbers; `index` is the video's place in its set.

    Returns:
        uint8 (t, h, w, 3), a new array.

    Raises:
        ValueError: if the degradation changes sets only, or `frames` is another array.
    """
    if degradation.frames is None:
        raise ValueError(f"{degradation.key} changes sets of videos; use degrade_set")
    frames = check_frames(frames, at_least=1)
    if frames.shape[-1] != 3:
        raise ValueError(f"frames of {frames.shape[-1]} channels; expected RGB")
    return degradation.frames(frames, amount, _generator(degradation, seed, index))


def degrade_set(
    degradation: Degradation,
    amount: float,
    videos: Sequence[Video],
    others: Sequence[Video],
    seed: int = 0,
) -> LazyVideos:
    """Spoil a set of videos. Names, captions and subjects stay in their places.

    Args:
        degradation: of `DEGRADATIONS`.
        amount: of a step.
        videos: one per subject.
        others: as many videos of other subjects, at least.
        seed: of all random numbers.

    Returns:
        A set of the same length; each video is read and spoilt when it is asked for.

    Raises:
        ValueError: if there are fewer than 2 videos, or fewer others than videos.
    """
    count = len(videos)
    if count < 2 or len(others) < count:
        raise ValueError(
            f"{count} videos and {len(others)} of other subjects; expected at least 2, and as many "
            "others as videos"
        )
    if degradation.sources is not None:
        sources = degradation.sources(count, amount, _generator(degradation, seed, 0))
        readers = [partial(_stand_in, videos, others, i, int(k)) for i, k in enumerate(sources)]
        return LazyVideos(readers)
    return LazyVideos(
        [partial(_spoilt, degradation, amount, videos, i, seed) for i in range(count)]
    )


def is_flat(frame: np.ndarray) -> np.ndarray:
    """Return which pixels differ from their 8 neighbours by at most 8 grey levels: uint8 (h, w, c) →
    boolean (h, w).
    """
    window = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(frame, window).astype(np.int16) - cv2.erode(frame, window)
    return spread.reshape(*frame.shape[:2], -1).max(axis=-1) <= FLAT_RANGE


def _generator(degradation: Degradation, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(degradation.key.encode()), index])


def _spoilt(
    degradation: Degradation, amount: float, videos: Sequence[Video], index: int, seed: int
) -> Video:
    video = videos[index]
    frames = degrade_frames(degradation, amount, video.frames, seed, index)
    return replace(video, frames=frames)


def _stand_in(videos: Sequence[Video], others: Sequence[Video], index: int, source: int) -> Video:
    shown = videos[source] if source < len(videos) else others[source - len(videos)]
    return replace(videos[index], frames=shown.frames)


# --- what spoils the look ----------------------------------------------------------------------------


def _noise(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return _rounded(frames + sigma * rng.normal(size=frames.shape))


def _speckle(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noisy = _noise(frames, sigma, rng)
    flat = np.stack([is_flat(frame) for frame in frames])  # (t, h, w)
    return np.where(flat[..., None], noisy, frames)


def _blur(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    deviation = sigma * _unit(frames)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])


def _jpeg(frames: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    decoded = []
    for frame in frames:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert picture is not None
        decoded.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return np.stack(decoded)


def _torn(frames: np.ndarray, swapped: float, rng: np.random.Generator) -> np.ndarray:
    """Move tiles of a grid in a circle, the same ones in all frames."""
    h, w = frames.shape[1] // TILES, frames.shape[2] // TILES
    if not h or not w:
        raise ValueError(f"frames of {frames.shape[1:3]} pixels; expected at least {TILES} a side")
    tile_numbers = rng.permutation(TILES * TILES)[: int(swapped)]
    torn = frames.copy()
    for target, source in zip(tile_numbers, np.roll(tile_numbers, 1), strict=True):
        y, x = divmod(int(target), TILES)
        v, u = divmod(int(source), TILES)
        tile = frames[:, v * h : (v + 1) * h, u * w : (u + 1) * w]
        torn[:, y * h : (y + 1) * h, x * w : (x + 1) * w] = tile
    return torn


def _melted(frames: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    shift = length * _unit(frames) * _displacement(frames, rng)
    return np.stack([_moved(frame, shift) for frame in frames])


def _hue(frames: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    turned = []
    for frame in frames:
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(degrees / 2)) % 180  # OpenCV counts 2° steps
        turned.append(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return np.stack(turned)


def _pale(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    return _rounded((1 - share) * frames + share * grey[..., None])


def _cast(frames: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    """Add a colour of this length, in grey levels, that does not change the brightness."""
    colour = rng.normal(size=3)
    colour -= colour.mean()
    return _rounded(frames + levels * colour / np.abs(colour).max())


# --- what spoils the motion --------------------------------------------------------------------------


def _shuffled(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Move a share of the frames in a circle of random order."""
    positions = rng.permutation(len(frames))[: round(share * len(frames))]
    shuffled = frames.copy()
    shuffled[positions] = frames[np.roll(positions, 1)]
    return shuffled


def _frozen(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hold the last frame that is left, once this share of the changes is dropped at the end."""
    kept = len(frames) - round(share * (len(frames) - 1))
    frozen = frames.copy()
    frozen[kept:] = frames[kept - 1]
    return frozen


def _stutter(frames: np.ndarray, hold: float, rng: np.random.Generator) -> np.ndarray:
    """Show every n-th frame n times."""
    step = int(hold)
    return frames[np.arange(len(frames)) // step * step]


def _reversed(frames: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return frames[::-1].copy()


def _jitter(frames: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each frame by a random distance of its own."""
    shifts = length * _unit(frames) * rng.normal(size=(len(frames), 2))
    shaken = []
    for frame, (dx, dy) in zip(frames, shifts, strict=True):
        matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
        size = frame.shape[1], frame.shape[0]
        shaken.append(cv2.warpAffine(frame, matrix, size, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(shaken)


def _flicker(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Change the brightness of each frame."""
    return _rounded(frames + sigma * rng.normal(size=(len(frames), 1, 1, 1)))


def _boiling(frames: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Deform each frame in its own way."""
    scale = length * _unit(frames)
    return np.stack([_moved(frame, scale * _displacement(frames, rng)) for frame in frames])


def _drift(frames: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Deform the video more and more, up to `length` in the last frame."""
    field = length * _unit(frames) * _displacement(frames, rng)
    weights = np.linspace(0, 1, len(frames))
    moved = [_moved(frame, weight * field) for frame, weight in zip(frames, weights, strict=True)]
    return np.stack(moved)


# --- what spoils the set -----------------------------------------------------------------------------


def _other_subject(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    sources = np.arange(count)
    replaced = rng.permutation(count)[: round(share * count)]
    sources[replaced] += count
    return sources


def _swapped(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    sources = np.arange(count)
    positions = rng.permutation(count)[: max(2, round(share * count))]
    sources[positions] = np.roll(positions, 1)
    return sources


def _collapsed(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    sources = np.arange(count)
    order = rng.permutation(count)
    sources[order[1 : 1 + round(share * (count - 1))]] = order[0]
    return sources


# --- helpers -----------------------------------------------------------------------------------------


def _unit(frames: np.ndarray) -> float:
    return frames.shape[1] / UNIT_HEIGHT


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _displacement(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random displacement, float32 (h, w, 2); its root mean square is 1 px."""
    h, w = frames.shape[1:3]
    nodes = rng.normal(size=(WARP_GRID, WARP_GRID, 2)).astype(np.float32)
    field = cv2.resize(nodes, (w, h), interpolation=cv2.INTER_CUBIC)
    return field / np.sqrt(np.square(field).sum(axis=-1).mean())


def _moved(frame: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Read a frame at places that lie `shift` away: uint8 (h, w, 3), (h, w, 2) → (h, w, 3)."""
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    x, y = columns + shift[..., 0], rows + shift[..., 1]
    x, y = x.astype(np.float32), y.astype(np.float32)
    return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _steps(template: str, amounts: Sequence[float]) -> tuple[Step, ...]:
    return tuple(Step(template.format(f"{amount:g}"), amount) for amount in amounts)


def _shares(amounts: Sequence[float]) -> tuple[Step, ...]:
    return tuple(Step(f"{100 * amount:.0f} %", amount) for amount in amounts)


_QUARTERS = (0.25, 0.5, 0.75, 1.0)
_SIGMAS = (2, 5, 10, 20)
_LENGTHS = (0.5, 1, 2, 4)
_LOOK = frozenset({Touches.LOOK})
_TIME = frozenset({Touches.TIME})
_BOTH = _LOOK | _TIME
_LOOK_AND_TEXT = frozenset({Touches.LOOK, Touches.TEXT})
_TEXT = frozenset({Touches.TEXT})

DEGRADATIONS: dict[str, Degradation] = {
    degradation.key: degradation
    for degradation in (
        Degradation("noise", "noise", _BOTH, _steps("σ {}", _SIGMAS), _noise),
        Degradation(
            "speckle", "noise in flat areas only", _BOTH, _steps("σ {}", _SIGMAS), _speckle
        ),
        Degradation("blur", "blur", _LOOK, _steps("σ {} px", (0.5, 1, 1.5, 2)), _blur),
        Degradation("jpeg", "JPEG", _LOOK, _steps("quality {}", (75, 50, 25, 10)), _jpeg),
        Degradation("torn", "torn shapes", _LOOK, _steps("{} of 64 tiles", (4, 8, 16, 32)), _torn),
        Degradation("melted", "bent shapes", _LOOK, _steps("{} px", _LENGTHS), _melted),
        Degradation("hue", "hue turned", _LOOK, _steps("{}°", (15, 30, 60, 120)), _hue),
        Degradation("pale", "colours fade", _LOOK, _shares(_QUARTERS), _pale),
        Degradation("cast", "colour cast", _LOOK, _steps("{} levels", _SIGMAS), _cast),
        Degradation("shuffled", "frames shuffled", _TIME, _shares(_QUARTERS), _shuffled),
        Degradation("frozen", "frozen", _TIME, _shares(_QUARTERS), _frozen),
        Degradation(
            "stutter", "stutter", _TIME, _steps("{} frames held", (2, 4, 8)), _stutter
        ),
        Degradation("reversed", "reversed", _TIME, (Step("reversed", 1.0),), _reversed),
        Degradation("jitter", "jitter", _TIME, _steps("{} px", _LENGTHS), _jitter),
        Degradation("flicker", "brightness flickers", _TIME, _steps("σ {}", _SIGMAS), _flicker),
        Degradation("boiling", "shapes boil", _BOTH, _steps("{} px", _LENGTHS), _boiling),
        Degradation("drift", "shapes drift", _BOTH, _steps("{} px", _LENGTHS), _drift),
        Degradation(
            "swapped", "captions swapped", _TEXT, _shares(_QUARTERS), sources=_swapped
        ),
        Degradation(
            "other_subject", "another subject", _LOOK_AND_TEXT, _shares((0.125, 0.25, 0.5, 1.0)),
            sources=_other_subject,
        ),
        Degradation(
            "collapsed", "one video for all", _LOOK_AND_TEXT, _shares(_QUARTERS),
            sources=_collapsed,
        ),
    )
}  # fmt: skip
