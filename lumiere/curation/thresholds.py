"""Compares the scores of a clip with the thresholds of `params.yaml`."""

from __future__ import annotations

from lumiere.config import CurateConfig
from lumiere.curation.measurement import Segment
from lumiere.curation.reasons import Reason, Rejection

SAME = 1e-6  # differences that do not count


def too_small(side: int, config: CurateConfig) -> Rejection | None:
    """Compare the shorter side of a picture, in pixels."""
    if side >= config.min_side:
        return None
    detail = f"Its shorter side is {side} pixels; curate.min_side is {config.min_side}."
    return Rejection(Reason.TOO_SMALL, detail)


def too_short_or_still(segment: Segment, config: CurateConfig) -> Rejection | None:
    """Compare the length and the motion of a stretch."""
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
