"""Measures whether the windows of temporal MultiDiffusion are visible (Lumiere, section 3.3).

A long video is super-resolved in short windows. If the windows are made independently, each invents
its own details, and the video jumps where one window ends and the next begins. The paper shows this
as peaks of the mean squared error between consecutive frames. The seam ratio is that error at the
borders of windows divided by the error elsewhere; it is 1 if borders look like any other pair of
frames.

What is measured: the generate stage super-resolves the middles of text-to-video clips twice each,
with the same noise, in windows that MultiDiffusion reconciles and in windows that share no frame.
`generate.seam_window_size` may be shorter than the windows of finished videos, so that a short clip
has several borders, and `generate.seam_crop` smaller than the frame, so that it costs less.

What the clip shows may move more, or less, at the borders than elsewhere. Real clips at the same
pairs of frames show how much that is, and the paired ratio of the two kinds does not depend on it,
because both kinds enlarge the same clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lumiere.diffusion.windows import independent_windows, temporal_windows
from lumiere.evaluation.bootstrap import bootstrap, prediction_interval
from lumiere.evaluation.scores import NOT_NEGATIVE, Better, Floor, Interval, LeftOut, Score
from lumiere.plurals import counted
from lumiere.sample_files import ClipSet, SetEntry

KINDS = ("multidiffusion", "independent")


@dataclass(frozen=True)
class SeamRecord:
    """The measurements of a set of seams.

    Attributes:
        multidiffusion, independent: (n, t − 1), `consecutive_mse` of the same n videos.
        borders: of the windows that share no frame. Both kinds are measured there, as in the
            paper's figure.
        own_borders: of MultiDiffusion's overlapping windows.
        window_size, overlap: frames of a window, and frames that MultiDiffusion's windows share.
        prompts: n sentences.
        real: (n, t − 1), the same of the middles of the real clips that the prompts were taken
            from; None without real clips, or if one of them is shorter than the generated clips.
        num_real_frames: of the shortest real clip; None without real clips.
    """

    multidiffusion: np.ndarray
    independent: np.ndarray
    borders: list[int]
    own_borders: list[int]
    window_size: int
    overlap: int
    prompts: list[str]
    real: np.ndarray | None = None
    num_real_frames: int | None = None


def consecutive_mse(frames: np.ndarray) -> np.ndarray:
    """Return the mean squared error between consecutive frames.

    Args:
        frames: (t, h, w, c), uint8 in [0, 255] or float in [0, 1], at least 2 frames.

    Returns:
        float64 (t − 1,) on the scale of [0, 1]; entry i compares frames i and i + 1.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(
            f"frames of shape {frames.shape}; expected (t, h, w, c) with at least 2 frames"
        )
    white = 255.0 if frames.dtype == np.uint8 else 1.0
    values = frames.astype(np.float64) / white
    return ((values[1:] - values[:-1]) ** 2).mean(axis=(1, 2, 3))


def window_borders(windows: Sequence[tuple[int, int]], num_frames: int) -> list[int]:
    """Return the indices i for which frames i and i + 1 are not covered by the same windows.

    Args:
        windows: half-open (start, stop), as `lumiere.diffusion.windows.temporal_windows` gives
            them.
        num_frames: frames of the video.
    """
    covers = [
        {w for w, (start, stop) in enumerate(windows) if start <= k < stop}
        for k in range(num_frames)
    ]
    return [i for i in range(num_frames - 1) if covers[i] != covers[i + 1]]


def seam_ratio(errors: np.ndarray | Sequence[np.ndarray], borders: Sequence[int]) -> float:
    """Return the mean error at the borders divided by the mean error elsewhere.

    To compare two ways of joining windows, pass the same borders for both.

    Args:
        errors: (t − 1,) from `consecutive_mse`, or (videos, t − 1). Videos are pooled before
            dividing, so that a nearly still video does not dominate the ratio.
        borders: indices into the last axis.

    Returns:
        At least 0; 1 if borders look like other pairs of frames, or if nothing moves at all.

    Raises:
        ValueError: if there is no border, if all pairs are borders, or if a border is outside the
            video.
    """
    errors = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    is_border = np.zeros(errors.shape[-1], dtype=bool)
    if any(not 0 <= border < len(is_border) for border in borders):
        raise ValueError(f"borders {list(borders)}; allowed: 0 to {len(is_border) - 1}")
    is_border[list(borders)] = True
    if is_border.all() or not is_border.any():
        raise ValueError(
            f"{is_border.sum()} of {len(is_border)} pairs are borders; expected some of both"
        )
    at_borders, elsewhere = errors[:, is_border].mean(), errors[:, ~is_border].mean()
    if elsewhere == 0:
        return 1.0 if at_borders == 0 else float("inf")
    return float(at_borders / elsewhere)


