"""Shows a study of what scores see (`lumiere.evaluation.study.sensitivity`) as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumiere.evaluation.study.degradations import DEGRADATIONS, Touches
from lumiere.evaluation.study.study_verdicts import EXPECTED, Verdict

BEGIN, END = "<!-- tables of the study -->\n", "<!-- end of the tables -->\n"


def blind_scores(study: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of the scores that do not count, with the reason."""
    scores = study["scores"]
    return {key: entry["why"] for key, entry in scores.items() if not entry["sees"]}


def tables(study: Mapping[str, Any]) -> str:
    """Return Markdown tables of a study, and a list of the scores that do not count."""
    groups: dict[str, list[str]] = {"The look": [], "Time": [], "Subjects and captions": []}
    for name, degradation in DEGRADATIONS.items():
        if degradation.sources is not None:
            groups["Subjects and captions"].append(name)
        elif Touches.LOOK in degradation.touches and name not in ("boiling", "drift"):
            groups["The look"].append(name)
        else:
            groups["Time"].append(name)
    parts = [_table(title, names, study["scores"]) for title, names in groups.items()]
    return "\n".join([*parts, _list_of_blind(study)])


def _list_of_blind(study: Mapping[str, Any]) -> str:
    lines = ["**Blind scores**", ""]
    for key, why in blind_scores(study).items():
        lines.append(f"- `{key}`: {why}.")
    return "\n".join([*lines, ""])


def _table(title: str, names: Sequence[str], scores: Mapping[str, Any]) -> str:
    header = ["score", *(DEGRADATIONS[name].label for name in names)]
    lines = [f"**{title}**", "", _row(header), _row(["---"] * len(header))]
    for key, entry in scores.items():
        cells = [_text(key, name, entry["degradations"][name]) for name in names]
        lines.append(_row([f"`{key}`" + ("" if entry["sees"] else " ✗"), *cells]))
    return "\n".join([*lines, ""])


def _text(key: str, degradation: str, cell: Mapping[str, Any]) -> str:
    expected = degradation in EXPECTED.get(key, ())
    if cell["verdict"] == Verdict.UNKNOWN:
        return "?"
    if cell["verdict"] == Verdict.WRONG_ORDER:
        return "**order wrong**" if expected else "order wrong"
    if cell["verdict"] == Verdict.SEEN:
        return f"**{cell['from']}**" if expected else cell["from"]
    return "**never**" if expected else "–"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replace_tables(text: str, new: str) -> str:
    """Put tables between the marks of a document.

    Raises:
        ValueError: if it has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no lines {BEGIN.strip()} and {END.strip()} to put the tables between")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"
