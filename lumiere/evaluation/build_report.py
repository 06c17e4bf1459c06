"""Puts together what the report shows of a comparison: the wall of videos, curves, facts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumiere.evaluation.comparison import Comparison
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.measure_videos import DISTANCE_FRAMES, Measurement, Networks
from lumiere.evaluation.report import Curve, Slice, WallEntry
from lumiere.evaluation.scores import LeftOut
from lumiere.evaluation.temporal.video_numbers import SMALLEST_MOTION
from lumiere.evaluation.videos import evenly, fit
from lumiere.plurals import some_of

WALL_SIDE = 256  # pixels
MAX_WALL = 48  # videos on the page: the worst, then others evenly spaced
NUM_WORST = 8
NUM_SLICES = 4
NOTABLE = 1.25  # the page names a motion of this many times the real video's, up or down
NOTABLE_LEVELS = 0.5  # grey levels, for noise and change


def build_wall(sets: MatchedSets, comparison: Comparison) -> list[WallEntry]:
    """Return the generated videos beside their real ones; the worst first, at most `MAX_WALL`."""
    similarity: dict[int, float] = {}
    measured = comparison.measured
    order = list(measured.generated)
    if comparison.pairs is not None:
        positions = order
        similarity = {
            positions[video]: float(value)
            for video, value in zip(
                comparison.pairs.videos, comparison.pairs.similarity, strict=True
            )
        }
        worst = [positions[video] for video in comparison.pairs.worst_first()]
        order = [*worst, *(index for index in order if index not in similarity)]
    shown = order[:NUM_WORST]
    rest = order[NUM_WORST:]
    shown += [rest[i] for i in evenly(len(rest), MAX_WALL - NUM_WORST)] if rest else []
    entries: list[WallEntry] = []
    for index in shown:
        partner = sets.partners[index]
        generated = sets.generated[index]
        real = None
        if partner is not None and partner in measured.real:
            real = _small(sets.real[partner].frames)
        entries.append(
            WallEntry(
                name=generated.name,
                caption=generated.caption,
                generated=_small(generated.frames),
                fps=generated.fps,
                real=real,
                similarity=similarity.get(index),
                rank=order.index(index) + 1 if index in similarity else None,
                reasons=_reasons(
                    measured.generated[index],
                    None if partner is None else measured.real.get(partner),
                    comparison.ranks.get(index),
                ),
                held_out=generated.held_out,
            )
        )
    return entries


def build_slices(sets: MatchedSets, comparison: Comparison) -> list[Slice]:
    """Return the middle row over time of a few videos, evenly chosen, beside their real ones."""
    indices = list(comparison.measured.generated)
    slices: list[Slice] = []
    for position in evenly(len(indices), NUM_SLICES):
        index = indices[position]
        partner = sets.partners[index]
        video = sets.generated[index]
        real = None
        if partner is not None and partner in comparison.measured.real:
            real = _middle_row(sets.real[partner].frames)
        slices.append(Slice(video.caption or video.name, _middle_row(video.frames), real))
    return slices


def build_curves(sets: MatchedSets, comparison: Comparison) -> list[Curve]:
    """Return the mean spectrum over time of the generated and of the real videos."""
    series: dict[str, np.ndarray] = {}
    measured = comparison.measured
    for name, group in (("generated", measured.generated), ("real", measured.real)):
        spectra = [m.spectrum for m in group.values() if m.spectrum is not None]
        finite = [spectrum for spectrum in spectra if np.isfinite(spectrum).all()]
        if finite:
            series[name] = np.mean(finite, axis=0)
    if "generated" not in series:
        return []
    count = len(series["generated"])
    return [
        Curve(
            key="spectrum",
            title="Spectrum over time: how fast pixels change",
            x_label="frequency, Hz",
            y_label="share of the power",
            series=series,
            x=np.arange(1, count + 1) * sets.fps / sets.num_frames,
            note="Flicker and noise raise the right end. The motion of real videos lies at the left.",
        )
    ]


def build_facts(
    sets: MatchedSets, comparison: Comparison, networks: Networks
) -> list[tuple[str, str]]:
    """Return what a reader needs to compare these numbers with others."""
    measured = comparison.measured
    height, width = sets.size
    facts = [
        (
            "Videos",
            f"{len(measured.generated)} generated and {len(measured.real)} of {len(sets.real)} real ones are "
            f"compared, each "
            f"on {sets.num_frames} frames of {width}×{height} pixels at {sets.fps:g} frames a second.",
        ),
        (
            "Matched",
            f"{sets.num_matched} of {len(sets.partners)} generated videos have a real one that "
            "shows the same.",
        ),
        (
            "Floor",
            "The floor of a distance compares another window of the same real videos."
            if measured.other_windows and set(measured.other_windows) == set(measured.real)
            else "The floor of a distance compares other frames of the same real videos.",
        ),
        (
            "Samples",
            f"A distance takes up to {DISTANCE_FRAMES} evenly spaced frames of each video.",
        ),
    ]
    for backbone in [networks.main, *networks.frame, *networks.video]:
        facts.append((backbone.name, f"{backbone.preprocessing} {backbone.weights.describe()}"))
    if networks.judge is not None:
        facts.append(("Judge of the text", describe_judge(networks.judge)))
    facts += [("Note", f"{note}.") for note in sets.notes]
    facts += [("Left out", f"{name}: {why}.") for name, why in _unreadable(sets, comparison)]
    return facts


def describe_judge(judge: Judge) -> str:
    """Return a sentence on the judge: its training, and how often it is right on held-out videos."""
    parts = [f"{judge.name}: {judge.preprocessing}."]
    if judge.trained_on:
        parts.append(f"Trained on {judge.trained_on}.")
    if judge.held_out_accuracy:
        parts.append(judge.held_out_accuracy)
    return " ".join(parts)


def blank_videos(comparison: Comparison) -> list[LeftOut]:
    """Return a remark on videos of one colour, such as black ones: their scores mean nothing."""
    remarks: list[LeftOut] = []
    measured = comparison.measured
    for kind, group in (("generated", measured.generated), ("real", measured.real)):
        names = [m.name for m in group.values() if m.blank]
        if names:
            shown = some_of(names, 5)
            remarks.append(
                LeftOut(
                    f"{kind.capitalize()} videos of a single colour",
                    f"{len(names)} of {len(group)} show nothing ({shown}). They are measured like "
                    "the others, so look at them.",
                )
            )
    return remarks


def unreadable_videos(sets: MatchedSets, comparison: Comparison) -> list[LeftOut]:
    """Return the files that could not be measured, with the reason."""
    return [LeftOut(name, f"{why}.") for name, why in _unreadable(sets, comparison)]


def counts(sets: MatchedSets, comparison: Comparison) -> dict[str, float]:
    """Return plain numbers for the metrics file: how many videos were measured, blank, unreadable."""
    measured = comparison.measured
    blank = sum(m.blank for m in measured.generated.values())
    return {
        "num_generated": float(len(measured.generated)),
        "num_real": float(len(measured.real)),
        "num_matched": float(sets.num_matched),
        "num_blank": float(blank),
        "num_unreadable": float(len(_unreadable(sets, comparison))),
    }


def _unreadable(sets: MatchedSets, comparison: Comparison) -> list[tuple[str, str]]:
    return sorted({**sets.unreadable, **comparison.measured.unreadable}.items())


def _reasons(
    generated: Measurement, real: Measurement | None, rank: int | None
) -> dict[str, float]:
    """Say what is worst about a video.

    Noise and change are differences, because the background of a real video may have none at all.
    """
    reasons: dict[str, float] = {}
    if real is not None:
        labels = {
            "background_noise": "extra speckle (grey levels)",
            "frame_change": "extra change from frame to frame (grey levels)",
        }
        for key, label in labels.items():
            difference = generated.numbers[key] - real.numbers[key]
            if abs(difference) >= NOTABLE_LEVELS:
                reasons[label] = difference
        own, reference = generated.numbers["motion_px"], real.numbers["motion_px"]
        if reference >= SMALLEST_MOTION and not 1 / NOTABLE < own / reference < NOTABLE:
            reasons["motion (× real)"] = own / reference
    if rank is not None and rank > 1:
        reasons["rank of its caption"] = float(rank)
    return reasons


def _small(frames: np.ndarray) -> np.ndarray:
    """Return frames (t, h, w, 3) of at most `WALL_SIDE` pixels, because the wall is held in memory."""
    height, width = frames.shape[1:3]
    scale = WALL_SIDE / max(height, width)
    if scale >= 1:
        return frames
    return fit(frames, (max(1, round(height * scale)), max(1, round(width * scale))))


def _middle_row(frames: np.ndarray) -> np.ndarray:
    return frames[:, frames.shape[1] // 2]


def sample_wall(names_and_frames: Sequence[tuple[str, str, np.ndarray, float]]) -> list[WallEntry]:
    """Return finished samples as entries without a real video: (name, caption, frames, fps) each."""
    return [
        WallEntry(name=name, caption=caption, generated=frames, fps=fps)
        for name, caption, frames, fps in names_and_frames
    ]
