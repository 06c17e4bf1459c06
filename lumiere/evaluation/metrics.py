"""Measures generated videos against real ones; `lumiere.evaluation.report` writes the results down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumiere.evaluation.alignment import Retrieval, cosine_similarity, retrieval, text_alignment
from lumiere.evaluation.consistency import known_region_psnr, motion_magnitude, temporal_flicker
from lumiere.evaluation.features import (
    FEATURES,
    MIN_CLIPS,
    MIN_VIDEOS,
    Distance,
    distance_with_floor,
)
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.seams import seam_ratio
from lumiere.evaluation.video_sets import RealSet, VideoSet
from lumiere.sample_files import Sample

MAX_PSNR = 99.0  # dB written for equal pixels, because JSON and charts cannot represent infinity


@dataclass(frozen=True)
class LeftOut:
    """A measure that this input does not allow; `why` is a sentence for the console and the
    report.
    """

    why: str


@dataclass(frozen=True)
class SetScores:
    """How the text-to-video set compares with real clips.

    Attributes:
        distances: by kind of features.
        alignment: mean cosine similarity of the videos with their own prompts.
        mismatched: the same with the other videos' prompts; None for a single video.
        similarity: (n, n), prompts by videos, for the plot.
        flicker, motion: one value per video.
        real_*: the same for as many real clips: the scores of a perfect generator with this judge.
    """

    distances: dict[str, Distance] | LeftOut
    alignment: float
    mismatched: float | None
    retrieval: Retrieval | LeftOut
    similarity: np.ndarray
    flicker: list[float]
    motion: list[float]
    real_alignment: float
    real_retrieval: Retrieval | LeftOut
    real_flicker: list[float]
    real_motion: list[float]


@dataclass(frozen=True)
class SampleScores:
    """The scores of one finished sample; `psnr` is NaN for modes without known pixels."""

    name: str
    mode: str
    prompt: str
    alignment: float
    flicker: float
    motion: float
    psnr: float


@dataclass(frozen=True)
class SeamScores:
    """The seam ratio with and without MultiDiffusion.

    Attributes:
        multidiffusion, independent: at the same pairs of frames, the borders of windows that share
            no frame.
        own: MultiDiffusion's at the borders of its own, overlapping windows; None if every frame is
            such a border.
        curves: (t − 1,), the mean error of each pair of frames over the videos.
    """

    multidiffusion: float
    independent: float
    own: float | None
    curves: dict[str, np.ndarray] = field(repr=False)
    borders: list[int]
    own_borders: list[int]
    num_videos: int
    window_size: int
    overlap: int


@dataclass(frozen=True)
class Familiarity:
    """How many of the real clips the judge was trained on. It was trained on a clip if it knows
    all its sentences.
    """

    seen: int
    num_clips: int
    seen_held_out: int
    num_held_out: int

    def warning(self) -> str:
        """Return a reason to doubt these scores; empty if there is none."""
        if not self.seen:
            return "the judge was trained on none of these videos: its scores say little about them"
        if self.seen_held_out:
            return (
                f"the judge was trained on {self.seen_held_out} of the {self.num_held_out} clips that are held out "
                "here: it was trained with another split"
            )
        return ""


@dataclass(frozen=True)
class Evaluation:
    """All results; `familiarity` is None if the judge has no record of its training sentences."""

    scores: SetScores
    samples: list[SampleScores]
    seams: SeamScores | LeftOut
    familiarity: Familiarity | None

    def left_out(self) -> dict[str, str]:
        """Return the measures that were left out, and why."""
        parts = {
            "distances": self.scores.distances,
            "retrieval": self.scores.retrieval,
            "retrieval of real clips": self.scores.real_retrieval,
            "seams": self.seams,
        }
        return {name: part.why for name, part in parts.items() if isinstance(part, LeftOut)}


def evaluate(
    judge: Judge,
    generated: VideoSet,
    real: RealSet,
    samples: Sequence[Sample],
    seams: dict[str, Any],
    seed: int,
) -> Evaluation:
    """Take every measure that the input allows.

    Args:
        judge: computes the features.
        generated: the text-to-video set.
        real: real clips of the same size and length.
        samples: the finished samples.
        seams: from `measure_seams`.
        seed: for drawing real clips.
    """
    return Evaluation(
        scores=score_set(judge, generated, real, seed),
        samples=score_samples(judge, samples),
        seams=score_seams(seams),
        familiarity=measure_familiarity(judge, real),
    )


def score_set(judge: Judge, generated: VideoSet, real: RealSet, seed: int) -> SetScores:
    """Score the text-to-video set: distances, alignment, retrieval, flicker and motion, at the generated size."""
    embedded, embedded_real = _embed(judge, generated.frames), _embed(judge, real.frames)
    text, text_real = judge.encode_text(generated.prompts), judge.encode_text(real.prompts)
    similarity = cosine_similarity(text, embedded.mean(1))
    n = len(similarity)
    mismatched = None
    if n > 1:
        mismatched = float((similarity.sum() - np.trace(similarity)) / (n * (n - 1)))
    # Draw as many real clips as generated ones, each with another prompt, because recall depends on
    # both.
    same = _draw_different(real.prompts, n, seed)
    return SetScores(
        distances=_distances(embedded, embedded_real, real.groups, seed),
        alignment=text_alignment(text, embedded.mean(1)),
        mismatched=mismatched,
        retrieval=_retrieval(text, embedded.mean(1), n),
        similarity=similarity,
        flicker=[temporal_flicker(video) for video in generated.frames],
        motion=[motion_magnitude(video) for video in generated.frames],
        real_alignment=text_alignment(text_real[same], embedded_real[same].mean(1)),
        real_retrieval=_retrieval(text_real[same], embedded_real[same].mean(1), n),
        real_flicker=[temporal_flicker(real.frames[i]) for i in same],
        real_motion=[motion_magnitude(real.frames[i]) for i in same],
    )


def measure_familiarity(judge: Judge, real: RealSet) -> Familiarity | None:
    """Count the clips whose sentences the judge knows. File names would not work, because users
    may reuse them.
    """
    if not judge.captions:
        return None
    seen = np.array([judge.captions.issuperset(captions) for captions in real.captions])
    held_out = np.array(real.held_out)
    return Familiarity(
        int(seen.sum()), len(seen), int((seen & held_out).sum()), int(held_out.sum())
    )


def score_samples(judge: Judge, samples: Sequence[Sample]) -> list[SampleScores]:
    """Score each finished sample by itself, at its full size."""
    scores = []
    for sample in samples:
        embedding = judge.encode_frames(sample.frames).mean(0, keepdims=True)
        psnr = math.nan
        if sample.known is not None:
            known = sample.known
            psnr = known_region_psnr(known["generated"], known["known"], known["known_mask"])
            psnr = min(MAX_PSNR, psnr)
        scores.append(
            SampleScores(
                name=sample.info["name"],
                mode=sample.info["mode"],
                prompt=sample.info["prompt"],
                alignment=text_alignment(judge.encode_text([sample.info["prompt"]]), embedding),
                flicker=temporal_flicker(sample.frames),
                motion=motion_magnitude(sample.frames),
                psnr=psnr,
            )
        )
    return scores


def score_seams(record: dict[str, Any]) -> SeamScores | LeftOut:
    """Compute the seam ratios from the errors that `measure_seams` measured."""
    curves = {key: record[key] for key in ("multidiffusion", "independent")}
    borders, own_borders = record["borders"], record["own_borders"]
    num_pairs = curves["independent"].shape[1]
    if not 0 < len(borders) < num_pairs:
        return LeftOut(
            f"windows of {record['window_size']} in clips of {num_pairs + 1} frames; borders between windows and "
            "neighbours inside one are needed: generate.seam_window_size at least 2 and below "
            "generate.num_frames"
        )
    ratios = {key: seam_ratio(curve, borders) for key, curve in curves.items()}
    if not np.isfinite(list(ratios.values())).all():
        return LeftOut(
            "nothing moves inside the windows, so there is nothing to compare their borders with"
        )
    own = None
    if 0 < len(own_borders) < num_pairs:
        own = seam_ratio(curves["multidiffusion"], own_borders)
        if not math.isfinite(own):
            own = None
    return SeamScores(
        **ratios,
        own=own,
        curves={key: curve.mean(0) for key, curve in curves.items()},
        borders=borders,
        own_borders=own_borders,
        num_videos=len(curves["independent"]),
        window_size=record["window_size"],
        overlap=record["overlap"],
    )


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers for the metrics file and MLflow, rounded to 6 places; measures that were
    left out are absent.

    Returns:
        One flat mapping; names hold letters, digits and underscores only.
    """
    scores = evaluation.scores
    values = {
        **_distance_metrics(scores.distances),
        "text_alignment": scores.alignment,
        "real_text_alignment": scores.real_alignment,
    }
    if scores.mismatched is not None:
        values["text_alignment_mismatched"] = scores.mismatched
    values |= _retrieval_metrics("", scores.retrieval)
    values |= _retrieval_metrics("real_", scores.real_retrieval)
    values |= {
        "flicker": _mean(scores.flicker),
        "real_flicker": _mean(scores.real_flicker),
        "motion": _mean(scores.motion),
        "real_motion": _mean(scores.real_motion),
    }
    values |= _seam_metrics(evaluation.seams)
    values |= _sample_metrics(evaluation.samples)
    return {key: round(float(value), 6) for key, value in values.items()}


