"""Decides which clips are accepted.

It uses measurements only, so that trying a new threshold takes less than a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, normal_name
from lumiere.curation.dedupe import clusters, find_duplicates
from lumiere.curation.exposure import picture_scores
from lumiere.curation.filters import perceptual_hash
from lumiere.curation.look_alikes import find_look_alikes
from lumiere.curation.looks import Look, LookKey
from lumiere.curation.manifest import (
    ALSO,
    DUPLICATE_OF,
    MIRRORED,
    SCHEMA,
    clip_name,
    default_of,
    empty_row,
)
from lumiere.curation.measurement import Measurement
from lumiere.curation.originals import (
    find_original,
    is_mirrored,
    note_differences,
    take_captions,
)
from lumiere.curation.parts import divide
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.split import assign_splits
from lumiere.curation.thresholds import bad_score, too_short_or_still, too_small
from lumiere.errors import DataError

Row = dict[str, Any]
FindPairs = Callable[[Sequence[np.ndarray]], list[tuple[int, int]]]


def decide(
    outcomes: Mapping[str, Measurement | Rejection],
    captions: Mapping[str, list[Caption]],
    config: CurateConfig,
    find_copies: FindPairs = lambda signatures: [],
    find_look_alikes: FindPairs = find_look_alikes,
    looks: Mapping[LookKey, Look] | None = None,
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Give every input a verdict.

    Args:
        outcomes: by video name, the measurement or the rejection.
        captions: from `read_captions`, by normal name.
        config: thresholds, seed and validation share.
        find_copies: returns the pairs (i, j), i < j, of edited copies among the frames of clips.
        find_look_alikes: returns the pairs that look alike.
        looks: what models say of clips, from `look_at`.

    Returns:
        The manifest's rows, sorted by clip_id, and four frames of each clip, by clip_id.

    Raises:
        DataError: if the names give two rows the same clip_id.
    """
    ids, looks = clip_ids(list(outcomes)), looks or {}
    rows: list[Row] = []
    pictures: dict[str, np.ndarray] = {}
    for name in sorted(outcomes):
        own_captions = captions.get(normal_name(name), [])
        rows_and_signatures = _video_rows(
            name, ids[name], outcomes[name], own_captions, config, looks
        )
        for row, signature in rows_and_signatures:
            rows.append(row)
            if signature is not None:
                pictures[row["clip_id"]] = signature
    with_video = {normal_name(name): outcome for name, outcome in outcomes.items()}
    for name in captions:
        if name in with_video:
            continue
        # The name may equal the clip_id of a video, for example if its suffix was forgotten.
        clip_id = f"{name}#caption" if name in ids.values() else name
        row = {**empty_row(), "clip_id": clip_id, "video": name}
        row |= _caption_columns(captions[name]) | {"notes": _caption_notes(captions[name])}
        rows.append(_reject(row, *_why_absent(name, with_video)))
    _check_ids(rows)
    _fill_columns(rows, captions, looks)
    _split_and_mark_duplicates(rows, pictures, config, find_copies, find_look_alikes)
    rows.sort(key=lambda row: row["clip_id"])
    return rows, pictures


def _why_absent(name: str, outcomes: Mapping[str, Measurement | Rejection]) -> tuple[Reason, str]:
    """Return why a video with a caption is not among the inputs, and the detail.

    A hidden folder and a link to another place are inputs themselves, without their content.
    """
    for parent in PurePosixPath(name).parents:
        folder = outcomes.get(str(parent))
        if not isinstance(folder, Rejection):
            continue
        if folder.reason == Reason.HIDDEN:
            detail = (
                f"It lies in the hidden folder {parent}, which was not opened; rename the folder, "
                "there and in captions.csv, so that no name begins with a dot."
            )
            return Reason.HIDDEN, detail
        return folder.reason, f"It lies in {parent}, which was not opened: {folder.detail}"
    return Reason.CAPTION_WITHOUT_VIDEO, ""


