"""Compares the scores of a clip with the thresholds of `params.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumiere.config import CurateConfig
from lumiere.curation.measurement import Segment
from lumiere.curation.reasons import Reason, Rejection

SAME = 1e-6  # differences that do not count


@dataclass(frozen=True)
class LimitedScore:
    """A score with a threshold that may be off.

    Attributes:
        column: of the manifest; that of a model is there if the params name the model.
        title: what it is, with its unit.
        parameter: the key of the threshold, without its section.
        off: the value of that key at which there is no threshold.
        reason: of clips that do not reach it.
        is_upper: whether higher values are rejected.
        lowest: where the logarithmic axis of its chart begins; 0 for a linear one.
    """

    column: str
    title: str
    parameter: str
    off: float
    reason: Reason
    is_upper: bool = False
    lowest: float = 0.0

    def limit(self, config: CurateConfig) -> float | None:
        """Return the threshold; None if there is none."""
        value = float(getattr(config, self.parameter))
        return None if value == self.off else value


PICTURE_SCORES = (
    LimitedScore(
        "sharpness",
        "sharpness, variance of the Laplacian",
        "min_sharpness",
        0.0,
        Reason.BLURRED,
        lowest=1.0,
    ),
    LimitedScore(
        "dark_share",
        "share that is nearly black",
        "max_dark_share",
        1.0,
        Reason.TOO_DARK,
        is_upper=True,
    ),
    LimitedScore(
        "bright_share",
        "share that is nearly white",
        "max_bright_share",
        1.0,
        Reason.TOO_BRIGHT,
        is_upper=True,
    ),
)
MODEL_SCORES = (
    LimitedScore(
        "aesthetic", "aesthetic score, about 1 to 10", "min_aesthetic", 0.0, Reason.LOW_AESTHETIC
    ),
    LimitedScore(
        "caption_match", "fit of the caption, cosine", "min_caption_match", 0.0,
        Reason.CAPTION_MISMATCH,
    ),
    LimitedScore(
        "text_area", "share under text", "max_text_area", 1.0, Reason.TOO_MUCH_TEXT, is_upper=True
    ),
)  # fmt: skip


def too_small(side: int, config: CurateConfig) -> Rejection | None:
    """Return why a picture is too small by its shorter side, in pixels; None if it is not."""
    if side >= config.min_side:
        return None
    detail = f"Its shorter side is {side} pixels; curate.min_side is {config.min_side}."
    return Rejection(Reason.TOO_SMALL, detail)


def too_short_or_still(segment: Segment, config: CurateConfig) -> Rejection | None:
    """Return why a stretch is too short or moves too little; None if it is fine."""
    seconds = float(segment.end - segment.start)
    if seconds < config.min_seconds - SAME:
        return Rejection(
            Reason.TOO_SHORT,
            f"It is {seconds:.2f} s long; curate.min_seconds is {config.min_seconds:g}.",
        )
    if segment.motion <= config.min_motion:
        return Rejection(
            Reason.NO_MOTION,
            f"Its optical flow is {segment.motion:.4f} pixels per frame; "
            f"curate.min_motion is {config.min_motion:g}.",
        )
    return None


def plain(value: float) -> str:
    """Return a score in three digits, and without an exponent if it is large."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bad_score(cells: Mapping[str, Any], config: CurateConfig) -> Rejection | None:
    """Return which score of its pictures or by a model misses its threshold; None if none does.

    Args:
        cells: of the manifest, by column.
    """
    for score in (*PICTURE_SCORES, *MODEL_SCORES):
        limit = score.limit(config)
        if limit is None or score.column not in cells:
            continue
        value = cells[score.column]
        passes = value <= limit + SAME if score.is_upper else value >= limit - SAME
        if not passes:  # NaN passes neither test
            detail = f"Its {score.column} is {plain(value)}; curate.{score.parameter} is {limit:g}."
            return Rejection(score.reason, detail)
    return None
