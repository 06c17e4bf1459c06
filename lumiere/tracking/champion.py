"""Decides whether a new version of the model becomes the champion.

The rule: the chosen score has to be better by more than chance. It is, if the 95 % intervals of both
versions do not overlap. The report of an evaluation marks a score as better by the same rule.

Only versions that were measured in the same way are compared: a digest in their tags identifies the
settings of the evaluation, and the clips that it compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lumiere.errors import DataError, ParamsError

PREFIX = "score."  # of the tags of a version
MEASURED = "measured_md5"  # the tag with the digest of how the scores were measured


@dataclass(frozen=True)
class Standing:
    """One score of one version.

    Attributes:
        value: the score.
        low, high: its 95 % interval; None if it has none.
        better: "lower", "higher" or "closer" (to `floor`).
        floor: the score of real clips; None if it has none.
    """

    value: float
    better: str
    low: float | None = None
    high: float | None = None
    floor: float | None = None

    @property
    def shown(self) -> str:
        """The value and the interval, as people read them."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    @property
    def loss(self) -> float:
        """A number that is smaller for a better value."""
        if self.better == "closer":
            return abs(self.value - (self.floor or 0.0))
        return self.value if self.better == "lower" else -self.value


def read_standings(path: Path) -> dict[str, Standing]:
    """Read the scores that the stage `evaluate` wrote, by key.

    Raises:
        DataError: if the file has another form.
    """
    try:
        standings = {}
        for score in json.loads(path.read_text(encoding="utf-8")):
            low, high = score["interval"] or (None, None)
            floor = (score["floor"] or {}).get("value")
            standings[score["key"]] = Standing(score["value"], score["better"], low, high, floor)
        return standings
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the scores of an evaluation ({error!r})") from None


def choose(standings: Mapping[str, Standing], metric: str) -> Standing:
    """Return the score that decides.

    Raises:
        ParamsError: if there is no such score, or it has no interval.
    """
    usable = [key for key, standing in standings.items() if standing.low is not None]
    if metric not in usable:
        raise ParamsError(f"registry.metric: {metric!r}; allowed: {', '.join(usable)}")
    return standings[metric]


def is_improvement(new: Standing, champion: Standing) -> bool:
    """Return whether the new version is better by more than chance."""
    overlaps = _low(new) <= _high(champion) and _low(champion) <= _high(new)
    return new.better == champion.better and not overlaps and new.loss < champion.loss


def as_tags(standings: Mapping[str, Standing]) -> dict[str, str]:
    """Return the tags that keep the scores with a version."""
    return {f"{PREFIX}{key}": json.dumps(asdict(score)) for key, score in standings.items()}


def from_tags(tags: Mapping[str, str], metric: str) -> Standing | None:
    """Return one score of a version; None if the version was measured without it."""
    text = tags.get(f"{PREFIX}{metric}")
    return None if text is None else Standing(**json.loads(text))


def _low(standing: Standing) -> float:
    return standing.value if standing.low is None else standing.low


def _high(standing: Standing) -> float:
    return standing.value if standing.high is None else standing.high
