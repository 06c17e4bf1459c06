"""Chooses the videos that a distance compares: the generated set, and the real sets of its floors.

There are two designs. *Matched*: generated videos have real counterparts (videos of the same subject). The
reference is window A of these subjects. The same-subject floor compares window B of the same
subjects with it; the other-subject floor as many real videos of other subjects. *Unmatched*: names
and captions do not say which real video a generated one belongs to. The reference is all real
videos. The same-subject floor compares other times of as many real videos with it; the
other-subject floor sets as many real videos aside and compares them with the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from lumiere.evaluation.distances.feature_sets import OTHER_TIMES, REFERENCE, FeatureSet
from lumiere.plurals import counted, has_or_have, there_are

MIN_VIDEOS = 2
NUM_DRAWS = 8  # of real videos, where there are more than needed


@dataclass(frozen=True)
class Side:
    """One side of a distance.

    Attributes:
        videos: positions among the generated videos, then the real ones.
        units: one name per video; videos of one unit are resampled together.
    """

    videos: np.ndarray
    units: tuple[str, ...]

    def without(self, units: Collection[str]) -> np.ndarray:
        """Return the videos of all other units."""
        left_out = set(units)
        return self.videos[[unit not in left_out for unit in self.units]]


@dataclass(frozen=True)
class Pairing:
    """Two sets whose distance is wanted."""

    compared: Side
    reference: Side

    def strata(self) -> list[list[str]]:
        """Return units that were drawn together: on both sides, compared only, reference only."""
        compared = dict.fromkeys(self.compared.units)  # keeps the order, unlike a set
        reference = dict.fromkeys(self.reference.units)
        both = [unit for unit in compared if unit in reference]
        only_compared = [unit for unit in compared if unit not in reference]
        only_reference = [unit for unit in reference if unit not in compared]
        return [units for units in (both, only_compared, only_reference) if units]


@dataclass(frozen=True)
class Design:
    """The pairings of a score and of its floors.

    Attributes:
        value, floor, other: a score is the mean over its pairings; empty if there is none.
        num_videos: videos on the compared side, the same for the score and its floors.
        num_reference: videos on the reference side of the score.
        matched: whether generated videos are compared with real ones of the same subjects.
        remarks: sentences on what was left out and why.
    """

    value: list[Pairing]
    floor: list[Pairing]
    other: list[Pairing]
    num_videos: int
    num_reference: int
    matched: bool
    remarks: list[str] = field(default_factory=list)


def make_design(
    generated: FeatureSet, real: FeatureSet, seed: int = 0, num_draws: int = NUM_DRAWS
) -> Design:
    """Choose what to compare. It is matched if at least half of the generated subjects are real ones.

    Raises:
        ValueError: if there are fewer than 2 generated videos, or 2 real videos in window A.
    """
    available = real.first_of_each(REFERENCE)
    num_real = sum(window == REFERENCE for window in real.windows)
    if len(generated) < MIN_VIDEOS or num_real < MIN_VIDEOS:
        raise ValueError(
            f"{len(generated)} generated and {num_real} real videos; a distance needs at least "
            f"{MIN_VIDEOS} of each"
        )
    matches = {
        subject: index
        for subject, index in generated.first_of_each(REFERENCE).items()
        if subject in available
    }
    owned = sum(subject in matches for subject in generated.subjects)
    rng = np.random.default_rng(seed)
    if len(matches) >= MIN_VIDEOS and 2 * owned >= len(generated):
        return _matched(generated, real, matches, rng, num_draws)
    return _unmatched(generated, real, rng, num_draws)


def _matched(
    generated: FeatureSet,
    real: FeatureSet,
    matches: dict[str, int],
    rng: np.random.Generator,
    num_draws: int,
) -> Design:
    subjects = list(matches)
    n, offset = len(subjects), len(generated)
    window_a, window_b = real.first_of_each(REFERENCE), real.first_of_each(OTHER_TIMES)
    remarks = []
    if n < len(generated):
        remarks.append(
            f"{counted(len(generated) - n, 'generated video')} left out: without a real video of the "
            "subject, or not the first of the subject."
        )

    reference = _side(subjects, window_a, offset)
    value = [Pairing(_side(subjects, matches, 0), reference)]
    floor = []
    missing = [subject for subject in subjects if subject not in window_b]
    if missing:
        remarks.append(
            f"No same-subject floor: {len(missing)} of {n} subjects {has_or_have(len(missing))} no other "
            "real frames."
        )
    else:
        floor = [Pairing(_side(subjects, window_b, offset), reference)]
    others = [subject for subject in window_a if subject not in matches]
    other = []
    if len(others) < n:
        remarks.append(
            f"No other-subject floor: {counted(len(others), 'other subject')}, {n} are needed."
        )
    else:
        for picks in _draws(others, n, rng, num_draws):
            other.append(Pairing(_side(picks, window_a, offset), reference))
    return Design(value, floor, other, n, n, True, remarks)


def _unmatched(
    generated: FeatureSet, real: FeatureSet, rng: np.random.Generator, num_draws: int
) -> Design:
    # A real video without a subject is its own subject.
    window_a, window_b = real.first_of_each(REFERENCE), real.first_of_each(OTHER_TIMES)
    for index, subject in enumerate(real.subjects):
        if not subject and real.windows[index] == REFERENCE:
            window_a[f"real video {index}"] = index
    own = {f"generated video {index}": index for index in range(len(generated))}
    offset, n = len(generated), min(len(generated), len(window_a))
    remarks = []
    if n < len(generated):
        remarks.append(
            f"The distance is a mean over draws of {n} of the {len(generated)} generated videos."
        )

    everything = _side(list(window_a), window_a, offset)
    value = [
        Pairing(_side(picks, own, 0), everything) for picks in _draws(list(own), n, rng, num_draws)
    ]
    floor = []
    if len(window_b) < n:
        remarks.append(
            f"No same-subject floor: it needs {n} real videos with other times, and "
            f"{there_are(len(window_b), 'such video')}."
        )
    else:
        for picks in _draws(list(window_b), n, rng, num_draws):
            floor.append(Pairing(_side(picks, window_b, offset), everything))
    other = []
    if len(window_a) < 2 * n:
        remarks.append(
            f"No other-subject floor: {counted(len(window_a), 'real video')}, {2 * n} are needed."
        )
    else:
        for picks in _draws(list(window_a), n, rng, num_draws):
            rest = [subject for subject in window_a if subject not in set(picks)]
            aside = _side(picks, window_a, offset)
            other.append(Pairing(aside, _side(rest, window_a, offset)))
    return Design(value, floor, other, n, len(window_a), False, remarks)


def _side(units: Sequence[str], positions: dict[str, int], offset: int) -> Side:
    return Side(np.array([offset + positions[unit] for unit in units]), tuple(units))


def _draws(names: list[str], n: int, rng: np.random.Generator, num_draws: int) -> list[list[str]]:
    """Draw n names without replacement, several times; once if there is no choice."""
    if n == len(names):
        return [names]
    return [[names[i] for i in np.sort(rng.permutation(len(names))[:n])] for _ in range(num_draws)]