def _check_ids(rows: list[Row]) -> None:
    """Raise DataError if two rows share a clip_id, as the parts of `clip.mp4` and a caption for
    `clip#0` do.
    """
    videos: dict[str, str] = {}
    for row in rows:
        clip_id, video = row["clip_id"], row["video"]
        if clip_id in videos:
            raise DataError(
                f"{clip_id}: this clip_id belongs to both {videos[clip_id]} and {video}; name one of "
                'them otherwise, without "#", in the raw folder or in captions.csv'
            )
        videos[clip_id] = video


def _without_captions(row: Row) -> Row:
    """Return a row without sentences and other columns of captions."""
    return {name: value for name, value in row.items() if name in SCHEMA.names} | {"captions": []}


def _caption_columns(captions: Sequence[Caption]) -> Row:
    """Return the sentences, and the other columns of their rows, one value per sentence."""
    columns = dict.fromkeys(name for caption in captions for name in caption.others)
    row: Row = {"captions": [caption.text for caption in captions]}
    for name in columns:
        row[name] = [caption.others.get(name, "") for caption in captions]
    return row


def _caption_notes(captions: Sequence[Caption]) -> list[str]:
    return [note for caption in captions for note in caption.notes]


def _fill_columns(
    rows: list[Row], captions: Mapping[str, list[Caption]], looks: Mapping[LookKey, Look]
) -> None:
    """Give every row the columns that models fill, and those that the table of captions has besides
    its own.
    """
    answers = dict.fromkeys(name for look in looks.values() for name in look.columns)
    names = dict.fromkeys(
        name for own in captions.values() for caption in own for name in caption.others
    )
    for row in rows:
        for name in names:
            row.setdefault(name, [""] * len(row["captions"]))
        for name in answers:
            row.setdefault(name, default_of(name))


def clip_ids(names: list[str]) -> dict[str, str]:
    """Return the id of each video: its path, without the suffix if no other id can equal that.

    A path that contains "#" keeps its suffix too, because "#" marks the parts of a video.
    """
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    counts = Counter(stems.values())
    ids = {}
    for name, stem in stems.items():
        is_ambiguous = counts[stem] > 1 or stem in stems or "#" in stem
        ids[name] = name if is_ambiguous else stem
    return ids


def _video_rows(
    name: str,
    clip_id: str,
    outcome: Measurement | Rejection,
    captions: list[Caption],
    config: CurateConfig,
    looks: Mapping[LookKey, Look],
) -> list[tuple[Row, np.ndarray | None]]:
    """Return the rows of one video, each with its four frames: one row for the video, or one per
    shot and captioned span.
    """
    base = {**empty_row(), "clip_id": clip_id, "video": name, "group": clip_id}
    base |= _caption_columns(captions) | {"notes": _caption_notes(captions)}
    if isinstance(outcome, Rejection):
        return [(_reject(base, outcome.reason, outcome.detail), None)]
    if outcome.reason:
        row = {**base, "sha256": outcome.sha256}
        return [(_reject(row, Reason(outcome.reason), outcome.detail), None)]
    base |= _facts(outcome)
    stretches, unusable = divide(outcome, captions)
    is_divided = len(stretches) > 1 or any(part.segment.span for part in stretches)
    rows = []
    for number, part in enumerate([*stretches, *unusable]):
        # The parts of the second list are never looked at, and come behind those of the first.
        look, segment = looks.get((name, number), Look(part)), part.segment
        is_numbered = is_divided or number >= len(stretches)
        part_id = f"{clip_id}#{number}" if is_numbered else clip_id
        signature = outcome.signature_of(segment)
        width, height = outcome.size_of(segment)
        own = {"clip_id": part_id, "width": width, "height": height}
        own |= {"crop": list(outcome.box_of(segment) or ())}
        rows.append((_part_row(base | own, look, signature, config), signature))
    return rows


