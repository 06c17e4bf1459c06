"""The rows of the page's tables: scores beside their floors, and changes since an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lumiere.evaluation.report import wording
from lumiere.evaluation.report.changes import Change, Effect, changes, counts_of_rest, gone
from lumiere.evaluation.report.content import Previous
from lumiere.evaluation.report.strips import strip
from lumiere.evaluation.report.verdict import GROUP_NAMES
from lumiere.evaluation.scores import Score


@dataclass(frozen=True)
class Row:
    """A score as the page shows it."""

    score: Score
    key: Markup
    arrow: str
    direction: str
    value: str
    interval: str
    floor: str
    floor_interval: str
    other: str
    ratio: str
    strip: Markup
    badges: list[tuple[str, str]]


def score_groups(scores: Sequence[Score]) -> list[dict[str, object]]:
    """Return the tables in the order of the report, each with its title and rows."""
    names = [*GROUP_NAMES, *(score.group for score in scores)]
    groups: list[dict[str, object]] = []
    for group in dict.fromkeys(names):
        members = [score for score in scores if score.group == group]
        if members:
            title = GROUP_NAMES.get(group, group.replace("_", " "))
            rows = [_row(score) for score in members]
            groups.append({"title": title[:1].upper() + title[1:], "rows": rows})
    return groups


def _row(score: Score) -> Row:
    floor = score.floor
    ratio = wording.times_floor(score)
    return Row(
        score=score,
        key=_breakable(score.key),
        arrow=wording.ARROWS[score.better],
        direction=wording.DIRECTIONS[score.better],
        value=wording.number(score.value),
        interval=wording.interval(score.interval),
        floor=wording.number(floor.value) if floor else "",
        floor_interval=wording.interval(floor.interval) if floor else "",
        other=wording.number(score.other_floor.value) if score.other_floor else "",
        ratio=f"{wording.number(ratio)} × floor" if ratio is not None else "",
        strip=strip(score),
        badges=_badges(score),
    )


def _breakable(key: str) -> Markup:
    """Let a long key break at its underscores."""
    return Markup("_<wbr>").join(key.split("_"))


def _badges(score: Score) -> list[tuple[str, str]]:
    """Return (class, words) of each mark of a score; the page explains the words."""
    outside = score.outside_floor()
    if outside:
        badges = [("bad", "✕ outside")]
    elif outside is False:
        badges = [("good", "✓ inside")]
    else:
        badges = [("quiet", "– no floor" if score.floor is None else "– no interval")]
    if score.saturated:
        badges.append(("warn", "▲ saturated"))
    if not score.sees:
        badges.append(("warn", "◌ blind"))
    return badges


def change_view(scores: Sequence[Score], previous: Previous) -> dict[str, object]:
    """Return what the tables of changes show."""
    all_changes = changes(scores, previous.metrics)
    return {
        "commit": previous.commit,
        "rows": [_change_row(c) for c in all_changes if c.effect in (Effect.BETTER, Effect.WORSE)],
        "unsure": [_change_row(c) for c in all_changes if c.effect is Effect.UNSURE],
        "rest": counts_of_rest([c for c in all_changes if c.effect is not Effect.UNSURE]),
        "gone": gone(scores, previous.metrics),
    }


def _change_row(change: Change) -> dict[str, object]:
    marks = {Effect.BETTER: "▲", Effect.WORSE: "▼"}
    classes = {Effect.BETTER: "good", Effect.WORSE: "bad"}
    assert change.before is not None
    return {
        "label": change.score.label,
        "key": _breakable(change.score.key),
        "arrow": wording.ARROWS[change.score.better],
        "before": wording.number(change.before),
        "before_interval": wording.interval(change.before_interval),
        "now": wording.number(change.score.value),
        "now_interval": wording.interval(change.score.interval),
        "effect": f"{marks.get(change.effect, '?')} {change.effect}",
        "class": classes.get(change.effect, "quiet"),
    }
