"""Writes the evaluation report, a page of tables and plots; the same scores give the same bytes."""

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
    """Write report.md and the plots of `lumiere.evaluation.plots`."""
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
        f"This report compares {n} text-to-video clips of {t} frames at {width}×{height} with {len(real.frames)} real "
        f"clips of the same size and length, one from each of {len(real.frames)} of the {real.num_sources} source "
        "videos. ↑: higher is better. ↓: lower is better. →: closer to real is better.",
        "",
        f"Judge: **{judge.name}**. It computes the features and the text alignment. Numbers compare only between "
        "runs with the same judge, preprocessing and n. They are neither CLIPSIM nor FVD.",
        "",
    ]
    if judge.trained_on:
        lines += [f"The judge was trained on {judge.trained_on}.", ""]
    if familiarity is not None:
        lines += [
            f"The judge was trained on {familiarity.seen} of the {familiarity.num_clips} real clips here, and on "
            f"{familiarity.seen_held_out} of the {familiarity.num_held_out} held-out clips among them.",
            "",
        ]
        if warning := familiarity.warning():
            lines += [f"**Note that {warning}.**", ""]
    return [
        *lines,
        "Generated clips:",
        "",
        "![generated clips](generated.png)",
        "",
        "Real clips with the same sentences, or evenly spaced ones if there are none:",
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
        "`frame` takes 4 single frames of each clip as samples. `clip` takes the mean over time and the mean change "
        "from frame to frame. `motion` takes the change alone. The floor is the same distance for n real clips of "
        "other subjects. Small samples raise both, so look at the gap between them. Both are means over "
        f"{NUM_DRAWS} draws of the reference, ± the standard deviation. A generated clip may show a subject that is "
        "in the reference, and a floor clip never does. So a value slightly below the floor means as good as real for "
        "this judge, not better than real.",
        "",
        "![distances](distances.png)",
        "",
    ]


def _alignment(scores: SetScores, familiarity: Familiarity | None) -> list[str]:
    ranks, real = scores.retrieval, scores.real_retrieval
    mismatched = "" if scores.mismatched is None else f"{scores.mismatched:.3f}"
    lines = [
        "## Text alignment",
        "",
        "| | generated | real | chance |",
        "|---|---:|---:|---:|",
        f"| similarity with its prompt ↑ | {scores.alignment:.3f} | {scores.real_alignment:.3f} | {mismatched} |",
    ]
    if isinstance(ranks, LeftOut):
        return [*lines, "", f"Retrieval left out: {ranks.why}.", ""]
    chance = ranks.chance()
    r1, r5, rank = _retrieval_cells(real)
    lines += [
        f"| R@1: its own video is first ↑ | {ranks.recall_1:.1%} | {r1} | {chance.recall_1:.1%} |",
        f"| R@5: its own video is among the first five ↑ | {ranks.recall_5:.1%} | {r5} | {chance.recall_5:.1%} |",
        f"| median rank of {ranks.num_candidates} ↓ | {ranks.median_rank:g} | {rank} | {chance.median_rank:g} |",
        "",
        f"Each of {ranks.num_queries} different prompts ranks all {ranks.num_candidates} videos by the cosine "
        "similarity with their mean frame embedding. Ties count against the prompt. The column `chance` has the "
        "similarity with the other prompts, and the ranks of a random order.",
    ]
    if isinstance(real, LeftOut):
        lines += ["", f"Retrieval of real clips left out: {real.why}."]
    if familiarity is not None and familiarity.seen:
        lines += [
            "",
            f"The judge was trained on {familiarity.seen} of the {familiarity.num_clips} real clips, so their column "
            "is a ceiling, not an independent measurement.",
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
        "The flicker score is VBench's, 1 − mean absolute change / 255, but on all clips instead of still scenes. A "
        "model whose videos never move scores best, so read it together with the motion, which is the mean length of "
        "Farnebäck's optical flow.",
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
        f"The mean squared error of consecutive frames at window borders, divided by the error elsewhere, for "
        f"{seams.num_videos} videos and windows of {seams.window_size} frames. 1 means no seam; above 1, the windows "
        "are visible.",
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
        f"- Generated clips are measured on their first {t} frames, as uint8, before encoding. Of clips with the same "
        f"prompt, only the first counts.",
        f"- Real clips are the first {t} frames of one clip from each of {len(real.frames)} of {real.num_sources} "
        f"source videos, for training and held out, resized by area to {width}×{height}.",
        "- Alignment, flicker and motion are shown beside those of the same number of real clips with different "
        "prompts, drawn by seed.",
        f"- Judge's input: {judge.preprocessing}.",
        "- Samples are read from their H.264 files at full size. PSNR is measured before encoding, on frames averaged "
        "down to base size.",
        "",
    ]


def _retrieval_cells(ranks: Retrieval | LeftOut) -> tuple[str, str, str]:
    if isinstance(ranks, LeftOut):
        return "", "", ""
    return f"{ranks.recall_1:.1%}", f"{ranks.recall_5:.1%}", f"{ranks.median_rank:g}"


def _over(value: float, floor: float) -> str:
    return f"{value / floor:.2f}" if floor > 0 else ""


def _pairs(borders: list[int]) -> str:
    """List the pairs of frames at borders, counted from 0, such as `7|8`."""
    shown = ", ".join(f"{border}\\|{border + 1}" for border in borders[:6])
    return f"frames {shown}, …" if len(borders) > 6 else f"frames {shown}"


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
