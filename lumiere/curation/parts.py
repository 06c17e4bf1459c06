"""Divides a video by its cuts and captions into the parts that become rows of the manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction

from lumiere.curation.captions import Caption
from lumiere.curation.measurement import Measurement, Segment, containing_shot
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span


@dataclass(frozen=True)
class Part:
    """A part of a video that becomes a row.

    Attributes:
        segment: its position in the video, and its scores.
        captions: what describes it.
        problem: why its captions cannot be used; None if they can.
    """

    segment: Segment
    captions: list[Caption]
    problem: Rejection | None = None


def divide(video: Measurement, captions: list[Caption]) -> tuple[list[Part], list[Part]]:
    """Divide a video by its cuts and captions.

    Returns:
        One part per captioned span and per shot that no captioned span covers, by position; and one
        part per caption whose span cannot be used. The second list changes the
        first in one case only: a single shot without any usable caption gets no part, because the
        rows of its unusable captions say enough. A mistake in captions.csv therefore does not
        change the ids of the other clips.
    """
    rejected = [_unusable_caption(caption) for caption in captions if caption.problem]
    usable = [caption for caption in captions if not caption.problem]
    whole = [caption for caption in usable if caption.span is None]
    segments = {segment.span: segment for segment in video.segments}
    spans: list[Part] = []
    for span, own in _by_span(usable).items():
        if span in segments:
            spans.append(Part(segments[span], own))
        else:
            segment = Segment(span[0], span[1], span, 0.0, 0.0)
            rejected.append(Part(segment, own, _span_problem(span, video)))
    captioned = [part.segment.span for part in spans if part.segment.span is not None]
    stretches = spans + _shot_parts(video, whole, captioned, bool(rejected))
    return sorted(stretches, key=_position), sorted(rejected, key=_position)


def _position(part: Part) -> Span:
    return part.segment.start, part.segment.end


def _shot_parts(
    video: Measurement, whole: list[Caption], spans: Collection[Span], has_unusable: bool
) -> list[Part]:
    """Return the parts that are whole shots.

    Args:
        video: its measurement.
        whole: the captions without a span.
        spans: the captioned spans that can be used.
        has_unusable: whether other captions have a span that cannot be used.
    """
    shots = [segment for segment in video.segments if segment.span is None]
    if len(shots) == 1 and whole:
        return [Part(shots[0], whole)]
    if len(shots) == 1 and (spans or has_unusable):
        return []  # the rows of the spans say enough; the rest of the shot needs no row
    return [
        _uncovered_part(shot, len(shots), whole)
        for shot in shots
        if not _is_covered(shot, spans, video)
    ]


def _is_covered(shot: Segment, spans: Iterable[Span], video: Measurement) -> bool:
    """Return whether a captioned span lies within the shot."""
    for span in spans:
        around = containing_shot(span, video.shots)
        if around is not None and shot.start <= around[0] and around[1] <= shot.end:
            return True
    return False


def _by_span(captions: list[Caption]) -> dict[Span, list[Caption]]:
    """Return the captions of each captioned span, in the order of the spans."""
    captions_of: dict[Span, list[Caption]] = {}
    for caption in captions:
        if caption.span is not None:
            captions_of.setdefault(caption.span, []).append(caption)
    return dict(sorted(captions_of.items()))


def _unusable_caption(caption: Caption) -> Part:
    """Return a rejected part for a caption that belongs to no known span of the video."""
    problem = Rejection(Reason.BAD_SPAN, f"{caption.problem}.")
    nowhere = Segment(Fraction(0), Fraction(0), None, 0.0, 0.0)
    return Part(nowhere, [caption], problem)


def _uncovered_part(shot: Segment, num_shots: int, whole: list[Caption]) -> Part:
    """Return a shot without a captioned span of its own, and why it cannot be used."""
    if whole:
        detail = f"The video has {num_shots} shots, and its caption has neither start nor end."
        return Part(shot, whole, Rejection(Reason.CAPTION_SPANS_CUTS, detail))
    return Part(shot, [], Rejection(Reason.NO_CAPTION))


def _span_problem(span: Span, video: Measurement) -> Rejection:
    if span[1] > video.duration:
        return Rejection(
            Reason.BAD_SPAN,
            f"Its caption ends at {float(span[1]):g} s, but the video ends at {float(video.duration):g} s.",
        )
    if video.damage:
        return Rejection(
            Reason.DAMAGED,
            f"Its caption describes {float(span[0]):g} to {float(span[1]):g} s, and no shot without "
            f"damage holds that ({video.damage}).",
        )
    return Rejection(
        Reason.CAPTION_SPANS_CUTS,
        f"Its caption describes {float(span[0]):g} to {float(span[1]):g} s, and a cut lies in between.",
    )