def measure_seams(
    clips: ClipSet, real_frames: Callable[[SetEntry], np.ndarray] | None = None
) -> SeamRecord:
    """Measure a set of seams, one clip at a time.

    Args:
        clips: two rows for each video, MultiDiffusion's first.
        real_frames: loads the real clip of an entry, uint8 (t, h, w, 3); its first frames and its
            middle are measured, as many and as large as those of the generated clip. If a real clip
            is shorter than that, the record has no real clips.

    Raises:
        ValueError: if the set is empty, the rows are not pairs, or the generated clips differ in
            length.
        DataError: if a file is damaged.
    """
    errors: dict[bool, list[np.ndarray]] = {True: [], False: []}
    real: list[np.ndarray] = []
    for index, (entry, frames) in enumerate(clips):
        if entry.multidiffusion is not (index % 2 == 0):
            raise ValueError("expected rows with and without multidiffusion in turn")
        errors[entry.multidiffusion].append(consecutive_mse(frames))
        if real_frames is not None and entry.multidiffusion:
            real.append(consecutive_mse(_middle(real_frames(entry), frames.shape)))
    if not clips.entries or len(clips) % 2:
        raise ValueError(f"{len(clips)} clips; expected pairs, at least one")
    num_frames = _common_length([*errors[True], *errors[False]])
    window_size, overlap = _common_windows(clips.entries[::2])
    apart = independent_windows(num_frames, window_size)
    overlapping = temporal_windows(num_frames, window_size, overlap)
    num_real_frames = min((len(curve) + 1 for curve in real), default=None)
    has_floor = num_real_frames == num_frames
    return SeamRecord(
        multidiffusion=np.stack(errors[True]),
        independent=np.stack(errors[False]),
        borders=window_borders(apart, num_frames),
        own_borders=window_borders(overlapping, num_frames),
        window_size=window_size,
        overlap=overlap,
        prompts=[entry.prompt for entry in clips.entries[::2]],
        real=np.stack(real) if has_floor else None,
        num_real_frames=num_real_frames,
    )


def _common_length(errors: Sequence[np.ndarray]) -> int:
    """Return the number of frames of all clips, given their curves (t − 1,)."""
    lengths = {len(curve) + 1 for curve in errors}
    if len(lengths) > 1:
        raise ValueError(
            f"clips of {min(lengths)} to {max(lengths)} frames; expected equal lengths"
        )
    return lengths.pop()


def _common_windows(entries: Sequence[SetEntry]) -> tuple[int, int]:
    """Return the window size and the overlap of all rows."""
    settings = {(entry.window_size, entry.overlap) for entry in entries}
    window_size, overlap = settings.pop()
    if settings or window_size is None or overlap is None:
        raise ValueError("expected one window_size and one overlap for all rows")
    return window_size, overlap


def missing_floor(record: SeamRecord) -> LeftOut | None:
    """Say that the real clips are too short for a floor; None if there is one, or no real clip."""
    if record.real is not None or record.num_real_frames is None:
        return None
    num_frames = record.multidiffusion.shape[1] + 1
    return LeftOut(
        "Floor of the seams",
        f"the shortest real clip has {record.num_real_frames} frames and the generated ones have "
        f"{num_frames}; make decode.num_frames at least generate.num_frames.",
    )


def seam_ratios(record: SeamRecord) -> dict[str, list[float]]:
    """Return the seam ratio of each video by itself, by `KINDS`, at `record.borders`.

    A video in which nothing moves but at the borders has an infinite ratio.

    Raises:
        ValueError: as `seam_ratio`.
    """
    return {
        kind: [seam_ratio(curve, record.borders) for curve in getattr(record, kind)]
        for kind in KINDS
    }


