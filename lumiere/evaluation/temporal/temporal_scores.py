"""Scores of change over time, beside the real videos' values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.mean_scores import mean_score
from lumiere.evaluation.measure_videos import PROXY, Measurement, Networks
from lumiere.evaluation.measurements import Measured, own_subject
from lumiere.evaluation.scores import ZERO_TO_ONE, Better, Definition, LeftOut, Score
from lumiere.evaluation.temporal.consistency import subject_consistency
from lumiere.evaluation.temporal.spectrum import MIN_SPECTRUM_FRAMES
from lumiere.evaluation.temporal.video_numbers import PAIRED_SCORES, TEMPORAL_SCORES

MOTION = re.compile("motion|static|period|phase|spectrum")  # keys of the report's section
# Frames that a score needs; most need 2.
LEAST_FRAMES = {
    "interpolation_smoothness": 3,
    "high_frequency_share": MIN_SPECTRUM_FRAMES,
    "spectrum_distance": MIN_SPECTRUM_FRAMES,
}


def temporal_scores(
    sets: MatchedSets, measured: Measured, networks: Networks, seed: int, left_out: list[LeftOut]
) -> list[Score]:
    """Return the scores of change over time, beside the real videos' values."""
    generated = list(measured.generated.values())
    real = _counterparts(sets, measured)
    subjects = [own_subject(sets, m) for m in generated]
    scores = _consistency_scores(generated, real, subjects, networks, seed)
    scores += _mean_scores(
        TEMPORAL_SCORES,
        [m.numbers for m in generated],
        [m.numbers for m in real],
        subjects,
        sets,
        seed,
        left_out,
    )
    if measured.paired:
        scores += _mean_scores(
            PAIRED_SCORES,
            list(measured.paired.values()),
            list(measured.paired_real.values()),
            [own_subject(sets, measured.generated[index]) for index in measured.paired],
            sets,
            seed,
            left_out,
        )
    return scores


def _mean_scores(
    definitions: Mapping[str, Definition],
    generated: Sequence[Mapping[str, float]],
    real: Sequence[Mapping[str, float]],
    subjects: Sequence[str],
    sets: MatchedSets,
    seed: int,
    left_out: list[LeftOut],
) -> list[Score]:
    """Return the scores that at least one generated video has; say why not for the others."""
    scores: list[Score] = []
    for key, definition in definitions.items():
        values = [numbers[key] for numbers in generated]
        if np.isnan(values).all():
            left_out.append(LeftOut(definition.label, _why_absent(key, sets.num_frames)))
            continue
        reference = [numbers[key] for numbers in real]
        group = "motion" if MOTION.search(key) else "temporal"
        scores.append(
            mean_score(
                key, definition, values, reference, group=group, subjects=subjects, seed=seed
            )
        )
    return scores


def _why_absent(key: str, num_frames: int) -> str:
    needed = LEAST_FRAMES.get(key, 0)
    if num_frames < needed:
        return f"it needs {needed} frames, and these videos have {num_frames}."
    return "no video changes enough for it, or none repeats."


def _counterparts(sets: MatchedSets, measured: Measured) -> list[Measurement]:
    """Return the real videos of the generated ones' subjects, or all if these are unknown."""
    partners = dict.fromkeys(sets.partners[index] for index in measured.generated)
    own = [measured.real[p] for p in partners if p is not None and p in measured.real]
    return own if len(own) >= 2 else list(measured.real.values())


def _consistency_scores(
    generated: Sequence[Measurement],
    real: Sequence[Measurement],
    subjects: Sequence[str],
    networks: Networks,
    seed: int,
) -> list[Score]:
    """Return how alike the frames of a video are, by every frame backbone."""
    scores: list[Score] = []
    for backbone in [networks.main, *networks.frame]:
        is_main = backbone is networks.main
        key = "independent_consistency" if is_main else f"{backbone.name}_consistency"
        label = "Consistency of the frames' features"
        if not is_main:
            label = f"{label}, {backbone.name}"
        definition = Definition(
            label, Better.CLOSER, "",
            "VBench's formula: the mean cosine of each frame with the first and with the previous "
            "frame. It is VBench's subject consistency with DINO ViT-B/16, and its background "
            "consistency with CLIP ViT-B/32. "
            f"{PROXY if is_main else backbone.preprocessing}",
            ZERO_TO_ONE,
        )  # fmt: skip
        values = [_consistency(m.frames[backbone.name]) for m in generated]
        if np.isnan(values).all():
            continue
        reference = [_consistency(m.frames[backbone.name]) for m in real]
        scores.append(
            mean_score(
                key, definition, values, reference, group="temporal", subjects=subjects, seed=seed
            )
        )
    return scores


def _consistency(features: np.ndarray) -> float:
    is_zero = not np.asarray(features).any(axis=1).all()  # such features have no direction
    return subject_consistency(features) if len(features) > 1 and not is_zero else math.nan
