"""Thresholds applied to measurements: pure and cheap, so that a threshold may be tried in a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, normal_name
from lumiere.curation.dedupe import clusters, find_duplicates, find_look_alikes
from lumiere.curation.filters import perceptual_hash
from lumiere.curation.manifest import empty_row
from lumiere.curation.measurement import Measurement, Segment, containing_shot
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.split import assign_splits

Row = dict[str, Any]


def judge(
    outcomes: Mapping[str, Measurement | Rejection],
    captions: Mapping[str, list[Caption]],
    config: CurateConfig,
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """The manifest's rows, sorted by clip_id, and the four frames of each clip, by clip_id.

    Args:
        outcomes: by video name, what was measured or why it was not.
        captions: by normal name, from `read_captions`.
        config: thresholds, seed and validation share.
    """
    ids = clip_ids(list(outcomes))
    rows: list[Row] = []
    pictures: dict[str, np.ndarray] = {}
    for name in sorted(outcomes):
        for row, signature in _video_rows(
            name, ids[name], outcomes[name], captions.get(normal_name(name), []), config
        ):
            rows.append(row)
            if signature is not None:
                pictures[row["clip_id"]] = signature
    known = {normal_name(name) for name in outcomes}
    for name in captions:
        if name not in known:
            # The full name, so that it cannot meet the clip_id of a video with another suffix.
            row = {
                **empty_row(),
                "clip_id": name,
                "video": name,
                "captions": [c.text for c in captions[name]],
            }
            rows.append(_reject(row, Reason.CAPTION_WITHOUT_VIDEO))
    _split_and_mark_duplicates(rows, pictures, config)
    rows.sort(key=lambda row: row["clip_id"])
    assert len({row["clip_id"] for row in rows}) == len(rows), "two rows share a clip_id"
    return rows, pictures


def clip_ids(names: list[str]) -> dict[str, str]:
    """A name for each video: its path without the suffix, or with it where two would be the same.

    "#" marks parts of a video, so a path that holds one keeps its suffix too.
    """
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    counts = Counter(stems.values())
    return {name: name if counts[stem] > 1 or "#" in stem else stem for name, stem in stems.items()}


def _video_rows(
    name: str,
    clip_id: str,
    outcome: Measurement | Rejection,
    captions: list[Caption],
    config: CurateConfig,
) -> list[tuple[Row, np.ndarray | None]]:
    """The rows of one video: the whole of it, or one per shot and caption span."""
    base = {**empty_row(), "clip_id": clip_id, "video": name, "group": clip_id}
    base["captions"] = [caption.text for caption in captions]
    if isinstance(outcome, Rejection):
        return [(_reject(base, outcome.reason, outcome.detail), None)]
    if outcome.reason:
        row = {**base, "sha256": outcome.sha256}
        return [(_reject(row, Reason(outcome.reason), outcome.detail), None)]
    base |= _facts(outcome)
    parts = _parts(outcome, captions)
    if len(parts) > 1 or parts[0][0].span is not None:
        parts.sort(key=lambda part: (part[0].start, part[0].end))
        names = [f"{clip_id}#{number}" for number in range(len(parts))]
    else:
        names = [clip_id]
    return [
        (
            _part_row({**base, "clip_id": part_id}, segment, texts, reason, signature, config),
            signature,
        )
        for part_id, (segment, texts, reason, signature) in zip(names, parts, strict=True)
    ]


def _parts(
    video: Measurement, captions: list[Caption]
) -> list[tuple[Segment, list[str], Rejection | None, np.ndarray | None]]:
    """What a video's captions divide it into: (segment, its captions, what is wrong with them, its frames)."""
    pictures = dict(
        zip(((s.start, s.end, s.span) for s in video.segments), video.signatures, strict=True)
    )
    shots = [segment for segment in video.segments if segment.span is None]
    problems = [caption.problem for caption in captions if caption.problem]
    if problems:
        captions = [caption for caption in captions if not caption.problem]
    whole = [caption.text for caption in captions if caption.span is None]
    spans = sorted({caption.span for caption in captions if caption.span is not None})
    parts: list[tuple[Segment, list[str], Rejection | None]] = []
    for span in spans:
        texts = [caption.text for caption in captions if caption.span == span]
        segment = next((s for s in video.segments if s.span == span), None)
        if segment is not None:
            parts.append((segment, texts, None))
        else:
            parts.append((Segment(*span, span, 0.0, 0.0), texts, _span_problem(span, video)))
    covered = [containing_shot(span, video.shots) for span in spans]
    for shot in shots:
        has_span = any(c is not None and shot.start <= c[0] and c[1] <= shot.end for c in covered)
        if len(shots) == 1 and whole:
            parts.append((shot, whole, None))
        elif not has_span and problems:
            parts.append((shot, whole, Rejection(Reason.BAD_SPAN, f"captions.csv, {problems[0]}.")))
        elif not has_span and whole:
            detail = f"The video has {len(shots)} shots, and its caption has no start and end."
            parts.append((shot, whole, Rejection(Reason.CAPTION_SPANS_CUTS, detail)))
        elif not has_span and not (len(shots) == 1 and spans):
            parts.append((shot, [], Rejection(Reason.NO_CAPTION)))
    return [
        (segment, texts, bad, pictures.get((segment.start, segment.end, segment.span)))
        for segment, texts, bad in parts
    ]