def seam_scores(record: SeamRecord) -> list[Score] | LeftOut:
    """Compute the seam ratios, pooled over the videos, with bootstrap intervals over the videos.

    The floor is the ratio of the real clips at the same pairs of frames. A pooled ratio is not the
    mean of one value per video, but a smooth function of two such means, so that its floor has the
    same prediction interval (`lumiere.evaluation.bootstrap.prediction_interval`).
    """
    num_pairs = record.independent.shape[1]
    if not 0 < len(record.borders) < num_pairs:
        return LeftOut(
            "Seams",
            f"windows of {record.window_size} in clips of {num_pairs + 1} frames; borders between "
            "windows and neighbours inside one are needed: generate.seam_window_size at least 2 "
            "and below generate.num_frames",
        )
    borders = counted(len(record.borders), "border")
    note = (
        f"The change at window borders divided by the change elsewhere (Lumiere, section 3.3). Each "
        f"video has {borders} between windows of {record.window_size} frames"
    )
    each = seam_ratios(record)
    scores = [
        _score(
            f"seam_ratio_{kind}",
            f"Seam ratio, {label}",
            getattr(record, kind),
            # Independent windows are a contrast. They say nothing of the model.
            record.real if kind == "multidiffusion" else None,
            record.borders,
            f"{note}. Single videos have {min(each[kind]):.2f} to {max(each[kind]):.2f}.",
        )
        for kind, label in zip(KINDS, ("MultiDiffusion", "independent windows"), strict=True)
    ]
    if not all(np.isfinite(score.value) for score in scores):
        return LeftOut(
            "Seams",
            "nothing moves inside the windows, so there is nothing to compare their borders with",
        )
    if scores[0].value > 0:
        scores.append(_gain(record, each))
    if 0 < len(record.own_borders) < num_pairs:
        own = _score(
            "seam_ratio_multidiffusion_own_borders",
            "Seam ratio, MultiDiffusion at its own borders",
            record.multidiffusion,
            record.real,
            record.own_borders,
            f"The same ratio at {counted(len(record.own_borders), 'border')} of MultiDiffusion's windows. "
            f"Neighbouring windows share {record.overlap} of their {record.window_size} frames.",
        )
        if np.isfinite(own.value):
            scores.append(own)
    return scores


def _score(
    key: str,
    label: str,
    errors: np.ndarray,
    real: np.ndarray | None,
    borders: Sequence[int],
    note: str,
) -> Score:
    def ratio_of(curves: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda videos: seam_ratio(curves[videos], borders)

    floor = None
    if real is not None and np.isfinite(seam_ratio(real, borders)):
        floor = _floor(
            seam_ratio(real, borders), _interval(ratio_of(real), len(real)), real, errors
        )
    return Score(
        key=key,
        label=label,
        group="seams",
        value=seam_ratio(errors, borders),
        better=Better.CLOSER,
        interval=_interval(ratio_of(errors), len(errors)),
        floor=floor,
        num_videos=len(errors),
        note=note,
    )


def _floor(value: float, interval: Interval | None, real: np.ndarray, errors: np.ndarray) -> Floor:
    if interval is None:
        return Floor(value)
    predicted = prediction_interval(interval, value, len(real), len(errors))
    if predicted is None:
        return Floor(value)
    return Floor(value, predicted.within(NOT_NEGATIVE))


def _gain(record: SeamRecord, each: dict[str, list[float]]) -> Score:
    """Compare both kinds on the same videos, so that their motion cancels."""

    def ratio(videos: np.ndarray) -> float:
        independent = seam_ratio(record.independent[videos], record.borders)
        reconciled = seam_ratio(record.multidiffusion[videos], record.borders)
        return independent / reconciled if reconciled > 0 else float("inf")

    num_videos = len(record.prompts)
    larger = np.greater(each["independent"], each["multidiffusion"]).sum()
    return Score(
        key="seam_ratio_gain",
        label="Seam ratio, independent windows over MultiDiffusion",
        group="seams",
        value=ratio(np.arange(num_videos)),
        better=Better.HIGHER,
        interval=_interval(ratio, num_videos),
        num_videos=num_videos,
        note=(
            "How many times larger the seams are without MultiDiffusion, at the same borders of "
            f"the same videos. They are larger in {larger} of {num_videos} videos."
        ),
    )


def _interval(statistic: Callable[[np.ndarray], float], num_videos: int) -> Interval | None:
    """Draw videos with replacement.

    Args:
        statistic: of the videos with these indices.
        num_videos: how many there are.

    Returns:
        None for a single video, or if draws of still videos have no ratio.
    """
    if num_videos < 2:
        return None
    try:
        return bootstrap(statistic, num_videos)
    except ValueError:  # the statistic of a draw is not finite
        return None


def _middle(frames: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the first frames and the middle of a clip, (t, h, w, 3), at most as large as `shape`."""
    length, height, width = shape[:3]
    top = max(0, (frames.shape[1] - height) // 2)
    left = max(0, (frames.shape[2] - width) // 2)
    return frames[:length, top : top + height, left : left + width]
