"""Scores of the standard networks, where the user gives their weights.

A score has its official name (FID, KID, FVD, Inception Score) only if the weights are the
published ones; otherwise its key begins with the network's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lumiere.evaluation.alignment import cosine_similarity
from lumiere.evaluation.backbones import (
    AestheticHead,
    Classifier,
    FrameBackbone,
    TextBackbone,
    VideoBackbone,
)
from lumiere.evaluation.backbones.aesthetic import CLIP
from lumiere.evaluation.distances.floors import distances
from lumiere.evaluation.distances.inception import inception_score
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.mean_scores import mean_score
from lumiere.evaluation.measure_videos import Measurement, Networks
from lumiere.evaluation.measurements import Measured, clip_of, feature_sets, frames_of, own_subject
from lumiere.evaluation.scores import COSINE, Better, Definition, Floor, LeftOut, Score
from lumiere.evaluation.temporal.consistency import aesthetic_quality

SPLITS = 10  # of the Inception Score, as published
MIN_SPLIT = 2  # frames in a split


def standard_scores(
    sets: MatchedSets, measured: Measured, networks: Networks, seed: int, left_out: list[LeftOut]
) -> list[Score]:
    """Return the scores of every network besides the embedded one."""
    scores: list[Score] = []
    for backbone in networks.frame:
        scores += _frame_distances(sets, measured, backbone, seed, left_out)
        if isinstance(backbone, Classifier):
            scores += _inception_scores(measured, backbone, left_out)
        if isinstance(backbone, TextBackbone):
            scores += _clip_similarity(sets, measured, backbone, seed, left_out)
        if networks.aesthetic is not None and backbone.name == CLIP:
            scores += _aesthetic_quality(sets, measured, backbone, networks.aesthetic, seed)
    for video_backbone in networks.video:
        scores += _video_distances(sets, measured, video_backbone, seed, left_out)
    return scores


def _frame_distances(
    sets: MatchedSets,
    measured: Measured,
    backbone: FrameBackbone,
    seed: int,
    left_out: list[LeftOut],
) -> list[Score]:
    is_fid = backbone.name == "inception_v3" and backbone.weights.published
    distance_scores, missing = distances(
        *feature_sets(sets, measured, frames_of(backbone.name)),
        prefix=backbone.name,
        name=backbone.name,
        note=_about(backbone),
        measures=("frechet", "kernel"),
        kernel="kid" if is_fid else "videos",
        frechet_key="fid" if is_fid else "",
        kernel_key="kid" if is_fid else "",
        seed=seed,
    )
    left_out += missing
    return distance_scores


def _video_distances(
    sets: MatchedSets,
    measured: Measured,
    backbone: VideoBackbone,
    seed: int,
    left_out: list[LeftOut],
) -> list[Score]:
    is_fvd = backbone.name == "i3d" and backbone.weights.published
    distance_scores, missing = distances(
        *feature_sets(sets, measured, clip_of(backbone.name)),
        prefix=backbone.name,
        name=backbone.name,
        note=_about(backbone),
        measures=("frechet", "kernel"),
        # JEDi's form of the kernel distance, on V-JEPA features; JEDi's own network is another one.
        kernel="jedi" if backbone.name.startswith("vjepa") else "videos",
        frechet_key="fvd" if is_fvd else "",
        seed=seed,
    )
    left_out += missing
    return distance_scores


def _inception_scores(
    measured: Measured, backbone: Classifier, left_out: list[LeftOut]
) -> list[Score]:
    is_official = backbone.name == "inception_v3" and backbone.weights.published
    generated = _probabilities(measured.generated.values(), backbone.name)
    # The score depends on the number of frames, so the floor has as many videos.
    matched = list(measured.real.values())[: len(measured.generated)]
    real = _probabilities(matched, backbone.name)
    if len(generated) < SPLITS * MIN_SPLIT:
        why = f"there are {len(generated)} frames; its {SPLITS} splits need at least {SPLITS * MIN_SPLIT}."
        left_out.append(LeftOut(f"Inception Score, {backbone.name}", why))
        return []
    floor = None
    if len(real) == len(generated):
        floor = Floor(inception_score(real, SPLITS).mean)
    return [
        Score(
            key="inception_score" if is_official else f"{backbone.name}_score",
            label="Inception Score"
            if is_official
            else f"Inception Score's formula, {backbone.name}",
            group="distances",
            value=inception_score(generated, SPLITS).mean,
            better=Better.HIGHER,
            floor=floor,
            num_videos=len(measured.generated),
            note=f"{_about(backbone)} The score is the mean over {SPLITS} splits of {len(generated)} frames.",
        )
    ]


def _clip_similarity(
    sets: MatchedSets,
    measured: Measured,
    backbone: TextBackbone,
    seed: int,
    left_out: list[LeftOut],
) -> list[Score]:
    """Return the formula of CLIPSIM (Wu et al. 2021): the mean cosine of each frame with the caption."""
    generated = [m for m in measured.generated.values() if m.caption]
    real = [m for m in measured.real.values() if m.captions]
    label = f"Similarity of the frames with the caption (CLIPSIM's formula), {backbone.name}"
    if len(generated) < 2:
        left_out.append(LeftOut(label, "at least two generated videos need captions."))
        return []
    values = _frame_similarity(generated, [m.caption for m in generated], backbone)
    floor = _frame_similarity(real, [m.captions[0] for m in real], backbone) if real else ()
    definition = Definition(
        label,
        Better.HIGHER,
        "",
        f"{_about(backbone)} The score is the mean cosine of the frames with the caption.",
        bounds=COSINE,
    )
    subjects = [own_subject(sets, m) for m in generated]
    key = f"{backbone.name}_clipsim"
    return [mean_score(key, definition, values, floor, group="text", subjects=subjects, seed=seed)]


def _aesthetic_quality(
    sets: MatchedSets, measured: Measured, backbone: FrameBackbone, head: AestheticHead, seed: int
) -> list[Score]:
    """Return VBench's aesthetic quality beside that of the real videos."""

    def values(measurements: Iterable[Measurement]) -> np.ndarray:
        rows = [m.frames[backbone.name] for m in measurements]
        return np.array([aesthetic_quality(each, head.weight, head.bias) for each in rows])

    definition = Definition(
        "Aesthetic quality",
        Better.HIGHER,
        "",
        "VBench's score: LAION's linear head on CLIP ViT-L/14, divided by 10. "
        f"{_about(backbone)} {head.weights.describe()}",
    )
    return [
        mean_score(
            "aesthetic_quality",
            definition,
            values(measured.generated.values()),
            values(measured.real.values()),
            group="temporal",
            subjects=[own_subject(sets, m) for m in measured.generated.values()],
            seed=seed,
        )
    ]


def _frame_similarity(
    measurements: Sequence[Measurement], captions: Sequence[str], backbone: TextBackbone
) -> np.ndarray:
    text = backbone.embed_texts(list(captions))
    values: list[float] = []
    for row, measurement in zip(text, measurements, strict=True):
        similarity = cosine_similarity(row[None], measurement.frames[backbone.name])
        values.append(float(similarity.mean()))
    return np.array(values)


def _probabilities(measurements: Iterable[Measurement], name: str) -> np.ndarray:
    rows = [m.probabilities[name] for m in measurements if name in m.probabilities]
    return np.concatenate(rows) if rows else np.zeros((0, 1))


def _about(backbone: FrameBackbone | VideoBackbone) -> str:
    return f"{backbone.preprocessing} {backbone.weights.describe()}"