def _span_problem(span: tuple[float, float], video: Measurement) -> Rejection:
    if span[1] > video.duration:
        return Rejection(
            Reason.BAD_SPAN,
            f"The caption's span {span[0]:g} to {span[1]:g} s passes the end at {video.duration:g} s.",
        )
    return Rejection(
        Reason.CAPTION_SPANS_CUTS,
        f"A cut lies within the caption's span {span[0]:g} to {span[1]:g} s.",
    )


def _part_row(
    base: Row,
    segment: Segment,
    texts: list[str],
    problem: Rejection | None,
    signature: np.ndarray | None,
    config: CurateConfig,
) -> Row:
    """The row of one part, judged by everything but duplicates."""
    row = {**base, "start": segment.start, "end": segment.end, "captions": texts}
    row |= {"motion": segment.motion, "sharpness": segment.sharpness}
    if signature is not None:
        row["hash"] = "".join(f"{perceptual_hash(frame):016x}" for frame in signature)
    side, seconds = min(row["width"], row["height"]), segment.end - segment.start
    if side < config.min_side:
        return _reject(
            row,
            Reason.TOO_SMALL,
            f"Its shorter side is {side} pixels; curate.min_side is {config.min_side}.",
        )
    if problem is not None:
        return _reject(row, problem.reason, problem.detail)
    if seconds < config.min_seconds - 1e-6:
        return _reject(
            row,
            Reason.TOO_SHORT,
            f"It is {seconds:.2f} s long; curate.min_seconds is {config.min_seconds:g}.",
        )
    if segment.motion <= config.min_motion:
        detail = (
            f"Its optical flow is {segment.motion:.4f} pixels per frame; "
            f"curate.min_motion is {config.min_motion:g}."
        )
        return _reject(row, Reason.NO_MOTION, detail)
    return {**row, "verdict": "accepted"}


def _split_and_mark_duplicates(
    rows: list[Row], pictures: Mapping[str, np.ndarray], config: CurateConfig
) -> None:
    """Puts what looks alike on one side of the split, and rejects all but the best of what shows the same.

    Best is the largest picture, then the highest bitrate, then the first name.
    """
    order = sorted(
        (row for row in rows if row["verdict"] == "accepted"),
        key=lambda row: (-row["width"] * row["height"], -row["bitrate"], row["clip_id"]),
    )
    signatures = [pictures[row["clip_id"]] for row in order]
    pairs = find_duplicates(signatures, config.max_hash_distance)
    pairs = [(i, j) for i, j in pairs if order[i]["video"] != order[j]["video"]]
    _split(order, [*pairs, *find_look_alikes(signatures)], config)
    kept = clusters(len(order), pairs)
    for i, row in enumerate(order):
        if kept[i] != i:
            row |= {
                "verdict": "rejected",
                "reason": Reason.DUPLICATE.value,
                "detail": f"duplicate_of:{order[kept[i]]['video']}",
                "split": "",
            }


def _split(order: list[Row], alike: list[tuple[int, int]], config: CurateConfig) -> None:
    """Gives each clip its group, named after its best, and the group's side; all clips of a video are in one."""
    own = [row["group"] for row in order]  # the video's own name, for which is drawn
    first = {name: i for i, name in reversed(list(enumerate(own)))}
    roots = clusters(len(order), [*alike, *((first[name], i) for i, name in enumerate(own))])
    groups = {name: own[root] for name, root in zip(own, roots, strict=True)}
    splits = assign_splits(groups, config.seed, config.validation_fraction)
    for row, name in zip(order, own, strict=True):
        row |= {"group": groups[name], "split": splits[groups[name]]}


def _facts(video: Measurement) -> Row:
    """The columns that hold for a whole video."""
    assert video.probe is not None
    return {
        "decoder": video.probe.decoder,
        "decoder_reason": video.probe.decoder_reason,
        "codec": video.probe.codec,
        "container": video.probe.container,
        "width": video.width,
        "height": video.height,
        "duration": video.duration,
        "frame_rate": round(video.probe.frame_rate, 6),
        "num_frames": video.num_frames,
        "num_shots": len(video.shots),
        "bitrate": round(8 * video.num_bytes / max(video.duration, 1e-6), 1),
        "sha256": video.sha256,
    }


def _reject(row: Row, reason: Reason, detail: str = "") -> Row:
    return {
        **row,
        "verdict": "rejected",
        "reason": reason.value,
        "detail": detail or reason.sentence,
    }
