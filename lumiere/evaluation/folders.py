"""Evaluates any two folders of videos: the work of `lumiere evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.errors import DataError, ParamsError, one_line
from lumiere.evaluation.backbones import (
    EMBEDDED,
    FrameBackbone,
    VideoBackbone,
    load_aesthetic_head,
    load_backbone,
    parse_backbone,
)
from lumiere.evaluation.backbones.aesthetic import CLIP
from lumiere.evaluation.build_report import (
    blank_videos,
    build_curves,
    build_facts,
    build_slices,
    build_wall,
    counts,
    unreadable_videos,
)
from lumiere.evaluation.comparison import compare, measure_sets
from lumiere.evaluation.feature_cache import FeatureCache
from lumiere.evaluation.matching import MatchedSets, match_folders
from lumiere.evaluation.measure_videos import Networks
from lumiere.evaluation.report import Previous, ReportContent, parse_metrics, summary, write_report
from lumiere.evaluation.scores import LeftOut, detailed, flat
from lumiere.evaluation.text_scores import UNKNOWN_CAPTIONS
from lumiere.evaluation.videos import list_folder, read_captions, unused_captions
from lumiere.files import write_atomically
from lumiere.plurals import counted, is_or_are, some_of

if TYPE_CHECKING:
    from lumiere.evaluation.judge import Judge

METRICS, SCORES = "metrics.json", "scores.json"
JUDGE_CAPTIONS = "captions.txt"  # in the judge's folder: the sentences that it was trained on


def evaluate_folders(
    videos: Path,
    real: Path,
    output: Path,
    *,
    captions: Path | None = None,
    num_frames: int | None = None,
    fps: Fraction | None = None,
    backbones: Sequence[str] = (),
    aesthetic: str = "",
    baseline: Path | None = None,
    cache: str | None = None,
    judge: Path | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> Path:
    """Measure a folder of generated videos against one of real videos; write metrics and a report.

    Args:
        videos, real: folders of video files.
        output: a folder for metrics.json, scores.json (with intervals), report.html and plots/.
        captions: a CSV file with the columns video and caption.
        num_frames, fps: see `match_folders`.
        backbones: further networks, as NAME=FILE.
        aesthetic: LAION's aesthetic head, a file; it needs the backbone open_clip=ViT-L-14/FILE.
        baseline: the metrics.json of another run, to compare with.
        cache: a folder for features, or "none"; None for the default folder.
        judge: the folder of the embedded judge, for text alignment. It is loaded only if it knows
            the captions.
        seed: for all random draws.
        tell: prints a note for the user.

    Returns:
        The path of the report.

    Raises:
        DataError: if the videos, the captions or the baseline cannot be used.
        ParamsError: if a backbone is unknown, or does not suit the videos.
    """
    previous = None if baseline is None else _read_baseline(baseline)
    sentences = {} if captions is None else read_captions(captions)
    generated_files, real_files = list_folder(videos, sentences), list_folder(real, sentences)
    unused = unused_captions(sentences, [generated_files, real_files])
    sets = match_folders(generated_files, real_files, num_frames, fps)
    if unused:
        sets.notes.append(_describe_unused(captions, unused, sentences))
    for note in sets.notes:
        tell(f"note: {note}")
    networks = load_networks(backbones, cache, aesthetic)
    _check_lengths(networks, sets)
    text_judge = load_text_judge(sets, judge)
    not_judged: list[LeftOut] = []
    if isinstance(text_judge, LeftOut):
        not_judged.append(text_judge)
    else:
        networks = replace(networks, judge=text_judge)
    for name, why in sorted(sets.unreadable.items()):
        tell(f"left out: {name}: {why}")
    measured = measure_sets(sets, networks, seed)
    for name, why in sorted(measured.unreadable.items()):
        tell(f"left out: {name}: {why}")
    if len(measured.generated) < 2 or len(measured.real) < 2:
        raise DataError(
            f"{len(measured.generated)} generated and {len(measured.real)} real videos could be "
            "decoded; at least 2 of each are needed; replace the files that are named above"
        )
    comparison = compare(sets, measured, networks, seed)
    remarks = [*comparison.left_out, *not_judged, *blank_videos(comparison)]
    left_out = [*remarks, *unreadable_videos(sets, comparison)]
    for line in describe_left_out(remarks):
        tell(f"note: {line}")
    content = ReportContent(
        title=f"Evaluation of {videos.name or videos}",
        generated=f"{counted(len(measured.generated), 'video')} of {videos}.",
        real=f"{counted(len(measured.real), 'video')} of {real}.",
        scores=comparison.scores,
        left_out=left_out,
        wall=build_wall(sets, comparison),
        wall_total=len(measured.generated),
        curves=build_curves(sets, comparison),
        slices=build_slices(sets, comparison),
        facts=build_facts(sets, comparison, networks),
        previous=previous,
    )
    metrics = {**flat(comparison.scores), **counts(sets, comparison)}
    report = write_report(output, content)
    details = json.dumps(detailed(comparison.scores), indent=1, ensure_ascii=False)
    write_atomically(output / SCORES, (details + "\n").encode())
    write_atomically(output / METRICS, (json.dumps(metrics, indent=2) + "\n").encode())
    if previous is not None:
        for line in summary(comparison.scores, previous):
            tell(line)
    return report


def load_networks(backbones: Sequence[str], cache: str | None, aesthetic: str = "") -> Networks:
    """Load the embedded backbone and further ones, given as NAME=FILE, and the aesthetic head.

    Raises:
        ParamsError: if a name is unknown or given twice.
        DataError: if weights are missing or damaged.
    """
    frame: list[FrameBackbone] = []
    video: list[VideoBackbone] = []
    names: set[str] = set()
    for text in backbones:
        spec = parse_backbone(text)
        if spec.name in names or spec.name == EMBEDDED:
            raise ParamsError(f"backbone {spec.name}: given twice; give each once")
        names.add(spec.name)
        loaded = spec.load()
        if isinstance(loaded, VideoBackbone):
            video.append(loaded)
        else:
            frame.append(loaded)
    if aesthetic and all(backbone.name != CLIP for backbone in frame):
        raise ParamsError(
            f"aesthetic {aesthetic}: the head works on CLIP ViT-L/14; give open_clip=ViT-L-14/FILE "
            "as a backbone as well"
        )
    head = load_aesthetic_head(aesthetic) if aesthetic else None
    main = load_backbone(EMBEDDED)
    assert not isinstance(main, VideoBackbone)
    return Networks(main, frame, video, aesthetic=head, cache=open_cache(cache))


def open_cache(cache: str | None) -> FeatureCache | None:
    """Return the cache of features in a folder; None is the default folder, "none" no cache."""
    return None if cache == "none" else FeatureCache(cache)


def load_text_judge(sets: MatchedSets, folder: Path | None) -> Judge | LeftOut:
    """Load the embedded judge if it can judge these videos, or say why it cannot.

    It can if it was trained on some of the captions. Whether it was is known before it is loaded,
    which takes seconds.
    """
    name = "Text alignment"
    captioned = sum(bool(captions) for captions in sets.generated_captions)
    real = [captions for captions in sets.real_captions if captions]
    if captioned < 2 or len(real) < 2:
        return LeftOut(
            name,
            "at least two generated and two real videos need captions; see --captions.",
        )
    try:
        if folder is None:
            raise FileNotFoundError
        judge_captions = set((folder / JUDGE_CAPTIONS).read_text(encoding="utf-8").splitlines())
    except OSError:
        where = "the folder `pretrained` of a checkout of this project"
        return LeftOut(
            name,
            f"the embedded judge is not here; set LUMIERE_PRETRAINED to {where}, or give CLIP's weights.",
        )
    if not any(judge_captions.issuperset(captions) for captions in real):
        return LeftOut(name, UNKNOWN_CAPTIONS)
    from lumiere.evaluation.judge import load_judge  # late: open_clip takes seconds

    try:
        return load_judge(folder)
    except ValueError as error:
        return LeftOut(name, f"{one_line(error)}.")


def describe_left_out(remarks: Sequence[LeftOut]) -> list[str]:
    """Return a line for each reason, with all that it applies to."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        names.setdefault(remark.why, []).append(remark.name)
    return [f"{'; '.join(group)}: {why}" for why, group in names.items()]


