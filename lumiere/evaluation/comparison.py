"""Turns the measurements of generated and real videos into scores with intervals and floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from lumiere.evaluation.blind_scores import mark
from lumiere.evaluation.distances.feature_sets import REFERENCE
from lumiere.evaluation.distances.floors import distances
from lumiere.evaluation.distances.paired import PairedSimilarity, paired_score, paired_similarity
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measure_videos import PROXY, Measurement, Networks, measure_set
from lumiere.evaluation.measurements import Measured, feature_sets, frames_of
from lumiere.evaluation.scores import LeftOut, Score
from lumiere.evaluation.standard_scores import standard_scores
from lumiere.evaluation.temporal.temporal_scores import temporal_scores
from lumiere.evaluation.temporal.video_numbers import compare_frames
from lumiere.evaluation.text_scores import text_scores
from lumiere.evaluation.videos import Video

# real videos that serve as a reference if names and captions do not match the two sets
MAX_REAL = 256


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of two sets.

    Attributes:
        scores: in the report's order.
        left_out: measures that these videos do not allow.
        measured: what the scores were computed from.
        pairs: how similar each video is to its real counterpart; None without counterparts.
        ranks: for each generated video, by index, the rank of its caption among all; may be empty.
    """

    scores: list[Score]
    left_out: list[LeftOut]
    measured: Measured
    pairs: PairedSimilarity | None = None
    ranks: dict[int, int] = field(default_factory=dict)


def measure_sets(sets: MatchedSets, networks: Networks, seed: int = 0) -> Measured:
    """Pass over all videos that the scores need, one at a time."""
    reference, others = _reference(sets, seed)
    generated, bad = measure_set(
        sets.generated, range(len(sets.generated)), networks, "generated videos"
    )
    real, bad_real = measure_set(sets.real, reference, networks, "real videos")
    windows = [index for index in real if index in sets.other_windows]
    again, bad_again = measure_set(_Windows(sets), windows, networks, "other windows", whole=False)
    # Other subjects serve as a floor of distances only.
    without_judge = replace(networks, judge=None)
    aside, bad_others = measure_set(sets.real, others, without_judge, "other subjects", whole=False)
    paired, paired_real = _compare_pairs(sets, generated, real, again)
    unreadable = {**bad, **bad_real, **bad_again, **bad_others}
    return Measured(generated, real, again, aside, paired, paired_real, unreadable)


def _compare_pairs(
    sets: MatchedSets,
    generated: Mapping[int, Measurement],
    real: Mapping[int, Measurement],
    again: Mapping[int, Measurement],
) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]]:
    """Compare the frames of each generated video, and of each window B, with window A."""
    if sets.num_frames < 2:
        return {}, {}
    paired: dict[int, dict[str, float]] = {}
    paired_real: dict[int, dict[str, float]] = {}
    for index in tqdm(generated, desc="pairs", unit="video", leave=False):
        partner = sets.partners[index]
        if partner is None or partner not in real:
            continue
        frames = sets.real[partner].frames
        paired[index] = compare_frames(sets.generated[index].frames, frames, sets.fps)
        if partner in again and partner not in paired_real:
            window = sets.other_windows[partner]().frames
            paired_real[partner] = compare_frames(window, frames, sets.fps)
    return paired, paired_real


def compare(sets: MatchedSets, measured: Measured, networks: Networks, seed: int = 0) -> Comparison:
    """Compute all scores of two sets.

    Raises:
        ValueError: if fewer than 2 generated or 2 real videos could be measured.
    """
    scores: list[Score] = []
    left_out: list[LeftOut] = []
    generated, real = feature_sets(sets, measured, frames_of(networks.main.name))
    distance_scores, missing = distances(
        generated, real, prefix="independent", name="", note=PROXY, seed=seed
    )
    scores += distance_scores
    left_out += missing
    left_out += _copies(distance_scores)
    pairs = None
    if not any(subject in real.first_of_each(REFERENCE) for subject in generated.subjects):
        left_out.append(
            LeftOut(
                "Similarity with the real video of its caption",
                "no generated video has the name or the caption of a real one.",
            )
        )
    else:
        try:
            pairs = paired_similarity(generated, real)
        except ValueError as error:
            left_out.append(LeftOut("Similarity with the real video of its caption", f"{error}."))
    if pairs is not None:
        scores.append(
            paired_score(
                pairs, "independent_similarity", "Similarity with the real video of its caption",
                PROXY, seed,
            )
        )  # fmt: skip
    scores += standard_scores(sets, measured, networks, seed, left_out)
    ranks: dict[int, int] = {}
    if networks.judge is not None:
        text, ranks = text_scores(sets, measured, networks.judge, seed, left_out)
        scores += text
    scores += temporal_scores(sets, measured, networks, seed, left_out)
    return Comparison(mark(scores), left_out, measured, pairs, ranks)


def _copies(scores: Sequence[Score]) -> list[LeftOut]:
    """Remark on a kernel distance below what real videos reach in place of the generated ones.

    It leaves out pairs of one subject, because these are alike. If names and
    captions do not match the two sets, copies of real videos count as pairs and pull it below zero.
    """
    for score in scores:
        floor = None if score.floor is None else score.floor.interval
        if score.key == "independent_kernel" and floor is not None and score.value < floor.low:
            return [
                LeftOut(
                    "Kernel distance below its floor",
                    "it is no better than real. Generated videos may be copies of real ones, or show "
                    "other subjects than their captions say.",
                )
            ]
    return []


# --- sets of features --------------------------------------------------------------------------------------------


def _reference(sets: MatchedSets, seed: int) -> tuple[list[int], list[int]]:
    """Return the real videos to compare with, and as many of other subjects for their floor."""
    rng = np.random.default_rng(seed)
    partners = list(dict.fromkeys(p for p in sets.partners if p is not None))
    if len(partners) < 2 or 2 * sets.num_matched < len(sets.partners):
        count = len(sets.real)
        picks = rng.permutation(count)[:MAX_REAL] if count > MAX_REAL else np.arange(count)
        return sorted({*map(int, picks), *partners}), []
    rest = [index for index in range(len(sets.real)) if index not in set(partners)]
    drawn = rng.permutation(len(rest))[: len(partners)]
    return partners, sorted(rest[i] for i in drawn)


class _Windows:
    """The other windows as a set, by the index of the real video."""

    def __init__(self, sets: MatchedSets) -> None:
        self.readers = sets.other_windows
        self.names = [f"{name}, another window" for name in sets.real.names]

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> Video:
        return self.readers[index]()