def _distance_metrics(distances: dict[str, Distance] | LeftOut) -> dict[str, float]:
    if isinstance(distances, LeftOut):
        return {}
    values: dict[str, float] = {}
    for kind, distance in distances.items():
        values[f"frechet_{kind}"] = distance.value
        values[f"frechet_{kind}_floor"] = distance.floor
    values["frechet_num_clips"] = distances["clip"].num_clips
    values["frechet_num_reference"] = distances["clip"].num_reference
    return values


def _retrieval_metrics(prefix: str, ranks: Retrieval | LeftOut) -> dict[str, float]:
    if isinstance(ranks, LeftOut):
        return {}
    return {
        f"{prefix}retrieval_r1": ranks.recall_1,
        f"{prefix}retrieval_r5": ranks.recall_5,
        f"{prefix}retrieval_median_rank": ranks.median_rank,
        "retrieval_num_candidates": ranks.num_candidates,
    }


def _seam_metrics(seams: SeamScores | LeftOut) -> dict[str, float]:
    if isinstance(seams, LeftOut):
        return {}
    values = {
        "seam_ratio_multidiffusion": seams.multidiffusion,
        "seam_ratio_independent": seams.independent,
    }
    if seams.own is not None:
        values["seam_ratio_multidiffusion_own_borders"] = seams.own
    return values


