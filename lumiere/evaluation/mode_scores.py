"""Scores of the modes that are Lumiere's own: drift from a given picture, kept pixels, styles."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.errors import DataError
from lumiere.evaluation.bootstrap import mean_interval
from lumiere.evaluation.clip_sets import RealClips, resized, subject_of
from lumiere.evaluation.mean_scores import mean_score
from lumiere.evaluation.measure_videos import EMBEDDED_FRAMES, Networks
from lumiere.evaluation.report import Curve, StyleRow
from lumiere.evaluation.scores import UNBOUNDED, Better, Definition, Floor, LeftOut, Score
from lumiere.evaluation.style_scores import (
    StyleDistance,
    StyleStatistics,
    content_retention,
    style_distance,
    style_statistics,
)
from lumiere.evaluation.temporal.drift import Drift, colour_drift, identity_drift, measure_leakage
from lumiere.evaluation.videos import evenly
from lumiere.plurals import counted, there_are
from lumiere.sample_files import ClipSet, Sample, SetEntry

STYLE_FRAMES = 4  # of a clip, evenly spaced, whose features show how much content is kept
MAX_PSNR = 99.0  # dB written for equal pixels, because JSON and charts cannot represent infinity
_DRIFT_CHANGE = "how much larger it is in the last quarter of the frames than in the first frame."

DRIFT_SCORES: dict[str, Definition] = {
    "colour": Definition(
        "Colour drift from the given picture",
        Better.CLOSER,
        "ΔE",
        f"CIE ΔE of the mean colours of 4 × 4 blocks to the given picture: {_DRIFT_CHANGE}",
        bounds=UNBOUNDED,  # a first frame that missed the picture can come back to it
    ),
    "identity": Definition(
        "Identity drift from the given picture",
        Better.CLOSER,
        "",
        "1 − cosine of EfficientNet-Lite0's features with those of the given picture: "
        f"{_DRIFT_CHANGE}",
        bounds=(-2.0, 2.0),  # the difference of two values between 0 and 2
    ),
}


@dataclass(frozen=True)
class ModeResults:
    """The scores and pictures of the modes, for the report."""

    scores: list[Score] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    styles: list[StyleRow] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def __add__(self, other: ModeResults) -> ModeResults:
        return ModeResults(
            [*self.scores, *other.scores],
            [*self.curves, *other.curves],
            [*self.styles, *other.styles],
            [*self.left_out, *other.left_out],
        )


# --- image to video ----------------------------------------------------------------------------------------------


def image_to_video(
    clips: ClipSet, real: RealClips, networks: Networks, seed: int = 0
) -> ModeResults:
    """Measure how far videos drift from the picture they were given.

    The picture is the first frame of a real clip. The floor is that clip's own drift.

    Raises:
        DataError: if a file is damaged, a real clip is not there, or the clips differ in length.
    """
    subjects: list[str] = []
    generated = _Drifts()
    reference = _Drifts()
    for entry, frames in clips:
        frames = frames[: real.num_frames]
        if len(frames) < 2:
            return _no_drift("the clips have a single frame")
        original = resized(real.frames(entry.clip_id), (frames.shape[1], frames.shape[2]))
        subjects.append(subject_of(entry.clip_id))
        generated.add(frames, original[0], entry.fps, networks)
        reference.add(original[: len(frames)], original[0], entry.fps, networks)
    if len(subjects) < 2:
        return _no_drift(f"{there_are(len(clips), 'clip')}; at least 2 are needed")
    if len(set(generated.lengths)) > 1:
        raise DataError(
            f"{clips.path}: clips of {min(generated.lengths)} to {max(generated.lengths)} frames; "
            "expected equal lengths; run the generate stage again"
        )
    scores = [
        mean_score(
            f"image_{name}_drift",
            definition,
            [drift.change for drift in generated.found[name]],
            [drift.change for drift in reference.found[name]],
            group="modes",
            subjects=subjects,
            real_subjects=subjects,
            seed=seed,
        )
        for name, definition in DRIFT_SCORES.items()
    ]
    return ModeResults(scores, _drift_curves(generated, reference))


class _Drifts:
    """The drift of some videos in colour and in identity.

    Attributes:
        found: by name, one per video.
        lengths: frames of each video.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[Drift]] = {"colour": [], "identity": []}
        self.lengths: list[int] = []

    def add(self, frames: np.ndarray, picture: np.ndarray, fps: float, networks: Networks) -> None:
        """Measure a video; features are taken of at most `EMBEDDED_FRAMES` of its frames."""
        picks = evenly(len(frames), EMBEDDED_FRAMES)
        features = networks.embed(networks.main, frames[picks])
        picture_features = networks.embed(networks.main, picture[None])[0]
        rate = fps * (len(picks) - 1) / (len(frames) - 1)  # the first and the last are among them
        self.found["colour"].append(colour_drift(frames, fps, picture))
        self.found["identity"].append(identity_drift(features, rate, picture_features))
        self.lengths.append(len(frames))

    def mean_curve(self, name: str) -> np.ndarray:
        """Return the mean over the videos, one value per measured frame."""
        return np.mean([drift.curve for drift in self.found[name]], axis=0)


