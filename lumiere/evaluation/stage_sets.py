"""Evaluates the sets that the generate stage wrote: the work of the evaluate stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lumiere.errors import DataError
from lumiere.evaluation import mode_scores
from lumiere.evaluation.build_report import (
    blank_videos,
    build_curves,
    build_facts,
    build_slices,
    build_wall,
    counts,
)
from lumiere.evaluation.clip_sets import RealClips, match_clips, num_subjects
from lumiere.evaluation.comparison import compare, measure_sets
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.measure_videos import Networks
from lumiere.evaluation.report import Curve, ReportContent, WallEntry
from lumiere.evaluation.scores import LeftOut, Score, flat
from lumiere.evaluation.temporal.seams import SeamRecord, measure_seams, missing_floor, seam_scores
from lumiere.plurals import counted, there_are
from lumiere.sample_files import (
    HELD_OUT,
    IMAGE_TO_VIDEO,
    SEAMS,
    SETS,
    STYLES,
    TEXT_TO_VIDEO,
    ClipSet,
    Sample,
    SetEntry,
    read_set,
)

# The only scores of held-out captions that the stage reports, because that set is small.
HELD_OUT_KEYS = (
    "independent_frechet",
    "independent_kernel",
    "independent_similarity",
    "retrieval_r1",
    "retrieval_r5",
)


@dataclass(frozen=True)
class StageResult:
    """The report's content and the numbers for the metrics file, which the stage writes."""

    content: ReportContent
    metrics: dict[str, float]


def evaluate_stage(
    videos: Path,
    clips: Path,
    style_pictures: Path,
    networks: Networks,
    samples: Sequence[Sample],
    *,
    num_videos: int,
    num_frames: int,
    seed: int = 0,
) -> StageResult:
    """Measure every set of the generate stage.

    Args:
        videos: the folder of the generate stage.
        clips: the decoded clips.
        style_pictures: a folder with one folder of pictures for each style.
        networks: that measure.
        samples: the finished samples, for kept pixels.
        num_videos: text-to-video clips to measure.
        num_frames: of each clip.
        seed: for all random draws.

    Raises:
        DataError: if a set is missing, damaged or too small, has another frame rate than the real
            clips, or styles share a name.
    """
    real = RealClips(clips, num_frames)
    # Report what is missing before anything is measured.
    sets_by_name = {name: read_set(videos, name) for name in SETS}
    mode_scores.check_styles(sets_by_name[STYLES], style_pictures)
    for name in (TEXT_TO_VIDEO, HELD_OUT, IMAGE_TO_VIDEO, SEAMS):
        real.check_rate(sets_by_name[name])
    sets = match_clips(sets_by_name[TEXT_TO_VIDEO], real, num_videos)
    if sets.num_frames < 2:
        raise DataError(
            f"{videos}: clips of {sets.num_frames} frame; changes over time need at least 2; make "
            "evaluate.num_frames larger"
        )
    comparison = compare(sets, measure_sets(sets, networks, seed), networks, seed)
    held_out, held_out_wall = _held_out(sets_by_name[HELD_OUT], real, networks, seed)
    mode_results = _modes(sets_by_name, real, style_pictures, networks, samples, seed)
    seams, seam_left_out = _seams(sets_by_name[SEAMS], real)
    scores = [*comparison.scores, *held_out, *mode_results.scores, *seams.scores]
    facts = [*build_facts(sets, comparison, networks), *_familiarity(networks.judge, real)]
    content = ReportContent(
        title="Evaluation",
        generated=f"{len(comparison.measured.generated)} text-to-video clips of training captions, "
        f"and {len(held_out_wall)} of held-out captions.",
        real=f"One clip of each of {len(real.subjects)} source videos. Those of the same captions are "
        "shown beside the generated ones.",
        scores=scores,
        left_out=[
            *comparison.left_out,
            *blank_videos(comparison),
            *_absent(sets_by_name),
            *mode_results.left_out,
            *seam_left_out,
        ],
        wall=[*build_wall(sets, comparison), *held_out_wall],
        wall_total=len(comparison.measured.generated) + len(held_out_wall),
        curves=[*build_curves(sets, comparison), *mode_results.curves, *seams.curves],
        styles=mode_results.styles,
        slices=build_slices(sets, comparison),
        facts=facts,
    )
    return StageResult(content, {**flat(scores), **counts(sets, comparison)})


