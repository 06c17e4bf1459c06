"""The verdict: fixed rules, three sentences, never flattering."""

from __future__ import annotations

import math

import pytest

from lumiere.evaluation.report.verdict import Outcome, excess, verdict
from lumiere.evaluation.scores import Better, Floor, Score
from tests.evaluation.report.factory import score

INSIDE = score("frechet_inside", 15.0)
OUTSIDE = score("independent_frechet", 286.0)


def text(scores: list[Score]) -> str:
    return " ".join(verdict(scores).sentences)


def test_a_distance_beyond_its_floor_is_told_with_its_size() -> None:
    found = verdict([score("flicker", 0.99, (0.99, 0.98, 1.0), group="temporal"), OUTSIDE])
    assert found.outcome is Outcome.TOLD_APART
    whether, in_what, good = found.sentences
    assert "286, 17.9 times the 16" in whether and "14 to 19; 24 videos" in whether
    assert "distances to real clips (1 of 1 score outside the floor)" in in_what
    assert "“flicker” (0.99 against 0.99)" in good


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        ([INSIDE], Outcome.AS_GOOD_AS_REAL),
        ([INSIDE, score("psnr", 9.0, None, group="modes")], Outcome.NOT_TOLD_APART),
        ([score("flicker", 15.0, group="temporal")], Outcome.NOT_TOLD_APART),
        ([INSIDE, score("r1", 1.0, None, saturated=True)], Outcome.AS_GOOD_AS_REAL),
        ([INSIDE, score("blind", 286.0, sees=False)], Outcome.AS_GOOD_AS_REAL),
        ([INSIDE, OUTSIDE], Outcome.TOLD_APART),
        ([score(saturated=True)], Outcome.UNKNOWN),
        ([score(value=15.0, sees=False)], Outcome.UNKNOWN),
        ([score(floor=None)], Outcome.UNKNOWN),
        ([], Outcome.UNKNOWN),
    ],
)
def test_as_good_as_real_needs_every_score_that_counts_inside(
    scores: list[Score], outcome: Outcome
) -> None:
    found = verdict(scores)
    assert found.outcome is outcome
    assert ("as good as real" in " ".join(found.sentences)) is (outcome is Outcome.AS_GOOD_AS_REAL)
    assert len(found.sentences) == 3
    assert all(line.endswith(".") for line in found.sentences)


def test_a_floor_without_interval_does_not_count() -> None:
    bare = Score("a", "a", "distances", 1.0, Better.LOWER, floor=Floor(1.0))
    assert verdict([bare]).outcome is Outcome.UNKNOWN
    assert "1 without a floor's interval" in text([OUTSIDE, bare])


def test_the_first_sentence_says_if_only_other_scores_tell_them_apart() -> None:
    flicker = score("flicker", 0.5, (0.99, 0.98, 1.0), Better.HIGHER, "temporal")
    found = verdict([score("independent_frechet", 15.0), flicker])
    assert found.outcome is Outcome.TOLD_APART
    assert found.sentences[0].startswith("1 score of 2 tells")
    assert "although “independent frechet” (15 against 16) does not" in found.sentences[0]
    assert "about 1 score in 20" in found.sentences[0]


def test_a_floor_around_zero_gives_no_ratio() -> None:
    kernel = score("independent_kernel", 0.2, (-0.001, -0.002, 0.003))
    assert "times" not in text([kernel]) and "0.2, against the −0.001" in text([kernel])


def test_the_groups_with_the_largest_share_outside_come_first() -> None:
    scores = [
        OUTSIDE,
        INSIDE,
        score("smooth", 0.1, (0.9, 0.8, 1.0), Better.HIGHER, "temporal"),
    ]
    in_what = verdict(scores).sentences[1]
    assert in_what.index("consistency over time (1 of 1") < in_what.index("(1 of 2")


@pytest.mark.parametrize(
    ("value", "better", "expected"),
    [
        (21.5, Better.LOWER, 1.0),
        (19.0, Better.LOWER, 0.0),
        (9.0, Better.LOWER, -4.0),
        (9.0, Better.HIGHER, 2.0),
        (9.0, Better.CLOSER, 2.0),
        (24.0, Better.CLOSER, 2.0),
    ],
)
def test_excess_counts_half_widths_beyond_the_interval(
    value: float, better: Better, expected: float
) -> None:
    assert excess(score(value=value, better=better)) == pytest.approx(expected)


def test_excess_of_an_interval_without_width() -> None:
    assert excess(score(value=0.5, floor=(1.0, 1.0, 1.0), better=Better.HIGHER)) == pytest.approx(
        50
    )
    assert excess(score(value=0.5, floor=(0.0, 0.0, 0.0))) == math.inf
    assert excess(score(value=0.0, floor=(0.0, 0.0, 0.0))) == 0.0
