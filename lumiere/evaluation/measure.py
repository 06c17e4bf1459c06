"""All measurements of one evaluation, as values; `lumiere.evaluation.report` writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumiere.evaluation.alignment import Retrieval, cosine_similarity, retrieval, text_alignment
from lumiere.evaluation.consistency import known_region_psnr, motion_magnitude, temporal_flicker
from lumiere.evaluation.features import FEATURES, Distance, distance_with_floor
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.samples import Sample, VideoSet
from lumiere.evaluation.seams import seam_ratio

MAX_PSNR = 99.0  # dB written for equal pixels: JSON and charts know no infinity


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

    distances: dict[str, Distance]
    alignment: float
    mismatched: float
    retrieval: Retrieval
    similarity: np.ndarray
    flicker: list[float]
    motion: list[float]
    real_alignment: float
    real_retrieval: Retrieval
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
    """The seam ratio with and without MultiDiffusion, on the same pairs of frames."""

    multidiffusion: float
    independent: float
    curves: dict[str, np.ndarray] = field(repr=False)  # mean error of each pair over the videos, (t − 1,)
    borders: list[int]
    num_videos: int
    window_size: int
    overlap: int


def score_set(judge: Judge, generated: VideoSet, real: VideoSet, seed: int) -> SetScores:
    """Distances with floors, alignment and retrieval, flicker and motion; all at the generated size."""
    embedded, embedded_real = (_embed(judge, videos.frames) for videos in (generated, real))
    text, text_real = judge.encode_text(generated.prompts), judge.encode_text(real.prompts)
    similarity = cosine_similarity(text, embedded.mean(1))
    n = len(similarity)
    # As many real clips as generated ones: recall depends on the number of candidates.
    same = np.sort(np.random.default_rng(seed).permutation(len(embedded_real))[:n])
    return SetScores(
        distances={kind: distance_with_floor(kind, embedded, embedded_real, real.groups, seed) for kind in FEATURES},
        alignment=text_alignment(text, embedded.mean(1)),
        mismatched=float((similarity.sum() - np.trace(similarity)) / (n * (n - 1))),
        retrieval=retrieval(text, embedded.mean(1)),
        similarity=similarity,
        flicker=[temporal_flicker(video) for video in generated.frames],
        motion=[motion_magnitude(video) for video in generated.frames],
        real_alignment=text_alignment(text_real[same], embedded_real[same].mean(1)),
        real_retrieval=retrieval(text_real[same], embedded_real[same].mean(1)),
        real_flicker=[temporal_flicker(real.frames[i]) for i in same],
        real_motion=[motion_magnitude(real.frames[i]) for i in same],
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


def score_seams(record: dict[str, Any]) -> SeamScores:
    """From the errors that `read_seams` measured."""
    curves = {key: record[key] for key in ("multidiffusion", "independent")}
    return SeamScores(
        **{key: seam_ratio(curve, record["borders"]) for key, curve in curves.items()},
        curves={key: curve.mean(0) for key, curve in curves.items()},
        borders=list(record["borders"]),
        num_videos=len(curves["independent"]),
        window_size=record["window_size"],
        overlap=record["overlap"],
    )


def flat_metrics(scores: SetScores, samples: Sequence[SampleScores], seams: SeamScores) -> dict[str, float]:
    """What goes to metrics.json and MLflow: one flat mapping, names of letters, digits and underscores."""
    values: dict[str, float] = {}
    for kind, distance in scores.distances.items():
        values[f"frechet_{kind}"] = distance.value
        values[f"frechet_{kind}_floor"] = distance.floor
    some = scores.distances["clip"]
    values |= {"frechet_num_clips": some.num_clips, "frechet_num_reference": some.num_reference}
    for prefix, found, alignment in [
        ("", scores.retrieval, scores.alignment), ("real_", scores.real_retrieval, scores.real_alignment),
    ]:  # fmt: skip
        values |= {
            f"{prefix}text_alignment": alignment,
            f"{prefix}retrieval_r1": found.recall_1,
            f"{prefix}retrieval_r5": found.recall_5,
            f"{prefix}retrieval_median_rank": found.median_rank,
        }
    values["text_alignment_mismatched"] = scores.mismatched
    values["retrieval_num_candidates"] = scores.retrieval.num_candidates
    values |= {"flicker": _mean(scores.flicker), "real_flicker": _mean(scores.real_flicker)}
    values |= {"motion": _mean(scores.motion), "real_motion": _mean(scores.real_motion)}
    values |= {"seam_ratio_multidiffusion": seams.multidiffusion, "seam_ratio_independent": seams.independent}
    values["samples_text_alignment"] = _mean([sample.alignment for sample in samples])
    for mode in sorted({sample.mode for sample in samples if not math.isnan(sample.psnr)}):
        of_mode = [sample.psnr for sample in samples if sample.mode == mode and not math.isnan(sample.psnr)]
        values[f"known_psnr_{mode}"] = _mean(of_mode)
    return {key: round(float(value), 6) for key, value in values.items()}


def _embed(judge: Judge, videos: np.ndarray) -> np.ndarray:
    """uint8 (n, t, h, w, 3) → float32 (n, t, d)."""
    n, t = videos.shape[:2]
    return judge.encode_frames(videos.reshape(n * t, *videos.shape[2:])).reshape(n, t, -1)


def _psnr_arguments(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"frames": known["generated"], "known": known["known"], "known_mask": known["known_mask"]}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