def _absent(sets: Mapping[str, ClipSet]) -> list[LeftOut]:
    """Say which sets are too small to be measured."""
    absent: list[LeftOut] = []
    held_out = sets[HELD_OUT]
    num_sources = num_subjects(held_out)
    if num_sources < 2:
        why = (
            f"{there_are(len(held_out), 'clip')} of {counted(num_sources, 'source video')}; clips of "
            "at least 2 are needed."
        )
        absent.append(LeftOut("Held-out captions", why))
    if not len(sets[STYLES]):
        absent.append(LeftOut("Styles", "there are no clips."))
    return absent


def familiarity_warning(judge: Judge, real: RealClips) -> str:
    """Return a reason to doubt the judge's scores; empty if there is none.

    The judge was trained on a video if it knows all its sentences. File names do not
    show that, because users may reuse them.
    """
    if not judge.captions:
        return ""
    seen, held_out, seen_held_out = _familiar(judge, real)
    if not seen:
        return "the judge was trained on none of these videos, so its scores say little about them"
    if seen_held_out:
        return (
            f"the judge was trained on {seen_held_out} of the {held_out} videos that are held out "
            "here: it was trained with another split"
        )
    return ""


def _familiar(judge: Judge, real: RealClips) -> tuple[int, int, int]:
    """Return how many videos the judge knows, how many are held out, and how many are both."""
    seen = held_out = both = 0
    for subject in real.subjects:
        knows = judge.captions.issuperset(real.captions(subject))
        is_held_out = real.is_held_out(subject)
        seen += knows
        held_out += is_held_out
        both += knows and is_held_out
    return seen, held_out, both


def _familiarity(judge: Judge | None, real: RealClips) -> list[tuple[str, str]]:
    if judge is None or not judge.captions:
        return []
    seen, held_out, both = _familiar(judge, real)
    text = (
        f"The judge of the text was trained on {seen} of the {len(real.subjects)} real videos, and on "
        f"{both} of the {held_out} held-out ones among them."
    )
    return [("What the judge has seen", text)]


def _held_out(
    clips: ClipSet, real: RealClips, networks: Networks, seed: int
) -> tuple[list[Score], list[WallEntry]]:
    """Return some scores of the captions that no model was trained on, and their wall."""
    if num_subjects(clips) < 2:
        return [], []
    sets = match_clips(clips, real)
    comparison = compare(sets, measure_sets(sets, networks, seed), networks, seed)
    by_key = {score.key: score for score in comparison.scores}
    scores = [
        replace(
            by_key[key],
            key=f"held_out_{key}",
            label=f"Held-out captions: {by_key[key].label}",
        )
        for key in HELD_OUT_KEYS
        if key in by_key
    ]
    return scores, build_wall(sets, comparison)


def _modes(
    sets: Mapping[str, ClipSet],
    real: RealClips,
    style_pictures: Path,
    networks: Networks,
    samples: Sequence[Sample],
    seed: int,
) -> mode_scores.ModeResults:
    results = mode_scores.image_to_video(sets[IMAGE_TO_VIDEO], real, networks, seed)
    results += mode_scores.kept_pixels(samples)
    styled = sets[STYLES]
    if len(styled):
        results += mode_scores.styles(styled, style_pictures, networks, seed)
    return results


def _seams(clips: ClipSet, real: RealClips) -> tuple[mode_scores.ModeResults, list[LeftOut]]:
    if not len(clips):
        return mode_scores.ModeResults(), [
            LeftOut("Seams", "there are no clips; generate.seam_videos is 0.")
        ]

    def real_frames(entry: SetEntry) -> np.ndarray:
        return real.frames(entry.clip_id)

    try:
        record = measure_seams(clips, real_frames)
    except ValueError as error:
        raise DataError(f"{clips.path}: {error}; run the generate stage again") from None
    scores = seam_scores(record)
    if isinstance(scores, LeftOut):
        return mode_scores.ModeResults(), [scores]
    without_floor = missing_floor(record)
    left_out = [] if without_floor is None else [without_floor]
    return mode_scores.ModeResults(scores, [_seam_curve(record)]), left_out


def _seam_curve(record: SeamRecord) -> Curve:
    series = {
        "independent windows": record.independent.mean(0),
        "MultiDiffusion": record.multidiffusion.mean(0),
    }
    if record.real is not None:
        series["real"] = record.real.mean(0)
    count = record.independent.shape[1]
    return Curve(
        key="seams",
        title="Change between consecutive frames at the borders of windows",
        x_label="pair of frames",
        y_label="mean squared error",
        series=series,
        x=np.arange(count) + 0.5,
        marks={"borders of windows": [border + 0.5 for border in record.borders]},
        note=f"The windows are {record.window_size} frames long. Peaks at their borders are visible jumps.",
    )
