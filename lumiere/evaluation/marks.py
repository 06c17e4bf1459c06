"""Marks the scores that the study of docs/evaluation.md found blind.

`lumiere.evaluation.study.sensitivity` runs the study. A test holds `BLIND` to docs/sensitivity.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lumiere.evaluation.scores import Score

# The scores that do not count, and why.
BLIND = {
    "independent_recall": "it does not notice another subject, one video for all",
    "independent_density": "its order is wrong: JPEG, torn shapes",
    "motion_share": "its order is wrong: jitter",
    "periodicity": "it does not notice frames shuffled, noise, jitter",
}


def mark(scores: Sequence[Score]) -> list[Score]:
    """Return the scores; those that the study found blind have `sees=False`.

    A score that the study does not know, such as one of another network, is left as it is.
    """
    return [replace(score, sees=False) if score.key in BLIND else score for score in scores]
