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
from lumiere.evaluation.drift import colour_drift, identity_drift, measure_leakage
from lumiere.evaluation.means import mean_score
from lumiere.evaluation.measuring import EMBEDDED_FRAMES, Networks, evenly
from lumiere.evaluation.report import Curve, StyleRow
from lumiere.evaluation.scores import UNBOUNDED, Better, Definition, Floor, LeftOut, Score
from lumiere.evaluation.style_scores import (
    StyleStatistics,
    content_retention,
    style_distance,
    style_statistics,
)
from lumiere.sample_files import ClipSet, Sample, SetEntry

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
    """What the modes give to the report."""

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
        DataError: if a file is damaged, or a real clip is not there.
    """
    subjects: list[str] = []
    curves: dict[str, list[np.ndarray]] = {"colour": [], "identity": []}
    real_curves: dict[str, list[np.ndarray]] = {"colour": [], "identity": []}
    changes: dict[str, list[float]] = {"colour": [], "identity": []}
    real_changes: dict[str, list[float]] = {"colour": [], "identity": []}
    for entry, frames in clips:
        frames = frames[: real.num_frames]
        if len(frames) < 2:
            return _no_drift("the clips have a single frame")
        original = resized(real.frames(entry.clip_id), (frames.shape[1], frames.shape[2]))
        subjects.append(subject_of(entry.clip_id))
        picture = original[0]
        picture_features = networks.embed(networks.main, picture[None])[0]
        for video, into, into_curves in (
            (frames, changes, curves),
            (original[: len(frames)], real_changes, real_curves),
        ):
            picks = evenly(len(video), EMBEDDED_FRAMES)
            features = networks.embed(networks.main, video[picks])
            rate = entry.fps * len(picks) / len(video)
            colour = colour_drift(video, entry.fps, picture)
            identity = identity_drift(features, rate, picture_features)
            for name, drift in (("colour", colour), ("identity", identity)):
                into[name].append(drift.change)
                into_curves[name].append(drift.curve)
    if len(changes["colour"]) < 2:
        return _no_drift(f"there are {len(clips)} clips; at least 2 are needed")
    scores = [
        mean_score(
            f"image_{name}_drift",
            definition,
            changes[name],
            real_changes[name],
            group="modes",
            subjects=subjects,
            real_subjects=subjects,
            seed=seed,
        )
        for name, definition in DRIFT_SCORES.items()
    ]
    titles = {"colour": ("colours", "CIE ΔE"), "identity": ("the subject", "1 − cosine")}
    shown = [
        Curve(
            key="drift" if name == "colour" else f"drift_{name}",
            title=f"Image to video: how far {what} drift{'' if name == 'colour' else 's'}",
            x_label="frame",
            y_label=label,
            series={
                "generated": np.mean(curves[name], axis=0),
                "real": np.mean(real_curves[name], axis=0),
            },
            note="Distance to the given picture, mean over the videos. Motion moves it too.",
        )
        for name, (what, label) in titles.items()
    ]
    return ModeResults(scores, shown)


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
        DataError: if a style's pictures are missing.
    """
    groups: dict[tuple[str, float], list[tuple[SetEntry, np.ndarray]]] = {}
    for entry, frames in clips:
        groups.setdefault((entry.style, entry.alpha), []).append((entry, frames))
    scores: list[Score] = []
    rows: list[StyleRow] = []
    for style in dict.fromkeys(name for name, _ in groups):
        pictures = _style_pictures(folder / style)
        halves = style_distance(style_statistics(pictures[::2]), style_statistics(pictures[1::2]))
        target = style_statistics(pictures)
        plain = {_key(entry): frames for entry, frames in groups.get((style, 0.0), [])}
        for alpha in sorted(alpha for name, alpha in groups if name == style):
            members = groups[style, alpha]
            distances = [_distance(frames, target) for _, frames in members]
            kept = [
                _retention(frames, plain[_key(entry)], networks)
                for entry, frames in members
                if _key(entry) in plain
            ]
            scores += _style_scores(style, alpha, distances, kept, _total(halves), seed)
            first_entry, first = members[0]
            rows.append(
                StyleRow(
                    style=style,
                    alpha=alpha,
                    style_distance=float(np.mean(distances)),
                    content_retention=float(np.mean(kept)) if kept else math.nan,
                    frames=first,
                    fps=first_entry.fps,
                )
            )
    return ModeResults(scores, [], rows)


def _style_scores(
    style: str, alpha: float, distances: list[float], kept: list[float], floor: float, seed: int
) -> list[Score]:
    name = re.sub(r"[^a-z0-9]+", "_", style.lower()).strip("_")
    where = f"style_{name}_alpha_{round(100 * alpha):03d}"
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


def check_pictures(clips: ClipSet, folder: Path) -> None:
    """Raise DataError if the pictures of a style of the set are missing."""
    for style in dict.fromkeys(entry.style for entry in clips.entries):
        _picture_paths(folder / style)


def _picture_paths(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".jpeg")
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes)
    if len(paths) < 2:
        raise DataError(
            f"{folder}: {len(paths)} pictures; the distance to a style needs at least 2 of its "
            "pictures (PNG or JPEG)"
        )
    return paths


def _style_pictures(folder: Path) -> list[np.ndarray]:
    pictures: list[np.ndarray] = []
    for path in _picture_paths(folder):
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def _distance(frames: np.ndarray, target: StyleStatistics) -> float:
    return _total(style_distance(style_statistics(frames), target))


def _total(distance) -> float:
    return distance.palette + distance.edges


def _retention(frames: np.ndarray, plain: np.ndarray, networks: Networks) -> float:
    picks = evenly(len(frames), 4)
    return content_retention(
        networks.embed(networks.main, frames[picks]), networks.embed(networks.main, plain[picks])
    )


def _key(entry: SetEntry) -> tuple[str, int]:
    return entry.prompt, entry.seed
