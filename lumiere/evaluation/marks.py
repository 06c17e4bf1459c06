"""Marks the scores that a study found blind.

`lumiere.evaluation.sensitivity` runs the study and writes sensitivity.json beside this file;
`docs/evaluation.md` shows it as tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lumiere.evaluation.scores import Score

STUDY_FILE = Path(__file__).with_name("sensitivity.json")


def mark(scores: Sequence[Score]) -> list[Score]:
    """Return the scores; those that the study found blind have `sees=False`.

    A score that the study does not know, such as one of another network, is left as it is.
    """
    blind = blind_scores()
    return [replace(score, sees=False) if score.key in blind else score for score in scores]


@cache
def blind_scores() -> dict[str, str]:
    """Return the keys of the scores that do not count, with the reason."""
    scores = load_study()["scores"]
    return {key: entry["why"] for key, entry in scores.items() if not entry["sees"]}


def load_study(path: Path = STUDY_FILE) -> dict[str, Any]:
    """Read the committed study: `settings`, and `scores` by key."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
