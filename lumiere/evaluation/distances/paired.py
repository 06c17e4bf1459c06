"""The similarity of each generated video to the real video of its caption."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lumiere.evaluation.alignment import cosine_similarity
from lumiere.evaluation.distances.feature_sets import OTHER_TIMES, REFERENCE, FeatureSet
from lumiere.evaluation.mean_scores import mean_floor, mean_score
from lumiere.evaluation.scores import COSINE, Better, Definition, Score


@dataclass(frozen=True)
class PairedSimilarity:
    """Cosine similarities of mean features, by generated video.

    Attributes:
        videos: (n,) positions of the generated videos that have a real counterpart.
        subjects: their n subjects.
        similarity: (n,), with window A of the subject, in [−1, 1].
        floor: (n,), of window B of the subject with its window A; NaN where there is none.
        others: (n,), the mean similarity of the other subjects' window A with this one's: how
            close a video of something else comes.
    """

    videos: np.ndarray
    subjects: list[str]
    similarity: np.ndarray
    floor: np.ndarray
    others: np.ndarray

    def worst_first(self) -> np.ndarray:
        """Return positions of the generated videos, the least similar first."""
        return self.videos[np.argsort(self.similarity, kind="stable")]


def paired_similarity(generated: FeatureSet, real: FeatureSet) -> PairedSimilarity:
    """Compare each generated video with the real video of its subject.

    Args:
        generated: features of frames; videos whose subject is not among the real ones are left
            out. Several videos of one subject are compared one by one.
        real: window A of at least 2 subjects, and window B where there is one.

    Raises:
        ValueError: if no generated video has a counterpart, there are fewer than 2 real subjects,
            d differs, or a mean feature is zero.
    """
    window_a, window_b = real.first_of_each(REFERENCE), real.first_of_each(OTHER_TIMES)
    videos = [i for i, subject in enumerate(generated.subjects) if subject in window_a]
    if not videos or len(window_a) < 2:
        raise ValueError(
            f"{len(videos)} generated videos with a real one of their subject, {len(window_a)} real "
            "subjects; expected at least 1 and 2"
        )
    subjects = [generated.subjects[i] for i in videos]
    names = list(window_a)
    real_means = real.means()
    reference = real_means[[window_a[name] for name in names]]
    own = np.array([names.index(subject) for subject in subjects])

    similarity = cosine_similarity(generated.means()[videos], reference)
    own_similarity = similarity[np.arange(len(videos)), own]
    floor = np.full(len(videos), np.nan)
    for row, subject in enumerate(subjects):
        if subject in window_b:
            pair = real_means[[window_b[subject]]], reference[own[[row]]]
            floor[row] = cosine_similarity(*pair)[0, 0]
    between = cosine_similarity(reference[own], reference)
    between[np.arange(len(videos)), own] = 0
    others = between.sum(1) / (len(names) - 1)
    return PairedSimilarity(np.array(videos), subjects, own_similarity, floor, others)


def paired_score(
    pairs: PairedSimilarity, key: str, label: str, note: str = "", seed: int = 0
) -> Score:
    """Return the mean paired similarity as a score.

    Its floor compares windows B with windows A, and its other floor the other subjects' windows A
    with one another; `lumiere.evaluation.mean_scores` says what their intervals are. There is no floor
    if a subject has no window B.
    """
    definition = Definition(label, Better.HIGHER, "", note, bounds=COSINE)
    has_floor = np.isfinite(pairs.floor).all()
    floor, floor_subjects = (pairs.floor, pairs.subjects) if has_floor else ((), ())
    paired = mean_score(
        key,
        definition,
        pairs.similarity,
        floor,
        group="distances",
        subjects=pairs.subjects,
        real_subjects=floor_subjects,
        seed=seed,
    )
    count = len(set(pairs.subjects))
    others = mean_floor(
        key, definition, pairs.others, count=count, subjects=pairs.subjects, seed=seed
    )
    return replace(paired, other_floor=others)
