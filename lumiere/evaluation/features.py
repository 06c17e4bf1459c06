"""Computes features of videos, and the Fréchet distance between generated and real ones with its
floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumiere.evaluation.frechet import frechet_distance

FRAMES_PER_CLIP = 4  # evenly spaced; neighbours differ too little to count as samples
MIN_CLIPS = 2  # the fewest generated clips for a distance with its floor
MIN_VIDEOS = 4  # the fewest real source videos for it
NUM_DRAWS = 8


def frame_features(embeddings: np.ndarray) -> np.ndarray:
    """Pick a few frames of each clip, each a sample of its own: (n, t, d) → (n · min(4, t), d).
    They do not show motion.
    """
    n, t, d = embeddings.shape
    picks = np.unique(np.linspace(0, t - 1, FRAMES_PER_CLIP).round().astype(int))
    return embeddings[:, picks].reshape(n * len(picks), d)


def motion_features(embeddings: np.ndarray) -> np.ndarray:
    """Measure how much each feature changes from frame to frame: mean over time of |f(k+1) − f(k)|,
    (n, t, d) → (n, d).

    The result is zero for a still clip, and larger for the same frames in a shuffled order.
    """
    return np.abs(np.diff(embeddings, axis=1)).mean(axis=1)


def clip_features(embeddings: np.ndarray) -> np.ndarray:
    """Join appearance and motion: the mean over time, then `motion_features`, (n, t, d) → (n,
    2d).
    """
    return np.concatenate([embeddings.mean(axis=1), motion_features(embeddings)], axis=1)


FEATURES = {"frame": frame_features, "clip": clip_features, "motion": motion_features}


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance, and the numbers that are needed to interpret it.

    Attributes:
        value: distance of generated clips from the reference, mean over the draws.
        floor: distance of as many real clips from the reference, mean over the same draws.
        floor_spread: standard deviation of the floor over the draws.
        num_clips: clips on the generated side.
        num_reference: clips on the reference side.
        dimensions: the number of features.
    """

    value: float
    floor: float
    floor_spread: float
    num_clips: int
    num_reference: int
    dimensions: int


def distance_with_floor(
    kind: str,
    generated: np.ndarray,
    real: np.ndarray,
    groups: Sequence[str],
    seed: int,
    num_draws: int = NUM_DRAWS,
) -> Distance:
    """Compute the distance of generated clips from real ones, and of real clips from other real ones at the same n.

    Each draw sets aside n real clips of n different source videos. The reference is all clips of
    the other videos; both the generated clips and those set aside are compared with it.

    Args:
        kind: "frame", "clip" or "motion".
        generated: (n, t, d) frame embeddings. With fewer than 2n real videos, n is reduced to half
            their number.
        real: (m, t, d), with the same t.
        groups: the source video of each real clip, m names.
        seed: for the draws.

    Raises:
        ValueError: if there are fewer than 2 generated clips or 4 real videos, or the numbers of
            frames differ.
    """
    if generated.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"generated {generated.shape} and real {real.shape} clips; t and d must agree"
        )
    names = sorted(set(groups))
    if len(generated) < MIN_CLIPS or len(names) < MIN_VIDEOS:
        raise ValueError(
            f"{len(generated)} generated clips and {len(names)} real videos; at least {MIN_CLIPS} and {MIN_VIDEOS} "
            "are needed"
        )
    n = min(len(generated), len(names) // 2)
    owner = np.asarray(groups)
    values, floors, references = [], [], []
    for draw in range(num_draws):
        rng = np.random.default_rng([seed, draw])
        held_out = [names[i] for i in rng.permutation(len(names))[:n]]
        aside = np.array([rng.choice(np.flatnonzero(owner == name)) for name in held_out])
        reference = FEATURES[kind](real[~np.isin(owner, held_out)])
        picks = np.sort(rng.permutation(len(generated))[:n])
        values.append(frechet_distance(FEATURES[kind](generated[picks]), reference))
        floors.append(frechet_distance(FEATURES[kind](real[aside]), reference))
        references.append(len(reference))
    per_clip = len(FEATURES[kind](real[:1]))
    return Distance(
        value=float(np.mean(values)),
        floor=float(np.mean(floors)),
        floor_spread=float(np.std(floors)),
        num_clips=n,
        num_reference=int(np.mean(references)) // per_clip,
        dimensions=reference.shape[1],
    )
