"""The measurements of an evaluation, and the sets of features that distances compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lumiere.evaluation.distances.feature_sets import OTHER_TIMES, REFERENCE, FeatureSet
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measure_videos import Measurement, distance_frames, other_times
from lumiere.evaluation.videos import evenly


@dataclass(frozen=True)
class Measured:
    """All measurements of an evaluation.

    Attributes:
        generated: by index in the set.
        real: the reference videos by index: window A, the clip that the generated one is compared with.
        other_windows: window B, another clip of the same subject, by the index of window A.
        others: window A of as many other subjects.
        paired: `compare_frames` of a generated video with its real counterpart, by its index.
        paired_real: the same of window B with window A, by the index of window A.
        unreadable: what could not be decoded, with the reason.
    """

    generated: dict[int, Measurement]
    real: dict[int, Measurement]
    other_windows: dict[int, Measurement]
    others: dict[int, Measurement]
    paired: dict[int, dict[str, float]] = field(default_factory=dict)
    paired_real: dict[int, dict[str, float]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def frames_of(backbone: str) -> Callable[[Measurement], np.ndarray]:
    """Return a function that gives a measurement's features of frames by a backbone, (k, d)."""
    return lambda measurement: measurement.frames[backbone]


def clip_of(backbone: str) -> Callable[[Measurement], np.ndarray]:
    """Return a function that gives a measurement's feature of the video by a backbone, (1, d)."""
    return lambda measurement: measurement.clip[backbone][None]


def feature_sets(
    sets: MatchedSets, measured: Measured, features: Callable[[Measurement], np.ndarray]
) -> tuple[FeatureSet, FeatureSet]:
    """Return the feature sets of the generated and of the real videos.

    If not every subject has a window B, other frames of window A take its place.
    """
    has_windows = bool(measured.real) and set(measured.other_windows) == set(measured.real)
    # A network on videos gives one row, which cannot be split into times.
    whole = has_windows or all(len(features(m)) == 1 for m in measured.real.values())
    generated = FeatureSet(
        [distance_frames(features(m), whole) for m in measured.generated.values()],
        [subject_name(sets, m) for m in measured.generated.values()],
    )
    rows: list[np.ndarray] = []
    subjects: list[str] = []
    windows: list[int] = []
    for measurement in measured.real.values():
        rows.append(distance_frames(features(measurement), whole))
        subjects.append(real_name(measurement.index))
        windows.append(REFERENCE)
    for measurement in measured.others.values():
        # These were embedded on few frames. A floor needs as many rows a video as the score.
        taken = features(measurement)
        rows.append(taken[evenly(len(taken), len(rows[0]))])
        subjects.append(real_name(measurement.index))
        windows.append(REFERENCE)
    for index, measurement in measured.real.items():
        if has_windows:
            rows.append(distance_frames(features(measured.other_windows[index]), True))
        elif not whole:
            rows.append(other_times(features(measurement)))
        else:
            continue
        subjects.append(real_name(index))
        windows.append(OTHER_TIMES)
    return generated, FeatureSet(rows, subjects, windows)


def subject_name(sets: MatchedSets, measurement: Measurement) -> str:
    """Return the name of the real video that shows the same as a generated one; may be empty."""
    partner = sets.partners[measurement.index]
    return "" if partner is None else real_name(partner)


def own_subject(sets: MatchedSets, measurement: Measurement) -> str:
    """Return the subject that a generated video is counted with: its real video's, or its own."""
    return subject_name(sets, measurement) or f"generated {measurement.index}"


def real_name(index: int) -> str:
    """Return the name of a real video's subject."""
    return f"real {index}"
