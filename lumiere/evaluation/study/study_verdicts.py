"""Decides from a study which scores notice which degradation, and which scores therefore count.

`lumiere.evaluation.study.sensitivity` runs the study; `lumiere.evaluation.blind_scores` applies the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lumiere.evaluation.blind_scores import NOT_JUDGED
from lumiere.evaluation.scores import Better, Score
from lumiere.evaluation.study.degradations import DEGRADATIONS

TOLERANCE = 0.5  # of half the floor's interval; two steps that differ by less count as equal
MIN_ORDER = 0.8  # share of the pairs of steps that must be in the right order
MIN_SEEN = 0.5  # share of the degradations that a score must see of those it is meant for

_LOOK = ("noise", "speckle", "blur", "jpeg", "torn", "melted", "hue", "pale")
_SET = ("other_subject", "collapsed")
_MATCH = ("swapped", *_SET)
_UNSTEADY = ("jitter", "flicker", "boiling")

# What each score is meant to notice. Whatever else it notices is in the table as well.
EXPECTED: dict[str, tuple[str, ...]] = {
    "independent_frechet": (*_LOOK, *_SET),
    "independent_kernel": (*_LOOK, "collapsed"),  # other subjects are the same distribution
    "independent_precision": (*_LOOK, "other_subject"),
    "independent_recall": _SET,
    "independent_density": (*_LOOK, "other_subject"),
    "independent_coverage": _SET,
    "independent_similarity": (*_LOOK, *_MATCH),
    "text_alignment": _MATCH,
    "retrieval_r1": _MATCH,
    "retrieval_r5": _MATCH,
    "retrieval_median_rank": _MATCH,
    "independent_consistency": ("frozen", "boiling", "drift", "jitter"),
    "flicker": ("noise", "speckle", "frozen", "shuffled", *_UNSTEADY),
    "frame_change": ("noise", "speckle", "frozen", "shuffled", *_UNSTEADY),
    "motion_px": ("frozen", "shuffled", "jitter"),
    "motion_p95_px": ("frozen", "shuffled", "jitter"),
    "motion_share": ("frozen", "jitter"),
    "is_static": ("frozen",),
    "large_motion": ("jitter",),
    "interpolation_smoothness": ("shuffled", "noise", *_UNSTEADY),
    "background_noise": ("noise", "speckle"),
    "background_flicker": ("noise", "speckle", "flicker"),
    "high_frequency_share": ("noise", "speckle", "shuffled", *_UNSTEADY),
    "period_s": ("shuffled",),
    "periodicity": ("shuffled", "noise", "jitter"),
    "motion_log_ratio": ("frozen", "jitter"),
    "motion_mismatch": ("frozen", "jitter"),
    "frame_change_log_ratio": ("noise", "speckle", "frozen", *_UNSTEADY),
    "spectrum_distance": ("noise", "shuffled", "frozen", *_UNSTEADY),
    "period_kept": ("shuffled", "frozen", "other_subject"),
    "period_mismatch_s": ("shuffled", "other_subject"),
    "phase_coherence": ("shuffled", "frozen", "other_subject"),
}


class Verdict(StrEnum):
    """The response of a score to a degradation."""

    SEEN = "seen"  # it worsens in order, and leaves the floor's interval
    NOT_SEEN = "not seen"  # it stays within the interval
    WRONG_ORDER = "wrong order"  # it leaves the interval, but stronger steps do not score worse
    UNKNOWN = (
        "unknown"  # the floor has no interval: too few videos allow the score, or all are equal
    )


@dataclass(frozen=True)
class Cell:
    """One score under one degradation.

    Attributes:
        values: of the undegraded set, then of each step; NaN where the videos do not allow it.
        outside: for the same sets, whether the value is worse than the floor's interval allows.
        order: the share of pairs of steps whose stronger one scores worse, among those that differ
            by more than the tolerance; NaN if none do.
        verdict: what follows from these.
        seen_from: the step from which on all steps are outside; empty if there is none.
    """

    values: tuple[float, ...]
    outside: tuple[bool, ...]
    order: float
    verdict: Verdict
    seen_from: str = ""


def judge_steps(scores: Sequence[Score | None], labels: Sequence[str]) -> Cell:
    """Judge a score by its values on ever more degraded sets.

    The undegraded set is the floor, so the floor's interval is centred on its value: with
    `Better.CLOSER`, the floor is the mean of window A, from which window B may differ by chance. A
    value within the floor's own interval is never outside: one that ends at the lowest possible
    value, such as 0, ends there for every set.

    Args:
        scores: of the undegraded set, then one per step; None where the set does not allow it.
        labels: of the steps.

    Raises:
        ValueError: if their numbers do not agree.
    """
    if len(scores) != len(labels) + 1:
        raise ValueError(f"{len(scores)} scores and {len(labels)} steps; expected one score more")
    start = scores[0]
    values = tuple(math.nan if score is None else score.value for score in scores)
    if start is None or start.floor is None or start.floor.interval is None:
        return Cell(values, (False,) * len(values), math.nan, Verdict.UNKNOWN)
    harm = [_harm(value, start) for value in values]
    outside = tuple(not math.isnan(value) and value > 1 for value in harm)
    order = _order(harm)
    seen_from = _seen_from(values, outside, labels)
    is_sorted = math.isnan(order) or order >= MIN_ORDER
    if any(outside[1:]) and not (is_sorted and seen_from):
        return Cell(values, outside, order, Verdict.WRONG_ORDER)
    verdict = Verdict.SEEN if seen_from else Verdict.NOT_SEEN
    return Cell(values, outside, order, verdict, seen_from)


def _seen_from(values: Sequence[float], outside: Sequence[bool], labels: Sequence[str]) -> str:
    """Return the label of the step from which on all steps are outside; empty if there is none."""
    seen_from = ""
    for k in range(len(labels), 0, -1):
        if math.isnan(values[k]):
            continue  # a set may not allow the score: frozen videos have no spectrum
        if not outside[k]:
            break
        seen_from = labels[k - 1]
    return seen_from


def can_see(key: str, cells: Mapping[str, Cell]) -> tuple[bool, str]:
    """Decide whether a score counts, from what it is meant to notice.

    A score that the study could not judge at all does not count. One that is not part of the study,
    such as one of another network, does.

    Args:
        key: of the score.
        cells: by degradation.

    Returns:
        The decision, and a sentence on why not; empty if it counts.
    """
    studied = [name for name in EXPECTED.get(key, ()) if name in cells]
    if not studied:
        return True, ""
    expected = [name for name in studied if cells[name].verdict is not Verdict.UNKNOWN]
    if not expected:
        return False, NOT_JUDGED
    wrong = [name for name in expected if cells[name].verdict is Verdict.WRONG_ORDER]
    if wrong:
        return False, f"its order is wrong: {_labels(wrong)}"
    blind = [name for name in expected if cells[name].verdict is Verdict.NOT_SEEN]
    if len(expected) - len(blind) < MIN_SEEN * len(expected):
        return False, f"it does not notice {_labels(blind)}"
    return True, ""


def _harm(value: float, start: Score) -> float:
    """Return by how much a value is worse than the undegraded one; 1 is the end of the floor's
    interval, and less than 0 is better.
    """
    assert start.floor is not None and start.floor.interval is not None
    low, high = start.floor.interval.low, start.floor.interval.high
    harm = _change(value, start)
    return min(harm, 1.0) if low <= value <= high else harm


def _change(value: float, start: Score) -> float:
    assert start.floor is not None and start.floor.interval is not None
    change = value - start.value
    upwards = start.floor.interval.high - start.floor.value
    downwards = start.floor.value - start.floor.interval.low
    if start.better is Better.LOWER:
        return _ratio(change, upwards)
    if start.better is Better.HIGHER:
        return _ratio(-change, downwards)
    return _ratio(abs(change), upwards if change > 0 else downwards)


def _ratio(change: float, width: float) -> float:
    if width > 0:
        return change / width
    return math.copysign(math.inf, change) if change else 0.0


def _order(harm: Sequence[float]) -> float:
    finite = [value for value in harm if not math.isnan(value)]
    right = wrong = 0
    for i, weaker in enumerate(finite):
        for stronger in finite[i + 1 :]:
            right += stronger > weaker + TOLERANCE
            wrong += stronger < weaker - TOLERANCE
    return right / (right + wrong) if right + wrong else math.nan


def _labels(keys: Sequence[str]) -> str:
    return ", ".join(DEGRADATIONS[key].label for key in keys)
