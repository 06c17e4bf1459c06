"""Turns the measurements of generated and real videos into scores with intervals and floors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from lumiere.evaluation.alignment import (
    caption_pool,
    caption_ranks,
    cosine_similarity,
    retrieval_scores,
)
from lumiere.evaluation.bootstrap import hull, mean_interval, share_interval
from lumiere.evaluation.consistency import subject_consistency
from lumiere.evaluation.feature_sets import REFERENCE
from lumiere.evaluation.floors import distances
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.marks import mark
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measured import Measured, feature_sets, frames_of, real_name, subject_name
from lumiere.evaluation.measuring import Measurement, Networks, measure_set
from lumiere.evaluation.paired import PairedSimilarity, paired_score, paired_similarity
from lumiere.evaluation.scores import Better, Floor, Interval, LeftOut, Score
from lumiere.evaluation.spectrum import MIN_SPECTRUM_FRAMES
from lumiere.evaluation.standard_scores import standard_scores
from lumiere.evaluation.time_scores import (
    PAIRED_SCORES,
    TEMPORAL_SCORES,
    Definition,
    compare_frames,
)
from lumiere.evaluation.videos import Video

# Frames that a score needs; most need 2.
LEAST_FRAMES = {
    "interpolation_smoothness": 3,
    "high_frequency_share": MIN_SPECTRUM_FRAMES,
    "spectrum_distance": MIN_SPECTRUM_FRAMES,
}
MOTION = re.compile("motion|static|period|phase|spectrum")
MAX_REAL = (
    256  # real videos that serve as a reference if nothing tells which belong to the generated ones
)
UNKNOWN_CAPTIONS = (
    "the embedded judge was trained on none of these captions, so it cannot judge them; train it on "
    "them, or give CLIP's weights."
)
PROXY = (
    "The features are those of EfficientNet-Lite0, which was trained on ImageNet and has seen none "
    "of these videos. They serve as a proxy: this is not FID or FVD."
)


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two sets found.

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
    aside, bad_others = measure_set(sets.real, others, networks, "other subjects", whole=False)
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
    for index in tqdm(generated, desc="pairs", unit="video", leave=False, disable=None):
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
    found, missing = distances(
        generated, real, prefix="independent", name="", note=PROXY, seed=seed
    )
    scores += found
    left_out += missing
    left_out += _copies(found)
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
        text, ranks = _text_scores(sets, measured, networks.judge, seed, left_out)
        scores += text
    scores += temporal_scores(sets, measured, networks, seed, left_out)
    return Comparison(mark(scores), left_out, measured, pairs, ranks)


def _copies(scores: Sequence[Score]) -> list[LeftOut]:
    """Remark on a kernel distance below what real videos reach in place of the generated ones.

    It leaves out pairs of one subject, because these are alike. If nothing tells which generated
    video shows which subject, copies of real videos count as pairs and pull it below zero.
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


# --- text --------------------------------------------------------------------------------------------------------


def _text_scores(
    sets: MatchedSets, measured: Measured, judge: Judge, seed: int, left_out: list[LeftOut]
) -> tuple[list[Score], dict[int, int]]:
    """Return alignment and retrieval among all captions, and each generated video's rank."""
    generated = [m for m in measured.generated.values() if m.caption]
    captions = [sentences for sentences in sets.real_captions if sentences]
    if len(generated) < 2 or len(captions) < 2:
        left_out.append(
            LeftOut(
                "Text alignment",
                "at least two generated and two real videos need captions.",
            )
        )
        return [], {}
    known = sum(judge.captions.issuperset(sentences) for sentences in captions)
    if judge.captions and not known:
        left_out.append(LeftOut("Text alignment", UNKNOWN_CAPTIONS))
        return [], {}
    real = [m for m in measured.real.values() if m.captions]
    again = [m for m in measured.again.values() if m.captions]
    pool, _ = caption_pool([m.caption for m in generated], sets.real_captions)
    embedded = judge.encode_text(pool.texts)
    ranks = caption_ranks(_text_space(generated), embedded, pool.own)
    real_ranks = None
    if real:
        windows = [*real, *again]
        own, _ = caption_pool([m.captions[0] for m in windows], sets.real_captions)
        if own.texts != pool.texts:
            # A prompt that no real video has is a candidate for the real ones as well.
            own = type(own)(pool.texts, [_positions(pool.texts, m.captions) for m in windows])
        real_ranks = caption_ranks(_text_space(windows), embedded, own.own)
    note = f"The judge is the {judge.name}."
    if judge.captions:
        note = f"{note[:-1]}, which was trained on {known} of these {len(captions)} videos."
    subjects = [subject_name(sets, m) or m.name for m in generated]
    scores = [_alignment_score(generated, real, judge, note, seed)]
    scores += retrieval_scores(
        ranks, real_ranks, len(pool.texts), subjects=subjects,
        real_subjects=[real_name(m.index) for m in [*real, *again]] if real else None,
        note=note, seed=seed,
    )  # fmt: skip
    return scores, {m.index: int(rank) for m, rank in zip(generated, ranks, strict=True)}


def _positions(texts: Sequence[str], captions: Sequence[str]) -> list[int]:
    wanted = {" ".join(caption.casefold().split()) for caption in captions}
    return [i for i, text in enumerate(texts) if " ".join(text.casefold().split()) in wanted]


def _text_space(measurements: Sequence[Measurement]) -> np.ndarray:
    return np.stack([m.text_space for m in measurements if m.text_space is not None])