def _part_row(base: Row, look: Look, signature: np.ndarray | None, config: CurateConfig) -> Row:
    """Return the row of one part, with a verdict that does not consider duplicates yet."""
    part = look.part
    segment, problem = part.segment, part.problem
    row = _without_captions(base) | look.columns
    row |= {"start": float(segment.start), "end": float(segment.end)}
    row |= {"exact_start": str(segment.start), "exact_end": str(segment.end)}
    row |= {"motion_curve": list(segment.motion_curve), **_caption_columns(part.captions)}
    row |= {"motion": segment.motion, **picture_scores(segment.sharpness, signature)}
    bars = ["black bars"] if row["crop"] else []
    row["notes"] = [*base["notes"], *bars, *_caption_notes(part.captions)]
    if signature is not None:
        row["hash"] = "".join(f"{perceptual_hash(frame):016x}" for frame in signature)
    if small := too_small(min(row["width"], row["height"]), config):
        also = "" if problem is None else ALSO + problem.detail
        return _reject(row, small.reason, small.detail + also)
    if problem is None:
        problem = too_short_or_still(segment, config) or bad_score(row, config)
    if problem is not None:
        return _reject(row, problem.reason, problem.detail)
    return {**row, "verdict": "accepted"}


def _split_and_mark_duplicates(
    rows: list[Row],
    pictures: Mapping[str, np.ndarray],
    config: CurateConfig,
    find_copies: FindPairs,
    find_look_alikes: FindPairs,
) -> None:
    """Put clips that look alike on the same side of the split, and reject all but the best of each
    set of duplicates.
    """
    order = sorted(
        (row for row in rows if row["verdict"] == "accepted"),
        key=lambda row: (-row["width"] * row["height"], -row["bitrate"], row["clip_id"]),
    )
    signatures = [pictures[row["clip_id"]] for row in order]
    pairs = find_duplicates(signatures, config.max_hash_distance)
    pairs = [(i, j) for i, j in pairs if order[i]["video"] != order[j]["video"]]
    alike = [*find_look_alikes(signatures), *find_copies(signatures)]
    _split(order, [*pairs, *alike], config)
    sets: dict[int, list[Row]] = {}
    for row, root in zip(order, clusters(len(order), pairs), strict=True):
        sets.setdefault(root, []).append(row)
    for duplicates in sets.values():
        # The captions of a model are not mixed with those of people, which come first.
        by_people = [row for row in duplicates if not row.get("captioner")]
        best = find_original(by_people or duplicates)
        copies = sorted(
            (row for row in duplicates if row is not best), key=lambda row: row["clip_id"]
        )
        note_differences(best, copies)
        for row in copies:
            detail = f"{DUPLICATE_OF}{clip_name(best)}"
            if is_mirrored(pictures[best["clip_id"]], pictures[row["clip_id"]]):
                detail += MIRRORED  # its captions may name directions
            else:
                take_captions(best, row)
            row |= _reject(row, Reason.DUPLICATE, detail) | {"split": ""}


def _split(order: list[Row], alike: list[tuple[int, int]], config: CurateConfig) -> None:
    """Give each clip its group, named after the group's best clip, and its side; a video's clips share a group."""
    own = [row["group"] for row in order]  # the video's name, whose hash decides the side
    first = {name: i for i, name in reversed(list(enumerate(own)))}
    roots = clusters(len(order), [*alike, *((first[name], i) for i, name in enumerate(own))])
    groups = {name: own[root] for name, root in zip(own, roots, strict=True)}
    splits = assign_splits(groups, config.seed, config.validation_fraction, Counter(own))
    for row, name in zip(order, own, strict=True):
        row |= {"group": groups[name], "split": splits[groups[name]]}


def _facts(video: Measurement) -> Row:
    """Return the columns that are the same for all parts of a video."""
    assert video.probe is not None
    return {
        "decoder": video.probe.decoder,
        "decoder_reason": video.probe.decoder_reason,
        "codec": video.probe.codec,
        "container": video.probe.container,
        "duration": round(float(video.duration), 6),
        "frame_rate": round(video.probe.frame_rate, 6),
        "num_frames": video.num_frames,
        "num_shots": len(video.shots),
        "bitrate": round(8 * video.num_bytes / max(float(video.duration), 1e-6), 1),
        "notes": [*video.probe.notes, *video.notes],
        "sha256": video.sha256,
    }


def _reject(row: Row, reason: Reason, detail: str = "") -> Row:
    return {
        **row,
        "verdict": "rejected",
        "reason": reason.value,
        "detail": detail or reason.sentence,
    }
