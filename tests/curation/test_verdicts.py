"""Tests that a caption that cannot be used changes nothing for the other clips."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.measurement import Measurement, Segment, Span, containing_shot
from lumiere.curation.probe import Probe
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.verdicts import decide
from lumiere.errors import DataError

CONFIG = CurateConfig(min_side=16)
SHOTS: tuple[Span, ...] = ((0.0, 4.0), (4.0, 9.0), (9.0, 12.0))
USABLE = [
    Caption("the first shot", (0.0, 4.0)),
    Caption("its end", (2.0, 4.0)),
    Caption("the second shot", (4.5, 8.0)),
    Caption("the second shot in other words", (4.5, 8.0)),
    Caption("everything"),
]
UNUSABLE = [
    Caption("no number", problem="captions.csv, line 3: start 'x' and end '2' are not two numbers"),
    Caption(
        "backwards", problem="captions.csv, line 4: start 2 is not below end 1, or is negative"
    ),
    Caption("across the first cut", (1.0, 6.0)),
    Caption("after the end", (13.0, 15.0)),
    Caption("beyond the end", (10.0, 14.0)),
]


def measurement(shots: tuple[Span, ...], captions: list[Caption]) -> Measurement:
    """Make the measurement of a video with these shots; every stretch looks different."""
    spans = {caption.span for caption in captions if caption.span is not None}
    segments = [Segment(*shot, None, 1.0, 1.0) for shot in shots]
    for span in sorted(spans):
        part = containing_shot(span, shots)
        if part is not None:
            segments.append(Segment(*part, span, 1.0, 1.0))
    signatures = []
    for segment in segments:
        noise = np.random.default_rng(int(10 * segment.start + 1000 * segment.end))
        signatures.append(noise.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    return Measurement(
        sha256="0" * 64,
        num_bytes=1000,
        probe=Probe("h264", "mp4", 64, 64, 24.0, None, None, "pyav", "a test"),
        width=64,
        height=64,
        num_frames=288,
        duration=shots[-1][1],
        shots=shots,
        segments=tuple(segments),
        signatures=np.stack(signatures),
    )


def rows_of(shots: tuple[Span, ...], captions: list[Caption]) -> list[dict[str, Any]]:
    outcomes = {"trip.mp4": measurement(shots, captions)}
    return decide(outcomes, {"trip.mp4": captions}, CONFIG)[0]


@pytest.mark.parametrize("num_shots", [1, 2, 3])
def test_unusable_captions_change_no_other_row(num_shots: int) -> None:
    random_ = random.Random(num_shots)
    shots = SHOTS[:num_shots]
    end = shots[-1][1]
    usable = [caption for caption in USABLE if caption.span is None or caption.span[1] <= end]
    unusable = list(UNUSABLE)
    if num_shots == 1:  # there is no cut
        unusable = [caption for caption in UNUSABLE if "cut" not in caption.text]
    for _ in range(25):
        # At least one: one shot without a usable caption has no row besides the unusable ones.
        good = random_.sample(usable, random_.randint(1, len(usable)))
        bad = random_.sample(unusable, random_.randint(1, len(unusable)))
        mixed = list(good)
        for caption in bad:
            mixed.insert(random_.randint(0, len(mixed)), caption)
        without, with_bad = rows_of(shots, good), rows_of(shots, mixed)
        bad_texts = {caption.text for caption in bad}
        others = [row for row in with_bad if not bad_texts & set(row["captions"])]
        assert others == without
        rejected = [row for row in with_bad if bad_texts & set(row["captions"])]
        assert {text for row in rejected for text in row["captions"]} == bad_texts
        assert {row["verdict"] for row in rejected} == {"rejected"}
        assert {row["reason"] for row in rejected} <= {"bad_span", "caption_spans_cuts"}


def test_the_id_of_a_whole_video_survives_a_bad_row() -> None:
    found = rows_of(SHOTS[:1], [UNUSABLE[0], USABLE[-1]])
    assert [(row["clip_id"], row["reason"]) for row in found] == [
        ("trip", ""),
        ("trip#1", "bad_span"),
    ]


@pytest.mark.parametrize("name", ["trip#0", "trip#1"])
def test_a_caption_named_like_a_part_of_a_video_is_an_error(name: str) -> None:
    outcomes = {"trip.mp4": measurement(SHOTS, USABLE)}
    captions = {"trip.mp4": USABLE, name: [Caption("no such video")]}
    with pytest.raises(DataError, match=rf"{name}: .* both trip\.mp4 and {name}; name one"):
        decide(outcomes, captions, CONFIG)


def test_a_file_named_like_a_part_of_a_video_is_an_error() -> None:
    outcomes = {
        "trip.mp4": measurement(SHOTS, USABLE),
        "trip#0": Rejection(Reason.NOT_A_VIDEO),
    }
    with pytest.raises(DataError, match=r"trip#0: "):
        decide(outcomes, {"trip.mp4": USABLE}, CONFIG)
