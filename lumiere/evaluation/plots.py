"""Draws the plots of the evaluation; the same scores give the same bytes.

If a measure was left out, its plot says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.evaluation.features import Distance
from lumiere.evaluation.metrics import Evaluation, LeftOut, SeamScores, SetScores
from lumiere.evaluation.video_sets import VideoSet

matplotlib.use("Agg")  # before pyplot, because there may be no display

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

BLUE, RED, GREY = "#4c78a8", "#e45756", "#7f7f7f"
ON_WHITE = {
    "facecolor": "white",
    "edgecolor": "none",
    "pad": 1,
}  # a background for numbers that a line may cross
SHEET_VIDEOS, SHEET_FRAMES = 12, 4
SHEET_SIDE = 96  # pixels; smaller frames are enlarged without smoothing
TITLES = {"frame": "single frames", "clip": "appearance and motion", "motion": "motion alone"}


def draw_all(folder: Path, evaluation: Evaluation, generated: VideoSet, real: VideoSet) -> None:
    """Write distances.png, retrieval.png, consistency.png, seams.png, generated.png and real.png."""
    scores, seams = evaluation.scores, evaluation.seams
    if isinstance(scores.distances, LeftOut):
        _draw_note(folder / "distances.png", f"No distances: {scores.distances.why}.")
    else:
        _draw_distances(folder / "distances.png", scores.distances)
    _draw_retrieval(folder / "retrieval.png", scores, generated.prompts)
    _draw_consistency(folder / "consistency.png", scores)
    if isinstance(seams, LeftOut):
        _draw_note(folder / "seams.png", f"No seams: {seams.why}.")
    else:
        _draw_seams(folder / "seams.png", seams)
    shown = _spread(len(generated.prompts), SHEET_VIDEOS)
    _draw_sheet(folder / "generated.png", generated, shown)
    counterparts = _counterparts([generated.prompts[i] for i in shown], real)
    _draw_sheet(folder / "real.png", real, counterparts)


def _draw_distances(path: Path, distances: dict[str, Distance]) -> None:
    figure, panels = plt.subplots(1, len(distances), figsize=(9, 3.4), layout="constrained")
    for axes, (kind, distance) in zip(panels, distances.items(), strict=True):
        bars = [
            axes.bar(["generated"], [distance.value], width=0.6, color=BLUE),
            axes.bar(
                ["floor:\nreal"], [distance.floor], width=0.6, color=GREY, yerr=distance.floor_spread,
                error_kw={"capsize": 4},
            ),
        ]  # fmt: skip
        for bar in bars:
            axes.bar_label(bar, fmt="%.3g", padding=3, bbox=ON_WHITE)
        axes.axhline(distance.floor, color=GREY, linestyle="--", linewidth=1)
        axes.set_title(
            f"{TITLES[kind]}\n{distance.num_clips} clips against {distance.num_reference}",
            fontsize=10,
        )
        axes.margins(y=0.15)
    panels[0].set_ylabel("Fréchet distance ↓")
    _save(figure, path)


def _draw_retrieval(path: Path, scores: SetScores, prompts: Sequence[str]) -> None:
    n = len(prompts)
    figure, axes = plt.subplots(figsize=(9.5, max(3.0, 0.24 * n + 1.2)), layout="constrained")
    # Square cells would leave no room for the prompts.
    image = axes.imshow(
        scores.similarity,
        cmap="viridis",
        aspect="auto",
        vmin=min(0.0, scores.similarity.min()),
        vmax=1,
    )
    axes.plot(
        scores.similarity.argmax(1),
        range(n),
        "o",
        color="white",
        markeredgecolor="black",
        markersize=4,
    )
    axes.set_yticks(range(n), [_shortened(prompt, 60) for prompt in prompts], fontsize=8)
    axes.set_xticks(range(0, n, max(1, n // 12)))
    title = "similarity of each prompt with each video (dot: the most similar video)"
    if not isinstance(scores.retrieval, LeftOut):
        title += f"\nR@1 {scores.retrieval.recall_1:.0%} ↑, chance {scores.retrieval.chance().recall_1:.0%}"
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("video; each prompt's own video is on the diagonal")
    figure.colorbar(image, shrink=0.7, label="cosine similarity")
    _save(figure, path)


def _draw_consistency(path: Path, scores: SetScores) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows = [
        ("flicker score (1 = still)", scores.flicker, scores.real_flicker),
        ("motion, pixels per frame at 64 px", scores.motion, scores.real_motion),
    ]
    for axes, (label, generated, real) in zip(panels, rows, strict=True):
        for x, values, colour in ((0, generated, BLUE), (1, real, GREY)):
            mean = float(np.mean(values))
            axes.plot(
                np.linspace(x - 0.28, x + 0.28, len(values)),
                sorted(values),
                "o",
                color=colour,
                markersize=4,
            )
            axes.hlines(mean, x - 0.36, x + 0.36, color="black", linewidth=1.5)
            axes.annotate(f"{mean:.3f}", (x + 0.38, mean), va="center", fontsize=9, bbox=ON_WHITE)
        axes.axhline(float(np.mean(real)), color=GREY, linestyle="--", linewidth=1)
        axes.set_xticks([0, 1], [f"generated ({len(generated)})", f"real ({len(real)})"])
        axes.set(ylabel=label, xlim=(-0.5, 1.65))
    figure.suptitle(
        "one dot per clip, sorted; line: mean; dashed: mean of real clips, which is the target",
        fontsize=10,
    )
    _save(figure, path)


def _draw_seams(path: Path, seams: SeamScores) -> None:
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for i, border in enumerate(seams.borders):
        label = "" if i else "border of independent windows"
        axes.axvline(border + 0.5, color=GREY, linewidth=8, alpha=0.3, label=label)
    for i, border in enumerate(seams.own_borders):
        label = "" if i else "border of MultiDiffusion's windows"
        axes.axvline(border + 0.5, color=BLUE, linewidth=1, linestyle=":", label=label)
    for key, colour, name in [
        ("independent", RED, "independent windows"),
        ("multidiffusion", BLUE, "MultiDiffusion"),
    ]:
        curve = seams.curves[key]
        label = f"{name}, seam ratio {getattr(seams, key):.2f}"
        axes.plot(
            np.arange(len(curve)) + 0.5, curve, color=colour, marker="o", markersize=4, label=label
        )
    axes.set(
        xlabel="frame (a dot compares the two frames beside it)",
        ylabel="MSE of consecutive frames\n(pixels in [0, 1])",
        ylim=(0, None),
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    _save(figure, path)


def _draw_note(path: Path, text: str) -> None:
    figure = plt.figure(figsize=(9, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    _save(figure, path)


def _draw_sheet(path: Path, videos: VideoSet, picks: Sequence[int]) -> None:
    """Draw four frames of each clip side by side above its prompt, three clips in a row."""
    moments = _spread(videos.frames.shape[1], SHEET_FRAMES)
    factor = max(1, SHEET_SIDE // videos.frames.shape[2])
    strips = [
        _strip(videos.frames[i][moments].repeat(factor, axis=1).repeat(factor, axis=2))
        for i in picks
    ]
    letters = strips[0].shape[1] // 6  # how many letters fit below a strip
    labels = [_shortened(videos.prompts[i], letters) for i in picks]
    save_picture(contact_sheet(strips, columns=3, labels=labels, gap=10), path)


def _strip(frames: np.ndarray, gap: int = 2) -> np.ndarray:
    """Lay frames side by side: uint8 (t, h, w, 3) → (h, t · w + (t − 1) · gap, 3), white between
    the frames.
    """
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def _counterparts(prompts: Sequence[str], real: VideoSet) -> list[int]:
    """Return the real clips with the same sentences, in their order; evenly spaced clips if
    there are none.
    """
    index: dict[str, int] = {}
    for i, prompt in enumerate(real.prompts):
        index.setdefault(prompt, i)
    same = [index[prompt] for prompt in prompts if prompt in index]
    return same or _spread(len(real.prompts), SHEET_VIDEOS)


def _spread(length: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _save(figure: Figure, path: Path) -> None:
    # Leave the version of matplotlib out of the file, so that the bytes stay the same.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