def _alignment_score(
    generated: Sequence[Measurement],
    real: Sequence[Measurement],
    judge: Judge,
    note: str,
    seed: int,
) -> Score:
    values = _own_similarity(generated, [m.caption for m in generated], judge)
    floor = None
    if len(real) >= 2:
        floor_values = _own_similarity(real, [m.captions[0] for m in real], judge)
        floor = Floor(float(floor_values.mean()), mean_interval(floor_values, seed=seed))
    return Score(
        key="text_alignment",
        label="Similarity with its caption",
        group="text",
        value=float(values.mean()),
        better=Better.HIGHER,
        interval=mean_interval(values, seed=seed),
        floor=floor,
        num_videos=len(values),
        note=f"{note} The score is the mean cosine in its space. It is not CLIPSIM.",
    )


def _own_similarity(
    measurements: Sequence[Measurement], captions: Sequence[str], judge: Judge
) -> np.ndarray:
    text = judge.encode_text(list(captions))
    return np.diagonal(cosine_similarity(text, _text_space(measurements))).copy()


# --- time --------------------------------------------------------------------------------------------------------


def temporal_scores(
    sets: MatchedSets, measured: Measured, networks: Networks, seed: int, left_out: list[LeftOut]
) -> list[Score]:
    """Return the scores of change over time, beside the real videos' values."""
    generated = list(measured.generated.values())
    real = _counterparts(sets, measured)
    scores = _consistency_scores(generated, real, networks, seed)
    for key, definition in TEMPORAL_SCORES.items():
        found = mean_score(
            key,
            definition,
            [m.numbers[key] for m in generated],
            [m.numbers[key] for m in real],
            seed,
        )
        _add(found, key, definition, sets, scores, left_out)
    for key, definition in PAIRED_SCORES.items():
        found = mean_score(
            key,
            definition,
            [pair[key] for pair in measured.paired.values()],
            [pair[key] for pair in measured.paired_real.values()],
            seed,
        )
        if measured.paired:
            _add(found, key, definition, sets, scores, left_out)
    return scores


def _counterparts(sets: MatchedSets, measured: Measured) -> list[Measurement]:
    """Return the real videos of the generated ones' subjects; all of them, where nothing tells."""
    partners = dict.fromkeys(sets.partners[index] for index in measured.generated)
    own = [measured.real[p] for p in partners if p is not None and p in measured.real]
    return own if len(own) >= 2 else list(measured.real.values())


def _add(
    score: Score | None,
    key: str,
    definition: Definition,
    sets: MatchedSets,
    scores: list[Score],
    left_out: list[LeftOut],
) -> None:
    if score is not None:
        scores.append(score)
        return
    needed = LEAST_FRAMES.get(key, 0)
    why = "no video changes enough for it, or none repeats."
    if sets.num_frames < needed:
        why = f"it needs {needed} frames, and these videos have {sets.num_frames}."
    left_out.append(LeftOut(definition.label, why))


def _consistency_scores(
    generated: Sequence[Measurement], real: Sequence[Measurement], networks: Networks, seed: int
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
        )  # fmt: skip
        found = mean_score(
            key,
            definition,
            [_consistency(m.frames[backbone.name]) for m in generated],
            [_consistency(m.frames[backbone.name]) for m in real],
            seed,
        )
        if found is not None:
            scores.append(found)
    return scores


def _consistency(features: np.ndarray) -> float:
    is_zero = not np.asarray(features).any(axis=1).all()  # such features have no direction
    return subject_consistency(features) if len(features) > 1 and not is_zero else math.nan


def mean_score(
    key: str,
    definition: Definition,
    values: Sequence[float],
    real: Sequence[float],
    seed: int = 0,
) -> Score | None:
    """Return the mean of a value per video beside the real videos' mean; None if no video has it.

    The floor's interval is where the mean of as many other real videos lies in 95 % of cases: a
    prediction interval, wider than that of the real mean itself, because both means vary. NaN marks
    a video that has no such value.
    """
    own = np.asarray([value for value in values if math.isfinite(value)])
    reference = np.asarray([value for value in real if math.isfinite(value)])
    if not len(own):
        return None
    is_share = definition.unit == "share"
    floor = None
    if len(reference):
        interval = _interval(reference, is_share, seed)
        floor = Floor(float(reference.mean()), _widened(interval, reference, len(own), is_share))
    return Score(
        key=key,
        label=_capital(definition.label),
        group="motion" if MOTION.search(key) else "temporal",
        value=float(own.mean()),
        better=definition.better,
        interval=_interval(own, is_share, seed),
        floor=floor,
        num_videos=len(own),
        note=definition.note,
        unit=definition.unit,
    )


def _interval(values: np.ndarray, is_share: bool, seed: int) -> Interval | None:
    if len(values) < 2:
        return None
    interval = mean_interval(values, seed=seed)
    # The bootstrap of a share has no width if all videos agree.
    return (
        hull(interval, share_interval(float(values.mean()), len(values))) if is_share else interval
    )


def _widened(
    interval: Interval | None, reference: np.ndarray, count: int, is_share: bool
) -> Interval | None:
    """Turn the interval of a mean into one for the mean of `count` other videos.

    Variances of independent means add up. The bootstrap's own variance is too small by (n − 1) / n.
    """
    if interval is None:
        return None
    n, mean = len(reference), float(reference.mean())
    factor = math.sqrt((1 + n / count) * n / (n - 1))
    low, high = mean + factor * (interval.low - mean), mean + factor * (interval.high - mean)
    return Interval(max(low, 0.0), min(high, 1.0)) if is_share else Interval(low, high)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