def _sample_metrics(samples: list[SampleScores]) -> dict[str, float]:
    if not samples:
        return {}
    values = {"samples_text_alignment": _mean([sample.alignment for sample in samples])}
    by_mode: dict[str, list[float]] = {}
    for sample in samples:
        if not math.isnan(sample.psnr):
            by_mode.setdefault(sample.mode, []).append(sample.psnr)
    for mode in sorted(by_mode):
        values[f"known_psnr_{mode}"] = _mean(by_mode[mode])
    return values


def _distances(
    generated: np.ndarray, real: np.ndarray, groups: Sequence[str], seed: int
) -> dict[str, Distance] | LeftOut:
    num_videos = len(set(groups))
    if len(generated) < MIN_CLIPS or num_videos < MIN_VIDEOS:
        return LeftOut(
            f"{len(generated)} generated clips and {num_videos} real videos; "
            f"at least {MIN_CLIPS} and {MIN_VIDEOS} are needed, and a few dozen to mean something"
        )
    return {kind: distance_with_floor(kind, generated, real, groups, seed) for kind in FEATURES}


def _retrieval(text: np.ndarray, videos: np.ndarray, num_candidates: int) -> Retrieval | LeftOut:
    """Measure retrieval among at least `num_candidates`: recall among fewer is not comparable."""
    needed = max(2, num_candidates)
    if len(videos) < needed:
        return LeftOut(f"{len(videos)} clips with different prompts; at least {needed} are needed")
    return retrieval(text, videos)


def _draw_different(prompts: Sequence[str], n: int, seed: int) -> np.ndarray:
    """Draw n random indices, sorted; one for each prompt, so there may be fewer than n."""
    first: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(prompts)):
        first.setdefault(prompts[i], int(i))
    return np.sort(list(first.values())[:n])


def _embed(judge: Judge, videos: np.ndarray) -> np.ndarray:
    """Embed videos: uint8 (n, t, h, w, 3) → float32 (n, t, d)."""
    n, t = videos.shape[:2]
    return judge.encode_frames(videos.reshape(n * t, *videos.shape[2:])).reshape(n, t, -1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
