"""Distances of generated videos from real ones, each with its interval and its floors.

A distance of few videos means nothing by itself: it is biased by their number, and depends on the
network. The floors are the same distance for as many real videos: of the same subjects (the best
that a generator can reach) and of other subjects. `lumiere.evaluation.distances.pairings` says which.

Intervals come from the jackknife over videos (`lumiere.evaluation.bootstrap`). That of a floor is
its own, not a prediction interval as for means: a distance and its floor share their reference, so
that they do not vary independently, and the jackknife's variance is too large rather than too
small. Real videos in place of matched generated ones score above the upper end of their floor's
interval in up to 8 % of sets (measured on Gaussians, 24 videos).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist

from lumiere.evaluation.bootstrap import (
    MIN_UNITS,
    at_ceiling,
    hull,
    jackknife,
    share_interval,
)
from lumiere.evaluation.distances.feature_sets import FeatureSet
from lumiere.evaluation.distances.pairings import NUM_DRAWS, Design, Pairing, make_design
from lumiere.evaluation.distances.set_distances import (
    FeatureTable,
    FrechetMeasure,
    KernelMeasure,
    Measure,
    NeighbourMeasure,
)
from lumiere.evaluation.scores import Better, Floor, Interval, LeftOut, Score

GROUP = "distances"
FRECHET_NOTE = "The Fréchet distance of the features; it is too large with few videos."
KERNEL_NOTES = {
    "videos": "The unbiased MMD² with KID's kernel, over pairs of different videos; 0 on average for "
    "equal sets.",
    "kid": "The unbiased MMD² over pairs of different frames (KID).",
    "jedi": "100 times the biased MMD² with the kernel (x·y / d)² (JEDi); it is too large with few "
    "videos.",
}


def distances(
    generated: FeatureSet,
    real: FeatureSet,
    *,
    prefix: str = "independent",
    name: str = "",
    note: str = "",
    measures: Collection[str] = ("frechet", "kernel", "neighbours"),
    kernel: str = "videos",
    frechet_key: str = "",
    kernel_key: str = "",
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[list[Score], list[LeftOut]]:
    """Return the distances of generated videos from real ones, with intervals and floors.

    Args:
        generated: features of the generated videos.
        real: features of real videos, by the same network; at window 0 the references, at window 1
            other times of the same subjects (see `FeatureSet`).
        prefix: of the keys: `<prefix>_frechet`, `<prefix>_kernel`, `<prefix>_precision`,
            `<prefix>_recall`, `<prefix>_density`, `<prefix>_coverage`.
        name: of the network, for the labels.
        note: a sentence for each score, such as the network's preprocessing.
        measures: some of "frechet", "kernel" and "neighbours".
        kernel: "videos", "kid" or "jedi"; see `KernelMeasure`.
        frechet_key, kernel_key: other keys for these two, such as "fid", "fvd" or "jedi".
        num_draws: of real videos, where there are more than needed.
        seed: of these draws.

    Returns:
        The scores, and the measures that these sets do not allow.

    Raises:
        ValueError: if there are fewer than 2 videos on a side, d differs, or `measures` or
            `kernel` is unknown. (`FeatureSet` refuses values that are not finite.)
    """
    unknown = sorted(set(measures) - {"frechet", "kernel", "neighbours"})
    if unknown or kernel not in KernelMeasure.KINDS:
        raise ValueError(f"measures {unknown or list(measures)}, kernel {kernel!r}: unknown")
    design = make_design(generated, real, seed, num_draws)
    table = FeatureTable.of(generated, real)
    about = " ".join([describe(design), *design.remarks, note]).strip()
    suffix = f", {name}" if name else ""
    scores: list[Score] = []
    left_out: list[LeftOut] = []
    if "frechet" in measures:
        measure: Measure = FrechetMeasure(table)
        key, label = frechet_key or f"{prefix}_frechet", f"Fréchet distance{suffix}"
        text = f"{FRECHET_NOTE} {about}"
        scores.append(score(design, measure, key, label, Better.LOWER, text))
    if "kernel" in measures:
        measure = KernelMeasure(table, table.owners(generated, real), kernel)
        key, label = kernel_key or f"{prefix}_kernel", f"Kernel distance{suffix}"
        text = f"{KERNEL_NOTES[kernel]} {about}"
        scores.append(score(design, measure, key, label, Better.LOWER, text))
    if "neighbours" in measures:
        means = table.means()
        between = cdist(means, means)
        for kind in NeighbourMeasure.KINDS:
            try:
                scores.append(_neighbour_score(design, between, kind, prefix, suffix, about))
            except ValueError as error:
                left_out.append(LeftOut(f"{kind.capitalize()}{suffix}", f"{error}."))
    return scores, left_out


def describe(design: Design) -> str:
    """Return a sentence on what was compared with what."""
    if design.matched:
        return (
            f"{design.num_videos} generated videos are compared with {design.num_reference} real videos "
            "of the same subjects. The floors compare as many."
        )
    return (
        f"{design.num_videos} generated videos are compared with all {design.num_reference} real "
        "videos. The floors compare as many. The same-subject floor takes other times of the real videos "
        "themselves; a perfect generator of new subjects would score the other-subject floor."
    )


def score(
    design: Design, measure: Measure, key: str, label: str, better: Better, note: str = ""
) -> Score:
    """Return one measure of a design as a score with its interval and floors."""
    value, interval = estimate(measure, design.value)
    floors: list[Floor | None] = []
    for pairings in (design.floor, design.other):
        floors.append(Floor(*estimate(measure, pairings)) if pairings else None)
    return Score(
        key=key,
        label=label,
        group=GROUP,
        value=value,
        better=better,
        interval=interval,
        floor=floors[0],
        other_floor=floors[1],
        num_videos=design.num_videos,
        note=note,
    )


def _neighbour_score(
    design: Design, between: np.ndarray, kind: str, prefix: str, suffix: str, note: str
) -> Score:
    measure = NeighbourMeasure(between, kind, min(design.num_videos, design.num_reference))
    about = f"{note} Each video is one sample, its mean feature; k = {measure.k}.".strip()
    label = f"{kind.capitalize()}{suffix}"
    key = f"{prefix}_{kind}"
    if kind == "density":
        # Videos that crowd around a few real ones exceed the real value: torn frames reach 2.2
        # where real ones have 1.2.
        return score(design, measure, key, label, Better.CLOSER, about)
    neighbour_score = score(design, measure, key, label, Better.HIGHER, about)
    # A share of samples: of the generated ones for precision, of the real ones for the others.
    count = design.num_videos if kind == "precision" else design.num_reference
    return replace(
        neighbour_score,
        interval=_with_share(neighbour_score.value, neighbour_score.interval, count),
        floor=_floor_with_share(neighbour_score.floor, count),
        other_floor=_floor_with_share(neighbour_score.other_floor, count),
        saturated=at_ceiling(neighbour_score.value, count),
    )


def _with_share(value: float, interval: Interval | None, count: int) -> Interval | None:
    """Widen an interval to Wilson's: the jackknife sees no variance where all videos agree."""
    if interval is None:
        return None
    return hull(interval, share_interval(value, count))


def _floor_with_share(floor: Floor | None, count: int) -> Floor | None:
    if floor is None:
        return None
    return Floor(floor.value, _with_share(floor.value, floor.interval, count))


def estimate(measure: Measure, pairings: Sequence[Pairing]) -> tuple[float, Interval | None]:
    """Return the mean of a measure over the pairings, and its interval.

    The interval's width is that of the first pairing alone, which is a little too wide for a mean
    over draws. There is no interval with fewer than 3 videos on a side.
    """
    value = float(np.mean([measure(p.compared.videos, p.reference.videos) for p in pairings]))
    first = pairings[0]
    strata = first.strata()
    if min(len(units) for units in strata) < MIN_UNITS:
        return value, None

    def without(units: Collection[str]) -> float:
        return measure(first.compared.without(units), first.reference.without(units))

    return value, jackknife(without, strata, value, measure.bounds, measure.max_groups)
