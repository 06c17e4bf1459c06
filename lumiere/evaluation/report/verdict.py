"""Says in three sentences what the scores mean, by fixed rules that never flatter.

A score counts only if it is not blind, not saturated, and has a floor with an interval. "As good as
real" is said only if every unsaturated score that sees has such a floor and lies inside it, and a distance
is among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lumiere.evaluation.report.wording import (
    against_floor,
    interval,
    listed,
    number,
    times_floor,
)
from lumiere.evaluation.scores import Score
from lumiere.plurals import counted, is_or_are

MAIN_KEYS = ("independent_frechet", "independent_kernel")
NUM_GROUPS, NUM_INSIDE = 3, 4  # named in a sentence
MIN_HALF_WIDTH = 0.01  # of an interval, as a part of its larger end
GROUP_NAMES = {
    "distances": "distances to real clips",
    "text": "text alignment",
    "temporal": "consistency over time",
    "motion": "motion",
    "modes": "editing modes",
    "seams": "window seams",
}


class Outcome(StrEnum):
    """The outcome: whether the scores distinguish generated videos from real ones."""

    TOLD_APART = "Told apart from real clips"
    NOT_TOLD_APART = "Not told apart by these scores"
    AS_GOOD_AS_REAL = "As good as real by these scores"
    UNKNOWN = "No verdict"


@dataclass(frozen=True)
class Verdict:
    """The meaning of the scores: an outcome, and three sentences (whether, in what, what is good)."""

    outcome: Outcome
    sentences: tuple[str, str, str]


def verdict(scores: Sequence[Score]) -> Verdict:
    """Judge the scores by the rules of this module."""
    trusted = [score for score in scores if counts(score)]
    outside = [score for score in trusted if score.outside_floor()]
    inside = [score for score in trusted if not score.outside_floor()]
    if not trusted:
        return _unknown(scores)
    if outside:
        first = _told_apart(trusted, outside)
        return Verdict(
            Outcome.TOLD_APART, (first, _in_what(trusted, outside), _inside(scores, inside))
        )
    return _not_told_apart(scores, trusted)


def counts(score: Score) -> bool:
    """Return whether the verdict may rest on a score."""
    return score.sees and not score.saturated and score.outside_floor() is not None


def excess(score: Score) -> float:
    """Return how far a value lies beyond the floor's interval, in half-widths of the interval.

    It is negative inside. The half-width counts as at least 1 % of the floor, so that an interval
    without width, such as that of a precision of 1, does not outweigh everything else.
    """
    assert score.floor is not None and score.floor.interval is not None
    low, high = score.floor.interval.low, score.floor.interval.high
    beyond = {"lower": score.value - high, "higher": low - score.value}
    distance = beyond.get(score.better.value, max(score.value - high, low - score.value))
    half_width = max((high - low) / 2, MIN_HALF_WIDTH * max(abs(low), abs(high)))
    if half_width == 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / half_width


def _main(trusted: Sequence[Score]) -> Score | None:
    by_key = {score.key: score for score in trusted}
    for key in MAIN_KEYS:
        if key in by_key:
            return by_key[key]
    return next((score for score in trusted if score.group == "distances"), None)


def _told_apart(trusted: Sequence[Score], outside: Sequence[Score]) -> str:
    main = _main(trusted)
    if main is None or main not in outside:
        worst = max(outside, key=excess)
        start = f"{counted(len(outside), 'score')} of {len(trusted)} tell"
        if len(outside) == 1:
            start = f"1 score of {len(trusted)} tells"
        but = f", although “{main.label}” ({against_floor(main)}) does not" if main else ""
        return (
            f"{start} the generated videos from real clips{but}: the furthest outside its floor is "
            f"“{worst.label}”, {against_floor(worst)} (by chance alone, about 1 score in 20 would be)."
        )
    assert main.floor is not None
    ratio = times_floor(main)
    size = f"{number(ratio)} times" if ratio else "against"
    unit = f" {main.unit}" if main.unit else ""
    return (
        f"The generated videos are told apart from real clips: “{main.label}” is "
        f"{number(main.value)}{unit}, {size} the {number(main.floor.value)} that real clips reach "
        f"in their place (95 % interval {interval(main.floor.interval)}; "
        f"{counted(main.num_videos, 'video')})."
    )


def _in_what(trusted: Sequence[Score], outside: Sequence[Score]) -> str:
    groups = list(dict.fromkeys(score.group for score in outside))

    def badness(group: str) -> tuple[float, float]:
        members = [score for score in trusted if score.group == group]
        bad = [score for score in outside if score.group == group]
        return len(bad) / len(members), max(excess(score) for score in bad)

    groups.sort(key=badness, reverse=True)
    main = _main(trusted)
    parts: list[str] = []
    for group in groups[:NUM_GROUPS]:
        members = [score for score in trusted if score.group == group]
        bad = [score for score in outside if score.group == group]
        worst = max(bad, key=excess)
        share = f"{len(bad)} of {counted(len(members), 'score')} outside the floor"
        if parts:
            share = f"{len(bad)} of {len(members)}"
        # The first sentence already gives the main score's value.
        example = "" if worst is main else f"; worst: “{worst.label}”, {against_floor(worst)}"
        parts.append(f"{GROUP_NAMES.get(group, group)} ({share}{example})")
    start = "They fall short in" if len(groups) == 1 else "They fall short most in"
    return f"{start} {listed(parts)}."


def _inside(scores: Sequence[Score], inside: Sequence[Score]) -> str:
    uncounted = _uncounted(scores)
    if not inside:
        return f"No score that counts lies inside its floor{uncounted}."
    best = sorted(inside, key=excess)[:NUM_INSIDE]
    names = [f"“{score.label}” ({against_floor(score)})" for score in best]
    if len(inside) > NUM_INSIDE:
        names.append(f"{len(inside) - NUM_INSIDE} more")
    return f"They reach the level of real clips in {listed(names)}{uncounted}."


def _uncounted(scores: Sequence[Score]) -> str:
    """Say how many scores the verdict does not rest on."""
    useless = sum(1 for score in scores if score.saturated or not score.sees)
    bare = sum(
        1
        for score in scores
        if score.sees and not score.saturated and score.outside_floor() is None
    )
    parts = []
    if useless:
        parts.append(f"{counted(useless, 'score')} saturated or blind")
    if bare:
        parts.append(f"{bare} without a floor's interval")
    return f"; not counted: {listed(parts)}" if parts else ""


def _not_told_apart(scores: Sequence[Score], trusted: Sequence[Score]) -> Verdict:
    eligible = [score for score in scores if score.sees and not score.saturated]
    nearest = max(trusted, key=excess)
    smallest = min(score.num_videos for score in trusted)
    second = (
        f"Nothing lies outside the floor; the score nearest to its limit is “{nearest.label}”, "
        f"{against_floor(nearest)}."
    )
    third = f"With {counted(smallest, 'video')}, small differences do not show{_uncounted(scores)}."
    has_distance = any(score.group == "distances" for score in trusted)
    if len(eligible) == len(trusted) and has_distance:
        first = (
            f"By all {counted(len(trusted), 'score')} that count, the generated videos are as good "
            "as real: each lies inside the interval that real clips reach."
        )
        return Verdict(Outcome.AS_GOOD_AS_REAL, (first, second, third))
    why = "none of them is a distance to real clips"
    if has_distance:
        missing = len(eligible) - len(trusted)
        why = f"{missing} of {counted(len(eligible), 'score')} cannot be compared with a floor"
    first = (
        f"The {counted(len(trusted), 'score')} with a floor do not tell the generated videos from "
        f"real clips, which proves little, because {why}."
    )
    return Verdict(Outcome.NOT_TOLD_APART, (first, second, third))


def _unknown(scores: Sequence[Score]) -> Verdict:
    useless = sum(1 for score in scores if score.saturated or not score.sees)
    return Verdict(
        Outcome.UNKNOWN,
        (
            "This evaluation cannot say whether the generated videos differ from real clips, "
            "because no score that sees has a floor with an interval.",
            "Without floors, it cannot say in what they differ either.",
            f"Of {counted(len(scores), 'score')}, {useless} "
            f"{is_or_are(useless)} saturated or blind, so watch the videos below.",
        ),
    )
