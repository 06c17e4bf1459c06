"""Features of a set of videos, with what is needed to compare the set with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REFERENCE, OTHER_TIMES = 0, 1  # the two windows of a real video


@dataclass(frozen=True)
class FeatureSet:
    """Features of videos, by video.

    Attributes:
        features: one (k, d) array per video: k frames, or k = 1 for a network on whole videos. k
            may differ from video to video.
        subjects: one name per video, equal for videos of the same source video or caption. Empty
            if unknown; such a video has no counterpart.
        windows: one number per video; needed for real videos only. `REFERENCE` (0) is the window
            that generated videos are compared with. `OTHER_TIMES` (1) is another window of the
            same subject, or other frames of the same clip. By default all are 0.

    Raises:
        ValueError: if the lengths differ, a video has no features, d differs, or a value is not
            finite.
    """

    features: Sequence[np.ndarray]
    subjects: Sequence[str]
    windows: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not len(self.windows):
            object.__setattr__(self, "windows", [REFERENCE] * len(self.features))
        counts = {len(self.features), len(self.subjects), len(self.windows)}
        if len(counts) != 1:
            raise ValueError(
                f"{len(self.features)} videos, {len(self.subjects)} subjects and "
                f"{len(self.windows)} windows; expected one of each per video"
            )
        for index in range(len(self.features)):
            self._check(index)

    def __len__(self) -> int:
        return len(self.features)

    def means(self) -> np.ndarray:
        """Return the mean feature of each video: (n, d) float64."""
        return np.stack([np.asarray(rows, np.float64).mean(0) for rows in self.features])

    def first_of_each(self, window: int) -> dict[str, int]:
        """Return the first video of each named subject in a window: subject → position."""
        positions: dict[str, int] = {}
        for index, subject in enumerate(self.subjects):
            if subject and self.windows[index] == window:
                positions.setdefault(subject, index)
        return positions

    def _check(self, index: int) -> None:
        rows = np.asarray(self.features[index])
        name = f"video {index} ({self.subjects[index] or 'no subject'})"
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"{name}: features of shape {rows.shape}; expected (k, d)")
        if rows.shape[1] != np.shape(self.features[0])[1]:
            raise ValueError(
                f"{name}: {rows.shape[1]} dimensions; video 0 has {np.shape(self.features[0])[1]}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{name}: features that are not finite")
        if self.windows[index] not in (REFERENCE, OTHER_TIMES):
            raise ValueError(f"{name}: window {self.windows[index]}; expected 0 or 1")
