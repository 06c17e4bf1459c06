"""Puts generated videos beside the real ones that show the same thing.

A score of generated videos means little without the score that real videos reach in their place. So
every set comes with real videos of the same subjects, and, where there is one, with another window of
each of those subjects: real against real, same subjects, is the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from lumiere.errors import DataError, VideoError
from lumiere.evaluation.caption_keys import caption_key
from lumiere.evaluation.videos import (
    MAX_FRAMES,
    MIN_VIDEOS,
    FileEntry,
    Folder,
    LazyVideos,
    Video,
    frames_at,
    most_common_fps,
    most_common_size,
    read_file,
)
from lumiere.plurals import counted, is_or_are

MIN_REAL = 2
MIN_FRAMES = 2  # changes over time need two


@dataclass(frozen=True)
class MatchedSets:
    """Generated and real videos of one size, length and rate.

    Attributes:
        generated: the videos to score.
        real: one window of each real subject.
        other_windows: another window of a real subject, by its index in `real`, where there is one.
        partners: for each generated video the index of the real one that shows the same, or None.
        real_captions: for each real video all its sentences, known without reading it.
        num_frames, size, fps: of all videos; size is (height, width).
        notes: what was done to make the videos comparable, and what could not be read.
        unreadable: names of files that were left out, with the reason.
        generated_captions: for each generated video its sentences, known without reading it.
    """

    generated: LazyVideos
    real: LazyVideos
    other_windows: dict[int, Callable[[], Video]]
    partners: list[int | None]
    real_captions: list[tuple[str, ...]]
    num_frames: int
    size: tuple[int, int]
    fps: float
    notes: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    generated_captions: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def num_matched(self) -> int:
        """The number of generated videos that have a real counterpart."""
        return sum(partner is not None for partner in self.partners)


def match_folders(
    generated: Folder,
    real: Folder,
    num_frames: int | None = None,
    fps: Fraction | None = None,
) -> MatchedSets:
    """Match the videos of two folders by name, or else by caption.

    All videos get the size of most generated ones, the lower of the two sets' usual frame rates, and
    the length of the shortest generated one, at most `MAX_FRAMES`. Real videos that are shorter are
    left out; if these are more than half, the length is what half of the real videos have. A real
    video that is at least twice as long has a second window.

    A video of a single frame is left out, because most scores measure changes over time.

    Args:
        generated, real: from `lumiere.evaluation.videos.list_folder`.
        num_frames: the first frames of each video to measure; shorter videos are left out.
        fps: frames per second at which all videos are read.

    Raises:
        DataError: if too few videos can be read.
    """
    _check_number("generated", generated)
    _check_number("real", real)
    rate = fps
    if rate is None:
        # Frames that are repeated to reach a higher rate would change every score over time.
        rate = min(most_common_fps(generated.entries), most_common_fps(real.entries))
    generated = _long_enough(generated, num_frames or MIN_FRAMES, rate)
    real = _long_enough(real, num_frames or MIN_FRAMES, rate)
    _check_number("generated", generated)
    _check_number("real", real)
    size = most_common_size(generated.entries)
    length = num_frames or _common_length(generated.entries, real.entries, rate)
    real = _long_enough(real, length, rate)
    read = partial(_read_window, num_frames=length, fps=rate, size=size)
    sets = MatchedSets(
        generated=LazyVideos(
            [partial(read, entry) for entry in generated.entries],
            [str(entry.path) for entry in generated.entries],
        ),
        real=LazyVideos(
            [partial(read, entry) for entry in real.entries],
            [str(entry.path) for entry in real.entries],
        ),
        other_windows={
            index: partial(read, entry, window=1)
            for index, entry in enumerate(real.entries)
            if frames_at(entry, rate) >= 2 * length
        },
        partners=_partners(generated.entries, real.entries),
        generated_captions=[entry.captions for entry in generated.entries],
        real_captions=[entry.captions for entry in real.entries],
        num_frames=length,
        size=size,
        fps=float(rate),
        notes=_describe(generated, real, length, rate, size),
        unreadable=_unreadable(generated, real),
    )
    sets.notes.extend(_describe_matches(generated, real, sets))
    sets.notes.extend(_describe_names(generated, real, sets.partners))
    return sets


def _unreadable(*folders: Folder) -> dict[str, str]:
    """Return why each file that cannot be used was left out, by its path."""
    return {
        str(folder.path / name): why
        for folder in folders
        for name, why in folder.unreadable.items()
    }


def _describe_matches(generated: Folder, real: Folder, sets: MatchedSets) -> list[str]:
    """Say where second windows or real counterparts are missing, or rest on names alone."""
    notes: list[str] = []
    if 0 < len(sets.other_windows) < len(real.entries):
        notes.append(
            f"only {len(sets.other_windows)} of {len(real.entries)} real videos "
            f"{is_or_are(len(sets.other_windows))} long enough for a second window; unless every compared "
            "video is, the floor takes other frames of the same windows"
        )
    if sets.num_matched and not any(entry.captions for entry in generated.entries):
        notes.append(
            f"{counted(sets.num_matched, 'generated video')} {is_or_are(sets.num_matched)} matched "
            "by file name alone; give --captions if names do not say what a video shows"
        )
    if 0 < sets.num_matched < len(generated.entries):
        notes.append(
            f"generated videos with a real one of the same name or caption: {sets.num_matched} of "
            f"{len(generated.entries)}"
        )
    return notes


def _common_length(generated: Sequence[FileEntry], real: Sequence[FileEntry], fps: Fraction) -> int:
    shortest = min(frames_at(entry, fps) for entry in generated)
    half_of_the_real = sorted(frames_at(entry, fps) for entry in real)[(len(real) - 1) // 2]
    return min(MAX_FRAMES, shortest, half_of_the_real)


def _read_window(
    entry: FileEntry, num_frames: int, fps: Fraction, size: tuple[int, int], window: int = 0
) -> Video:
    try:
        frames = read_file(entry, num_frames * (window + 1), fps, size)
    except VideoError as error:
        raise VideoError(f"{entry.path}: {error}") from None
    return Video(
        name=entry.name,
        frames=frames[window * num_frames :],
        fps=float(fps),
        caption=entry.captions[0] if entry.captions else "",
        captions=entry.captions,
        subject=entry.stem,
    )


def _partners(generated: Sequence[FileEntry], real: Sequence[FileEntry]) -> list[int | None]:
    by_stem: dict[str, int] = {}
    by_caption: dict[str, int] = {}
    for index, entry in enumerate(real):
        by_stem.setdefault(entry.stem, index)
        for caption in entry.captions:
            by_caption.setdefault(caption_key(caption), index)
    partners: list[int | None] = []
    for entry in generated:
        partner = by_stem.get(entry.stem)
        for caption in entry.captions:
            if partner is None:
                partner = by_caption.get(caption_key(caption))
        partners.append(partner)
    return partners


def _long_enough(folder: Folder, length: int, fps: Fraction) -> Folder:
    """Move the videos that are too short to the unreadable ones."""
    short: dict[str, str] = {}
    kept: list[FileEntry] = []
    for entry in folder.entries:
        frames = frames_at(entry, fps)
        if frames >= length:
            kept.append(entry)
        else:
            short[entry.name] = (
                f"{counted(frames, 'frame')} at {float(fps):g} a second; {length} are needed"
            )
    return Folder(folder.path, kept, {**folder.unreadable, **short})


def _check_number(kind: str, folder: Folder) -> None:
    needed = MIN_VIDEOS if kind == "generated" else MIN_REAL
    if len(folder.entries) >= needed:
        return
    reason = ""
    if folder.unreadable:
        name, why = next(iter(folder.unreadable.items()))
        reason = f" ({len(folder.unreadable)} cannot be used, such as {name}: {why})"
    raise DataError(
        f"{folder.path}: {counted(len(folder.entries), f'{kind} video')} to measure{reason}; "
        f"a distance needs at least {needed}, and a few dozen to mean something"
    )


def _describe(
    generated: Folder, real: Folder, length: int, fps: Fraction, size: tuple[int, int]
) -> list[str]:
    height, width = size
    notes = [
        f"all videos are measured on their first {length} frames at {float(fps):g} frames a second "
        f"and {width}×{height} pixels"
    ]
    shortest = min(generated.entries, key=lambda entry: frames_at(entry, fps))
    longer = sum(frames_at(entry, fps) > length for entry in generated.entries)
    if longer and frames_at(shortest, fps) == length < MAX_FRAMES:
        notes.append(
            f"{shortest.name} has only {length} frames, so {counted(longer, 'longer generated video')} "
            f"{is_or_are(longer)} cut to that; --frames N leaves out the shorter "
            "ones instead"
        )
    for kind, folder in (("generated", generated), ("real", real)):
        odd = sum((entry.height, entry.width) != size for entry in folder.entries)
        if odd:
            notes.append(
                f"{kind} videos of another size: {odd} of {len(folder.entries)}; these are scaled "
                "without aliasing and cropped in the middle"
            )
        other = sum(entry.fps > fps for entry in folder.entries)
        if other:
            notes.append(
                f"{kind} videos with a higher frame rate: {other} of {len(folder.entries)}; their "
                "frames are taken by time"
            )
        slow = sum(entry.fps < fps for entry in folder.entries)
        if slow:
            notes.append(
                f"{kind} videos with a lower frame rate: {slow} of {len(folder.entries)}; their frames "
                "are repeated, so scores over time do not compare"
            )
    return notes


def _describe_names(generated: Folder, real: Folder, partners: Sequence[int | None]) -> list[str]:
    """Say where names make the matching doubtful."""
    notes: list[str] = []
    if generated.path.resolve() == real.path.resolve():
        notes.append(
            "both folders are the same one: every score compares these videos with themselves"
        )
    for kind, folder in (("generated", generated), ("real", real)):
        names: dict[str, list[str]] = {}
        for entry in folder.entries:
            names.setdefault(entry.stem, []).append(entry.name)
        for same in names.values():
            if len(same) > 1:
                which = "the first is the counterpart" if kind == "real" else "all are measured"
                notes.append(f"{kind} videos of one name: {', '.join(same)}; {which}")
    differing = [
        (entry, real.entries[partner])
        for entry, partner in zip(generated.entries, partners, strict=True)
        if partner is not None and _differ(entry.captions, real.entries[partner].captions)
    ]
    if differing:
        first, other = differing[0]
        notes.append(
            f"{first.name} is matched with the real video of its name, although their captions differ: "
            f"{first.captions[0]!r} and {other.captions[0]!r}; such pairs: {len(differing)}"
        )
    return notes


def _differ(captions: Sequence[str], others: Sequence[str]) -> bool:
    if not captions or not others:
        return False
    return not {caption_key(caption) for caption in captions} & {
        caption_key(text) for text in others
    }
