"""Scores videos: distances to real ones, match with the text, change over time, modes and seams.

`docs/evaluation.md` says what each score sees. Import `lumiere.evaluation.judge` and
`lumiere.evaluation.backbones` by name: their libraries take seconds to load.
"""

import lumiere.compat  # noqa: F401  before open_clip
from lumiere.evaluation.alignment import Retrieval, cosine_similarity, retrieval, text_alignment
from lumiere.evaluation.distances.frechet import frechet_distance
from lumiere.evaluation.distances.kernel import jedi_distance, kernel_distance
from lumiere.evaluation.distances.neighbours import density_coverage, precision_recall
from lumiere.evaluation.temporal.consistency import (
    known_region_psnr,
    motion_magnitude,
    subject_consistency,
    temporal_flicker,
)
from lumiere.evaluation.temporal.seams import consecutive_mse, seam_ratio, window_borders

__all__ = [
    "Retrieval",
    "consecutive_mse",
    "cosine_similarity",
    "density_coverage",
    "frechet_distance",
    "jedi_distance",
    "kernel_distance",
    "known_region_psnr",
    "motion_magnitude",
    "precision_recall",
    "retrieval",
    "seam_ratio",
    "subject_consistency",
    "temporal_flicker",
    "text_alignment",
    "window_borders",
]