def _drift_curves(generated: _Drifts, reference: _Drifts) -> list[Curve]:
    num_frames = generated.lengths[0]
    titles = {"colour": ("colours", "CIE ΔE"), "identity": ("the subject", "1 − cosine")}
    return [
        Curve(
            key="drift" if name == "colour" else f"drift_{name}",
            title=f"Image to video: how far {what} drift{'' if name == 'colour' else 's'}",
            x_label="frame",
            y_label=label,
            series={
                "generated": generated.mean_curve(name),
                "real": reference.mean_curve(name),
            },
            x=evenly(num_frames, num_frames if name == "colour" else EMBEDDED_FRAMES),
            note="Distance to the given picture, mean over the videos. Motion moves it too.",
        )
        for name, (what, label) in titles.items()
    ]


def _no_drift(why: str) -> ModeResults:
    return ModeResults(left_out=[LeftOut("Drift from a given picture", f"{why}.")])


# --- kept pixels -------------------------------------------------------------------------------------------------


def kept_pixels(samples: Sequence[Sample]) -> ModeResults:
    """Measure how exactly given pixels are kept, by mode: the mean, and the worst pixel of all.

    Raises:
        DataError: if the stored arrays of a sample do not fit each other.
    """
    by_mode: dict[str, list[tuple[float, int]]] = {}
    for sample in samples:
        if sample.known is None:
            continue
        arrays = sample.known
        try:
            leakage = measure_leakage(arrays["generated"], arrays["known"], arrays["known_mask"])
        except ValueError as error:
            raise DataError(
                f"{sample.info['name']}.known.npz: {error}; run the generate stage again"
            ) from None
        values = min(MAX_PSNR, leakage.psnr), leakage.worst_pixel_error
        by_mode.setdefault(sample.info["mode"], []).append(values)
    scores: list[Score] = []
    for mode in sorted(by_mode):
        name = mode.replace("_", " ")
        scores.append(
            Score(
                key=f"known_psnr_{mode}",
                label=f"Kept pixels, {name}",
                group="modes",
                value=float(np.mean([psnr for psnr, _ in by_mode[mode]])),
                better=Better.HIGHER,
                num_videos=len(by_mode[mode]),
                note="PSNR of the given pixels in the finished video, before it is encoded. "
                f"{MAX_PSNR:g} dB means that they are equal.",
                unit="dB",
            )
        )
        scores.append(
            Score(
                key=f"known_worst_error_{mode}",
                label=f"Kept pixels, {name}: largest error",
                group="modes",
                value=float(max(worst for _, worst in by_mode[mode])),
                better=Better.LOWER,
                num_videos=len(by_mode[mode]),
                note="The largest error of one value of a given pixel, in any frame of any video.",
                unit="grey levels",
            )
        )
    return ModeResults(scores)


# --- styles ------------------------------------------------------------------------------------------------------


def styles(clips: ClipSet, folder: Path, networks: Networks, seed: int = 0) -> ModeResults:
    """Measure every weight α of every style: the distance to its pictures, and the kept content.

    Args:
        clips: the set of styles; the same prompts and seeds at each α, and at α = 0.
        folder: with a folder of pictures for each style.

    Raises:
        DataError: if a style's pictures are missing, or two styles have the same name in metrics.
    """
    check_styles(clips, folder)
    names = list(dict.fromkeys(entry.style for entry in clips.entries))
    pictures = {name: _style_pictures(folder / name) for name in names}
    targets = {name: style_statistics(shown) for name, shown in pictures.items()}
    groups: dict[tuple[str, float], list[_Styled]] = {}
    for entry, frames in clips:
        group = groups.setdefault((entry.style, entry.alpha), [])
        group.append(_measure_styled(entry, frames, targets[entry.style], networks, not group))
    scores: list[Score] = []
    rows: list[StyleRow] = []
    for style, alpha in sorted(groups, key=lambda group: (names.index(group[0]), group[1])):
        members = groups[style, alpha]
        plain = {_key(member.entry): member.features for member in groups.get((style, 0.0), [])}
        distances = [member.distance for member in members]
        kept = [
            content_retention(member.features, plain[_key(member.entry)])
            for member in members
            if _key(member.entry) in plain
        ]
        halves = style_distance(
            style_statistics(pictures[style][::2]), style_statistics(pictures[style][1::2])
        )
        scores += _style_scores(style, alpha, distances, kept, _total(halves), seed)
        rows.append(
            StyleRow(
                style=style,
                alpha=alpha,
                style_distance=float(np.mean(distances)),
                content_retention=float(np.mean(kept)) if kept else math.nan,
                frames=members[0].shown,
                fps=members[0].entry.fps,
            )
        )
    return ModeResults(scores, [], rows)


