"""The evaluation for people: a page of tables and pictures. The same scores give the same bytes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lumiere.evaluation.alignment import Retrieval
from lumiere.evaluation.features import NUM_DRAWS
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.metrics import (
    Evaluation,
    Familiarity,
    LeftOut,
    SampleScores,
    SeamScores,
    SetScores,
)
from lumiere.evaluation.plots import draw_all
from lumiere.evaluation.video_sets import RealSet, VideoSet


def write_report(
    folder: Path, evaluation: Evaluation, judge: Judge, generated: VideoSet, real: RealSet
) -> None:
    """Write report.md and the pictures that `lumiere.evaluation.plots` draws."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_all(folder, evaluation, generated, real)
    lines = [
        "# Evaluation",
        "",
        *_introduction(evaluation.familiarity, judge, generated, real),
        *_distances(evaluation.scores),
        *_alignment(evaluation.scores, evaluation.familiarity),
        *_consistency(evaluation.scores),
        *_seams(evaluation.seams),
        *_samples(evaluation.samples),
        *_method(judge, generated, real),
    ]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _introduction(
    familiarity: Familiarity | None, judge: Judge, generated: VideoSet, real: RealSet
) -> list[str]:
    n, t, height, width = generated.frames.shape[:4]
    lines = [
        f"{n} text-to-video clips of {t} frames at {width}×{height} against real clips of {len(real.frames)} of the "
        f"{real.num_sources} source videos, brought to the same size and length. ↑ more is better, ↓ less is better, "
        "→ near to real is better.",
        "",
        f"Features and text alignment: **{judge.name}**. Numbers compare runs that share the judge, the preprocessing "
        "and n; they are neither CLIPSIM nor FVD.",
        "",
    ]
    if judge.trained_on:
        lines += [f"The judge was trained on {judge.trained_on}.", ""]
    if familiarity is not None:
        lines += [
            f"Of the {familiarity.num_clips} real clips here it was trained on {familiarity.seen}; of the "
            f"{familiarity.num_held_out} among them that are held out, on {familiarity.seen_held_out}.",
            "",
        ]
        if warning := familiarity.warning():
            lines += [f"**Mind that {warning}.**", ""]
    return [
        *lines,
        "Generated:",
        "",
        "![generated clips](generated.png)",
        "",
        "Real, of the same sentences where there are such:",
        "",
        "![real clips](real.png)",
        "",
    ]


def _distances(scores: SetScores) -> list[str]:
    lines = ["## Distances", ""]
    if isinstance(scores.distances, LeftOut):
        return [*lines, f"Left out: {scores.distances.why}.", ""]
    return [
        *lines,
        "| features | generated ↓ | real-versus-real floor | over the floor | n | n reference | dimensions |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {kind} | {d.value:.4f} | {d.floor:.4f} ± {d.floor_spread:.4f} | {_over(d.value, d.floor)} "
            f"| {d.num_clips} | {d.num_reference} | {d.dimensions} |"
            for kind, d in scores.distances.items()
        ),
        "",
        "`frame`: 4 single frames per clip, each a sample. `clip`: mean over time and mean change from frame to frame. "
        "`motion`: the change alone. The floor is the same distance for n real clips of other subjects: small samples "
        f"raise both, so only the gap between them speaks. Both are means over {NUM_DRAWS} draws of the reference, ± "
        "the standard deviation over them. A generated clip may show a subject that the reference holds, a floor clip "
        "never does: a value a little below the floor means as good as real under this judge, not better.",
        "",
        "![distances](distances.png)",
        "",
    ]


def _alignment(scores: SetScores, familiarity: Familiarity | None) -> list[str]:
    found, real = scores.retrieval, scores.real_retrieval
    mismatched = "" if scores.mismatched is None else f"{scores.mismatched:.3f}"
    lines = [
        "## Text alignment",
        "",
        "| | generated | real | chance |",
        "|---|---:|---:|---:|",
        f"| similarity with the own prompt ↑ | {scores.alignment:.3f} | {scores.real_alignment:.3f} | {mismatched} |",
    ]
    if isinstance(found, LeftOut):
        return [*lines, "", f"Retrieval left out: {found.why}.", ""]
    chance = found.chance()
    r1, r5, rank = ("", "", "") if isinstance(real, LeftOut) else _retrieval_cells(real)
    lines += [
        f"| R@1: the prompt finds its video first ↑ | {found.recall_1:.1%} | {r1} | {chance.recall_1:.1%} |",
        f"| R@5: among the first five ↑ | {found.recall_5:.1%} | {r5} | {chance.recall_5:.1%} |",
        f"| median rank of {found.num_candidates} ↓ | {found.median_rank:g} | {rank} | {chance.median_rank:g} |",
        "",
        f"Each of {found.num_queries} different prompts ranks all {found.num_candidates} videos by cosine similarity "
        "with their mean frame embedding; ties count against it. Chance: the similarity with the other prompts, and "
        "the ranks of a random order.",
    ]
    if isinstance(real, LeftOut):
        lines += ["", f"Retrieval of real clips left out: {real.why}."]
    if familiarity is not None and familiarity.seen:
        known = f"{familiarity.seen} of {familiarity.num_clips} real clips"
        lines += [
            "",
            f"The judge was trained on {known}: their column is a ceiling, not a second opinion.",
        ]
    return [*lines, "", "![similarity of prompts and videos](retrieval.png)", ""]


