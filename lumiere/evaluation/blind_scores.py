"""Marks the scores that the study of docs/evaluation.md found blind, or could not judge.

`lumiere.evaluation.study.sensitivity` runs the study. A test holds `BLIND` to docs/sensitivity.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lumiere.evaluation.scores import Score

NOT_JUDGED = "not judged: the clips of the study give its floor no interval"

# The scores that do not count, and why.
BLIND = {
    "independent_recall": "it does not notice another subject, one video for all",
    "independent_density": "its order is wrong: JPEG, torn shapes",
    "motion_share": "its order is wrong: jitter",
    "periodicity": "it does not notice frames shuffled, noise, jitter",
    "retrieval_median_rank": NOT_JUDGED,
    "period_s": NOT_JUDGED,
    "period_kept": NOT_JUDGED,
    "period_mismatch_s": NOT_JUDGED,
    "phase_coherence": NOT_JUDGED,
}


def mark(scores: Sequence[Score]) -> list[Score]:
    """Return the scores; those of `BLIND` have `sees=False`, so that no verdict rests on them.

    A score that the study does not know, such as one of another network, is left as it is.
    """
    return [replace(score, sees=False) if score.key in BLIND else score for score in scores]