@dataclass(frozen=True)
class _Styled:
    """A styled clip's values, without its pixels.

    Attributes:
        entry: how it was made.
        distance: to the style's pictures.
        features: (k, d), of at most 4 frames.
        shown: its frames, if the report shows it; None otherwise, so that memory does not grow with
            the number of clips.
    """

    entry: SetEntry
    distance: float
    features: np.ndarray
    shown: np.ndarray | None


def _measure_styled(
    entry: SetEntry,
    frames: np.ndarray,
    target: StyleStatistics,
    networks: Networks,
    is_shown: bool,
) -> _Styled:
    distance = _total(style_distance(style_statistics(frames), target))
    features = networks.embed(networks.main, frames[evenly(len(frames), STYLE_FRAMES)])
    return _Styled(entry, distance, features, frames if is_shown else None)


def _style_scores(
    style: str, alpha: float, distances: list[float], kept: list[float], floor: float, seed: int
) -> list[Score]:
    where = _style_key(style, alpha)
    scores = [
        Score(
            key=f"{where}_distance",
            label=f"Distance to the style {style}, α = {alpha:g}",
            group="modes",
            value=float(np.mean(distances)),
            better=Better.LOWER,
            interval=mean_interval(distances, seed=seed) if len(distances) > 1 else None,
            floor=Floor(floor),
            num_videos=len(distances),
            note="The earth mover's distance of palettes and edges to those of the style's pictures. The "
            "floor is the distance of one half of these pictures to the other half.",
        )
    ]
    if kept and alpha > 0:
        scores.append(
            Score(
                key=f"{where}_content",
                label=f"Content kept in the style {style}, α = {alpha:g}",
                group="modes",
                value=float(np.mean(kept)),
                better=Better.HIGHER,
                interval=mean_interval(kept, seed=seed) if len(kept) > 1 else None,
                num_videos=len(kept),
                note="The mean cosine of EfficientNet-Lite0's features with those of the video of the same "
                "prompt and seed at α = 0.",
            )
        )
    return scores


def check_styles(clips: ClipSet, folder: Path) -> None:
    """Check the styles of a set before anything is measured.

    Raises:
        DataError: if the pictures of a style are missing, or two styles or two weights α have the
            same key in the metrics.
    """
    keys: dict[str, tuple[str, float]] = {}
    for style, alpha in dict.fromkeys((entry.style, entry.alpha) for entry in clips.entries):
        key = _style_key(style, alpha)
        other, other_alpha = keys.setdefault(key, (style, alpha))
        if (other, other_alpha) != (style, alpha):
            raise DataError(
                f"{clips.path}: the style {other!r} at α = {other_alpha:g} and {style!r} at "
                f"α = {alpha:g} would share the metrics {key}_...; rename one of the styles, or "
                "choose weights at least 0.01 apart, and run the generate stage again"
            )
    for style in dict.fromkeys(entry.style for entry in clips.entries):
        _picture_paths(folder / style)


def _style_key(style: str, alpha: float) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", style.lower()).strip("_")
    return f"style_{name}_alpha_{round(100 * alpha):03d}"


def _picture_paths(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".jpeg")
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes)
    if len(paths) < 2:
        raise DataError(
            f"{folder}: {counted(len(paths), 'picture')}; the distance to a style needs at least 2 of its "
            "pictures (PNG or JPEG)"
        )
    return paths


def _style_pictures(folder: Path) -> list[np.ndarray]:
    pictures: list[np.ndarray] = []
    for path in _picture_paths(folder):
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def _total(distance: StyleDistance) -> float:
    return distance.palette + distance.edges


def _key(entry: SetEntry) -> tuple[str, int]:
    return entry.prompt, entry.seed