def _describe_unused(captions: Path | None, unused: Sequence[str], all_names: Sized) -> str:
    shown = some_of(unused, 3)
    return (
        f"{captions}: {len(unused)} of its {counted(len(all_names), 'video')} "
        f"{is_or_are(len(unused))} in neither folder ({shown}); "
        "the column video holds file names"
    )


def _check_lengths(networks: Networks, sets: MatchedSets) -> None:
    for backbone in networks.video:
        if sets.num_frames < backbone.num_frames:
            raise ParamsError(
                f"--backbone {backbone.name}: it needs {backbone.num_frames} frames, and these videos "
                f"have {sets.num_frames} at {sets.fps:g} a second; give longer videos or a higher --fps, "
                "leave short ones out with --frames, or leave this backbone out"
            )


def _read_baseline(path: Path) -> Previous:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the metrics.json of another run") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text; give the metrics.json of another run") from None
    metrics = parse_metrics(text, str(path))
    return Previous({**metrics, **_intervals(path.with_name(SCORES))}, str(path))


def _intervals(path: Path) -> dict[str, float]:
    """Read the intervals of another run from the file beside its metrics; none without one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        ends = {row["key"]: row["interval"] for row in rows if row["interval"] is not None}
        bounds: dict[str, float] = {}
        for key, (low, high) in ends.items():
            bounds |= {f"{key}_low": float(low), f"{key}_high": float(high)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # of another program, or of another version: values are compared without it
    return bounds
