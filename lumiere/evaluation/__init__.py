"""Measures how good videos are: distances, alignment with the text, consistency over time, window seams.

Import `lumiere.evaluation.judge`, which computes the features, by name: open_clip takes seconds to
load.
"""

import lumiere.compat  # noqa: F401  before open_clip
from lumiere.evaluation.alignment import Retrieval, cosine_similarity, retrieval, text_alignment
from lumiere.evaluation.consistency import known_region_psnr, motion_magnitude, temporal_flicker
from lumiere.evaluation.features import (
    Distance,
    clip_features,
    distance_with_floor,
    frame_features,
    motion_features,
)
from lumiere.evaluation.frechet import frechet_distance
from lumiere.evaluation.seams import consecutive_mse, seam_ratio, window_borders

__all__ = [
    "Distance",
    "Retrieval",
    "clip_features",
    "consecutive_mse",
    "cosine_similarity",
    "distance_with_floor",
    "frame_features",
    "frechet_distance",
    "known_region_psnr",
    "motion_features",
    "motion_magnitude",
    "retrieval",
    "seam_ratio",
    "temporal_flicker",
    "text_alignment",
    "window_borders",
]
