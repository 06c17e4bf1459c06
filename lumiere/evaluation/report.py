"""The evaluation for people: a page of tables, plots and contact sheets. The same scores give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from lumiere.data.pictures import contact_sheet, save_picture
from lumiere.evaluation.measure import SampleScores, SeamScores, SetScores
from lumiere.evaluation.samples import VideoSet

matplotlib.use("Agg")  # before pyplot: there may be no display

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

BLUE, RED, GREY = "#4c78a8", "#e45756", "#9d9d9d"
SHEET_VIDEOS, SHEET_FRAMES = 12, 4


def write_report(
    folder: Path,
    scores: SetScores,
    samples: Sequence[SampleScores],
    seams: SeamScores,
    generated: VideoSet,
    real: VideoSet,
    judge_name: str,
    preprocessing: str,
) -> None:
    """Write report.md, seams.png, retrieval.png, consistency.png, distances.png, generated.png and real.png."""
    folder.mkdir(parents=True, exist_ok=True)
    _draw_seams(folder / "seams.png", seams)
    _draw_retrieval(folder / "retrieval.png", scores, generated.prompts)
    _draw_consistency(folder / "consistency.png", scores)
    _draw_distances(folder / "distances.png", scores)
    for name, videos in (("generated", generated), ("real", real)):
        save_picture(_sheet(videos), folder / f"{name}.png")
    page = _page(scores, samples, seams, generated, judge_name, preprocessing)
    (folder / "report.md").write_text(page, encoding="utf-8")


def _page(
    scores: SetScores,
    samples: Sequence[SampleScores],
    seams: SeamScores,
    generated: VideoSet,
    judge_name: str,
    preprocessing: str,
) -> str:
    n, t, height, width = generated.frames.shape[:4]
    found, real = scores.retrieval, scores.real_retrieval
    lines = [
        "# Evaluation",
        "",
        f"{n} text-to-video clips of {t} frames at {width}×{height} against real clips brought to the same size and "
        f"length. Features and text alignment: **{judge_name}**. Numbers compare runs that share the judge, the "
        "preprocessing and n; they are neither CLIPSIM nor FVD.",
        "",
        "![generated](generated.png)",
        "![real](real.png)",
        "",
        "## Distances",
        "",
        "| features | generated | real-versus-real floor | n generated | n real | dimensions |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {kind} | {d.value:.4f} | {d.floor:.4f} ± {d.floor_spread:.4f} | {d.num_clips} | {d.num_reference} "
            f"| {d.dimensions} |"
            for kind, d in scores.distances.items()
        ),
        "",
        "`frame`: 4 single frames per clip, each a sample. `clip`: mean over time and mean change from frame to frame. "
        "`motion`: the change alone. The floor is the same distance for as many real clips of other subjects: small "
        "samples raise both, so only the gap between them speaks. Both are means over 8 draws of the reference. A "
        "generated clip may show a subject that the reference holds, a floor clip never does: a value a little below "
        "the floor means as good as real under this judge, not better.",
        "",
        "![distances](distances.png)",
        "",
        "## Text alignment",
        "",
        "| | generated | as many real clips |",
        "|---|---:|---:|",
        f"| similarity with the own prompt | {scores.alignment:.3f} | {scores.real_alignment:.3f} |",
        f"| similarity with the other prompts | {scores.mismatched:.3f} | |",
        f"| prompt finds its video first (R@1) | {found.recall_1:.1%} | {real.recall_1:.1%} |",
        f"| among the first five (R@5) | {found.recall_5:.1%} | {real.recall_5:.1%} |",
        f"| median rank of {found.num_candidates} | {found.median_rank:g} | {real.median_rank:g} |",
        "",
        f"Chance: R@1 {1 / found.num_candidates:.1%}, median rank {(found.num_candidates + 1) / 2:g}. The embedded "
        "judge has seen the real training clips: the right column is its ceiling, not an independent score.",
        "",
        "![similarity of prompts and videos](retrieval.png)",
        "",
        "## Consistency",
        "",
        "| | generated | real |",
        "|---|---:|---:|",
        f"| flicker score (1 = still) | {np.mean(scores.flicker):.4f} | {np.mean(scores.real_flicker):.4f} |",
        f"| motion, pixels per frame at 64 px | {np.mean(scores.motion):.3f} | {np.mean(scores.real_motion):.3f} |",
        "",
        "![flicker and motion](consistency.png)",
        "",
        "## Window seams of the super-resolution",
        "",
        f"Mean squared error between consecutive frames at window borders over that elsewhere, {seams.num_videos} "
        f"videos, windows of {seams.window_size} frames overlapping by {seams.overlap}: "
        f"**{seams.multidiffusion:.3f}** with MultiDiffusion, **{seams.independent:.3f}** with independent windows "
        "(1 = no seam).",
        "",
        "![seams](seams.png)",
        "",
        "## Samples",
        "",
        "| sample | mode | prompt | similarity | flicker score | motion | PSNR of known pixels, dB |",
        "|---|---|---|---:|---:|---:|---:|",
        *(
            f"| {_cell(s.name)} | {_cell(s.mode)} | {_cell(s.prompt)} | {s.alignment:.3f} | {s.flicker:.4f} "
            f"| {s.motion:.3f} | {'' if math.isnan(s.psnr) else f'{s.psnr:.1f}'} |"
            for s in samples
        ),
        "",
        "## How it was measured",
        "",
        f"- Generated clips: the first {t} frames, uint8, no re-encoding. Real clips: the first {t} frames of one clip "
        f"per source video, area-resized to {width}×{height}.",
        f"- Judge's input: {preprocessing}.",
        "- Samples are read back from their H.264 files at full size; PSNR is taken before encoding, at base size.",
        "",
    ]
    return "\n".join(lines)


def _draw_seams(path: Path, seams: SeamScores) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for border in seams.borders:
        axes.axvline(border + 0.5, color=GREY, linewidth=6, alpha=0.3)
    for key, colour, label in [("independent", RED, "independent windows"), ("multidiffusion", BLUE, "MultiDiffusion")]:
        curve = seams.curves[key]
        axes.plot(np.arange(len(curve)) + 0.5, curve, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="between frames (grey: window border)", ylabel="MSE of consecutive frames", ylim=(0, None))
    axes.legend()
    _save(figure, path)


def _draw_retrieval(path: Path, scores: SetScores, prompts: Sequence[str]) -> None:
    n = len(prompts)
    figure, axes = plt.subplots(figsize=(9, max(3.0, 0.22 * n + 1)), layout="constrained")
    image = axes.imshow(scores.similarity, cmap="viridis", aspect="auto")  # equal cells would push the prompts out
    axes.set_yticks(range(n), [prompt if len(prompt) <= 60 else prompt[:58] + "…" for prompt in prompts], fontsize=7)
    axes.set(xlabel="video", title="similarity of prompts and videos")
    figure.colorbar(image, shrink=0.7)
    _save(figure, path)


def _draw_consistency(path: Path, scores: SetScores) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    rows = [
        ("flicker score (1 = still)", scores.flicker, scores.real_flicker),
        ("motion, pixels per frame at 64 px", scores.motion, scores.real_motion),
    ]
    for axes, (title, generated, real) in zip(panels, rows, strict=True):
        axes.bar([0, 1], [np.mean(generated), np.mean(real)], color=[BLUE, GREY], tick_label=["generated", "real"])
        for x, values in ((0, generated), (1, real)):
            axes.plot(np.linspace(x - 0.3, x + 0.3, len(values)), sorted(values), ".", color="black", markersize=3)
        axes.set_title(title)
    panels[0].set_ylim(min(min(scores.flicker), min(scores.real_flicker)) - 0.01, 1)
    _save(figure, path)


def _draw_distances(path: Path, scores: SetScores) -> None:
    figure, panels = plt.subplots(1, len(scores.distances), figsize=(8, 2.8), layout="constrained")
    for axes, (kind, distance) in zip(panels, scores.distances.items(), strict=True):
        axes.bar([0, 1], [distance.value, distance.floor], color=[BLUE, GREY], tick_label=["generated", "real floor"])
        axes.errorbar([1], [distance.floor], [distance.floor_spread], color="black", capsize=3)
        axes.set_title(f"{kind}, n = {distance.num_clips}")
    _save(figure, path)


def _sheet(videos: VideoSet) -> Image.Image:
    """Four frames a clip, three clips a row, the prompt's start under the first frame."""
    picks = np.unique(np.linspace(0, len(videos.frames) - 1, min(SHEET_VIDEOS, len(videos.frames))).round().astype(int))
    moments = np.unique(np.linspace(0, videos.frames.shape[1] - 1, SHEET_FRAMES).round().astype(int))
    factor = max(1, 96 // videos.frames.shape[2])
    frames = [np.repeat(np.repeat(videos.frames[i, k], factor, axis=0), factor, axis=1) for i in picks for k in moments]
    labels = [_part(videos.prompts[i], place) for i in picks for place in range(len(moments))]
    return contact_sheet(frames, columns=3 * len(moments), labels=labels)


def _part(prompt: str, place: int, letters: int = 15) -> str:
    """The prompt runs on under the clip's frames."""
    return prompt[place * letters : (place + 1) * letters]


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100, metadata={"Software": None})  # no version in the file: the bytes stay the same
    plt.close(figure)
