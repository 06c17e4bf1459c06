"""All measurements of one evaluation, as values; `lumiere.evaluation.report` writes them down."""

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
from lumiere.evaluation.samples import RealSet, Sample, VideoSet
from lumiere.evaluation.seams import seam_ratio

MAX_PSNR = 99.0  # dB written for equal pixels: JSON and charts know no infinity


@dataclass(frozen=True)
class LeftOut:
    """A measure that this input does not allow, and why: a sentence for the console and the report."""

    why: str


@dataclass(frozen=True)
class SetScores:
    """The text-to-video set against real clips.

    Attributes:
        distances: by kind of features.
        alignment, mismatched: mean cosine similarity of videos with their own, and with the others', prompts.
        similarity: (n, n) prompts by videos, for the picture.
        flicker, motion: one value per video.
        real_*: the same of as many real clips: what a perfect generator would score under this judge.
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
    """One finished sample; `psnr` is NaN where no pixels were given."""

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
        multidiffusion, independent: at the same pairs of frames, the borders of windows that share no frame.
        own: MultiDiffusion's at the borders of its own, overlapping windows; None where these are everywhere.
        curves: mean error of each pair over the videos, (t − 1,).
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
    """How many of the real clips the judge was trained on: all their sentences are among its own."""

    seen: int
    num_clips: int
    seen_held_out: int
    num_held_out: int

    def warning(self) -> str:
        """What to think of before these scores are believed; empty where there is nothing."""
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
    """All of it. `familiarity` is None where the judge does not tell its sentences."""

    scores: SetScores
    samples: list[SampleScores]
    seams: SeamScores | LeftOut
    familiarity: Familiarity | None

    def left_out(self) -> dict[str, str]:
        """What was not measured, and why."""
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
    """All measurements; what the input does not allow is left out.

    Args:
        judge: whose features are used.
        generated: the text-to-video set.
        real: real clips of the same size and length.
        samples: the finished samples.
        seams: from `read_seams`.
        seed: for the draws of real clips.
    """
    return Evaluation(
        scores=score_set(judge, generated, real, seed),
        samples=score_samples(judge, samples),
        seams=score_seams(seams),
        familiarity=measure_familiarity(judge, real),
    )


def score_set(judge: Judge, generated: VideoSet, real: RealSet, seed: int) -> SetScores:
    """Distances with floors, alignment and retrieval, flicker and motion; all at the generated size."""
    embedded, embedded_real = (_embed(judge, videos.frames) for videos in (generated, real))
    text, text_real = judge.encode_text(generated.prompts), judge.encode_text(real.prompts)
    similarity = cosine_similarity(text, embedded.mean(1))
    n = len(similarity)
    # As many real clips as generated ones, and as different in their prompts: recall depends on both.
    same = _draw_different(real.prompts, n, seed)
    return SetScores(
        distances=_distances(embedded, embedded_real, real.groups, seed),
        alignment=text_alignment(text, embedded.mean(1)),
        mismatched=float((similarity.sum() - np.trace(similarity)) / (n * (n - 1)))
        if n > 1
        else None,
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
    """By the sentences, since users' files may go by the names of the judge's own."""
    if not judge.captions:
        return None
    seen = np.array([judge.captions.issuperset(captions) for captions in real.captions])
    held_out = np.array(real.held_out)
    return Familiarity(
        int(seen.sum()), len(seen), int((seen & held_out).sum()), int(held_out.sum())
    )


def score_samples(judge: Judge, samples: Sequence[Sample]) -> list[SampleScores]:
    """Each finished sample by itself, at its full size."""
    scores = []
    for sample in samples:
        embedding = judge.encode_frames(sample.frames).mean(0, keepdims=True)
        psnr = math.nan
        if sample.known is not None:
            psnr = min(MAX_PSNR, known_region_psnr(**_psnr_arguments(sample.known)))
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
    """From the errors that `read_seams` measured."""
    curves = {key: record[key] for key in ("multidiffusion", "independent")}
    borders, own_borders, num_pairs = (
        record["borders"],
        record["own_borders"],
        curves["independent"].shape[1],
    )
    if not 0 < len(borders) < num_pairs:
        return LeftOut(
            f"windows of {record['window_size']} in clips of {num_pairs + 1} frames; borders between windows and "
            "neighbours inside one are needed: generate.window_size at least 2 and below generate.num_frames"
        )
    ratios = {key: seam_ratio(curve, borders) for key, curve in curves.items()}
    if not np.isfinite(list(ratios.values())).all():
        return LeftOut(
            "nothing moves inside the windows, so there is nothing to compare their borders with"
        )
    own = (
        seam_ratio(curves["multidiffusion"], own_borders)
        if 0 < len(own_borders) < num_pairs
        else math.inf
    )
    return SeamScores(
        **ratios,
        own=own if math.isfinite(own) else None,
        curves={key: curve.mean(0) for key, curve in curves.items()},
        borders=borders,
        own_borders=own_borders,
        num_videos=len(curves["independent"]),
        window_size=record["window_size"],
        overlap=record["overlap"],
    )


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """What goes to metrics.json and MLflow: one flat mapping, names of letters, digits and underscores.

    What was left out is absent.
    """
    scores, samples, seams = evaluation.scores, evaluation.samples, evaluation.seams
    values: dict[str, float] = {}
    if not isinstance(scores.distances, LeftOut):
        for kind, distance in scores.distances.items():
            values[f"frechet_{kind}"] = distance.value
            values[f"frechet_{kind}_floor"] = distance.floor
        some = scores.distances["clip"]
        values |= {"frechet_num_clips": some.num_clips, "frechet_num_reference": some.num_reference}
    values |= {"text_alignment": scores.alignment, "real_text_alignment": scores.real_alignment}
    if scores.mismatched is not None:
        values["text_alignment_mismatched"] = scores.mismatched
    for prefix, found in (("", scores.retrieval), ("real_", scores.real_retrieval)):
        if not isinstance(found, LeftOut):
            values |= {
                f"{prefix}retrieval_r1": found.recall_1,
                f"{prefix}retrieval_r5": found.recall_5,
                f"{prefix}retrieval_median_rank": found.median_rank,
                "retrieval_num_candidates": found.num_candidates,
            }
    values |= {"flicker": _mean(scores.flicker), "real_flicker": _mean(scores.real_flicker)}
    values |= {"motion": _mean(scores.motion), "real_motion": _mean(scores.real_motion)}
    if not isinstance(seams, LeftOut):
        values |= {
            "seam_ratio_multidiffusion": seams.multidiffusion,
            "seam_ratio_independent": seams.independent,
        }
        if seams.own is not None:
            values["seam_ratio_multidiffusion_own_borders"] = seams.own
    if samples:
        values["samples_text_alignment"] = _mean([sample.alignment for sample in samples])
    for mode in sorted({sample.mode for sample in samples if not math.isnan(sample.psnr)}):
        of_mode = [
            sample.psnr for sample in samples if sample.mode == mode and not math.isnan(sample.psnr)
        ]
        values[f"known_psnr_{mode}"] = _mean(of_mode)
    return {key: round(float(value), 6) for key, value in values.items()}


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
    """Among `num_candidates`, since recall among fewer is not comparable."""
    needed = max(2, num_candidates)
    if len(videos) < needed:
        return LeftOut(f"{len(videos)} clips with different prompts; at least {needed} are needed")
    return retrieval(text, videos)


def _draw_different(prompts: Sequence[str], n: int, seed: int) -> np.ndarray:
    """n indices at random, sorted; of those that share a prompt only one, so there may be fewer than n."""
    first: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(prompts)):
        first.setdefault(prompts[i], int(i))
    return np.sort(list(first.values())[:n])


def _embed(judge: Judge, videos: np.ndarray) -> np.ndarray:
    """uint8 (n, t, h, w, 3) → float32 (n, t, d)."""
    n, t = videos.shape[:2]
    return judge.encode_frames(videos.reshape(n * t, *videos.shape[2:])).reshape(n, t, -1)


def _psnr_arguments(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "frames": known["generated"],
        "known": known["known"],
        "known_mask": known["known_mask"],
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