def _consistency(scores: SetScores) -> list[str]:
    flicker, real_flicker = np.mean(scores.flicker), np.mean(scores.real_flicker)
    motion, real_motion = np.mean(scores.motion), np.mean(scores.real_motion)
    return [
        "## Consistency",
        "",
        f"| | generated ({len(scores.flicker)}) | real ({len(scores.real_flicker)}) |",
        "|---|---:|---:|",
        f"| flicker score (1 = still) → | {flicker:.4f} | {real_flicker:.4f} |",
        f"| motion, pixels per frame at 64 px → | {motion:.3f} | {real_motion:.3f} |",
        "",
        "The flicker score is VBench's, 1 − mean absolute change / 255, on all clips and not on still scenes alone: a "
        "model that moves nothing scores best, so read it with the motion (mean length of Farnebäck's optical flow).",
        "",
        "![flicker and motion](consistency.png)",
        "",
    ]


def _seams(seams: SeamScores | LeftOut) -> list[str]:
    lines = ["## Window seams of the super-resolution", ""]
    if isinstance(seams, LeftOut):
        return [*lines, f"Left out: {seams.why}.", ""]
    own = "" if seams.own is None else f"{seams.own:.3f}"
    return [
        *lines,
        f"Mean squared error of consecutive frames at window borders over that elsewhere, {seams.num_videos} videos, "
        f"windows of {seams.window_size} frames; 1 = no seam, above 1 the windows show.",
        "",
        "| measured at the borders of | independent windows ↓ | MultiDiffusion ↓ |",
        "|---|---:|---:|",
        f"| windows that share no frame ({_pairs(seams.borders)}) | {seams.independent:.3f} "
        f"| {seams.multidiffusion:.3f} |",
        f"| windows that overlap by {seams.overlap} ({_pairs(seams.own_borders)}) | | {own} |",
        "",
        "![seams](seams.png)",
        "",
    ]


def _samples(samples: list[SampleScores]) -> list[str]:
    return [
        "## Samples",
        "",
        "| sample | mode | prompt | similarity ↑ | flicker score | motion | PSNR of known pixels, dB ↑ |",
        "|---|---|---|---:|---:|---:|---:|",
        *(
            f"| {_cell(s.name)} | {_cell(s.mode)} | {_cell(s.prompt)} | {s.alignment:.3f} | {s.flicker:.4f} "
            f"| {s.motion:.3f} | {'' if math.isnan(s.psnr) else f'{s.psnr:.1f}'} |"
            for s in samples
        ),
        "",
    ]


def _method(judge: Judge, generated: VideoSet, real: RealSet) -> list[str]:
    t, height, width = generated.frames.shape[1:4]
    return [
        "## How it was measured",
        "",
        f"- Generated clips: the first {t} frames, uint8, no re-encoding; of clips that share a prompt only the first. "
        f"Real clips: the first {t} frames of one clip of each of {len(real.frames)} of {real.num_sources} source "
        f"videos, training and held out, area-resized to {width}×{height}.",
        "- Beside the generated clips' alignment, flicker and motion stand those of as many real clips, drawn by seed, "
        "all with different prompts.",
        f"- Judge's input: {judge.preprocessing}.",
        "- Samples are read back from their H.264 files at full size. PSNR is taken before encoding, on frames "
        "averaged down to base size.",
        "",
    ]


def _retrieval_cells(found: Retrieval) -> tuple[str, str, str]:
    return f"{found.recall_1:.1%}", f"{found.recall_5:.1%}", f"{found.median_rank:g}"


def _over(value: float, floor: float) -> str:
    return f"{value / floor:.2f}" if floor > 0 else ""


def _pairs(borders: list[int]) -> str:
    """The pairs of frames at borders, counted from 0: `7|8`."""
    shown = ", ".join(f"{border}\\|{border + 1}" for border in borders[:6])
    return f"frames {shown}, …" if len(borders) > 6 else f"frames {shown}"


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
