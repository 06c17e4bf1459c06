"""The sets of the generate stage, matched with the decoded clips that their captions come from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lumiere.data.clips import ClipStore, resize_video
from lumiere.data.frame_sizes import fitting_part
from lumiere.data.pixel_values import from_model_range, to_model_range
from lumiere.data.shards import read_info
from lumiere.errors import DataError
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.videos import LazyVideos, Video
from lumiere.plurals import counted
from lumiere.sample_files import ClipSet, SetEntry

RATE_TOLERANCE = 1e-3  # relative; 29.97 and 30 frames a second differ by as much


class RealClips:
    """The decoded clips of both splits, by subject.

    Attributes:
        subjects: the names of the source videos, in order.

    Args:
        folder: the output of the decode stage.
        num_frames: the first frames of each clip that `read` returns.

    Raises:
        DataError: if there are no clips, or they are too short.
    """

    def __init__(self, folder: Path, num_frames: int) -> None:
        self.folder, self.num_frames = folder, num_frames
        self.stores = [ClipStore(folder, split) for split in ("train", "validation")]
        self._windows: dict[str, list[tuple[ClipStore, int]]] = {}
        self._places: dict[str, tuple[ClipStore, int]] = {}
        for store in self.stores:
            if len(store) and store.num_frames < num_frames:
                raise DataError(
                    f"{folder}: clips of {store.num_frames} frames; generated ones have "
                    f"{num_frames}; make generate.num_frames smaller"
                )
            for index, entry in enumerate(store.entries):
                self._windows.setdefault(subject_of(entry["clip_id"]), []).append((store, index))
                self._places[entry["clip_id"]] = store, index
        if not self._windows:
            raise DataError(f"{folder}: no clips; run the decode stage first")
        self.subjects = sorted(self._windows)

    def captions(self, subject: str) -> tuple[str, ...]:
        """Return all sentences of a subject, without reading its frames."""
        store, index = self._windows[subject][0]
        return tuple(read_info(store.folder, store.entries[index])["captions"])

    def window(self, subject: str, clip_id: str = "") -> tuple[ClipStore, int]:
        """Return a clip of a subject: that of the id, or else the first."""
        return self._place(clip_id) if clip_id else self._windows[subject][0]

    def other_window(self, subject: str, clip_id: str = "") -> tuple[ClipStore, int] | None:
        """Return another clip of the same subject, if there is one."""
        taken = self.window(subject, clip_id)
        rest = [place for place in self._windows[subject] if place != taken]
        return rest[0] if rest else None

    def is_held_out(self, subject: str) -> bool:
        """Return whether a subject belongs to the validation split."""
        store, _ = self._windows[subject][0]
        return store.split == "validation"

    def frames(self, clip_id: str) -> np.ndarray:
        """Read a whole clip at its full size, uint8 (t, h, w, 3).

        The seams of generated clips lie in frames beyond `num_frames`, so it is not cut.

        Raises:
            DataError: if there is no such clip.
        """
        store, index = self._place(clip_id)
        return store.frames(index)

    def check_rate(self, clips: ClipSet) -> None:
        """Check that generated clips have the frame rate of the real ones; nothing resamples them.

        Raises:
            DataError: if a clip has another.
        """
        rate = next(float(store.fps) for store in self.stores if len(store))
        for entry in clips.entries:
            if not math.isclose(entry.fps, rate, rel_tol=RATE_TOLERANCE):
                raise DataError(
                    f"{clips.path}: clips of {entry.fps:g} frames a second, but those of "
                    f"{self.folder} have {rate:g}; decode the clips at the rate of the generated "
                    "ones, or run the generate stage again"
                )

    def _place(self, clip_id: str) -> tuple[ClipStore, int]:
        if clip_id not in self._places:
            raise DataError(
                f"{self.folder}: no clip {clip_id}, which a generated one was made from; run the "
                "generate stage again"
            )
        return self._places[clip_id]

    def read(self, place: tuple[ClipStore, int], size: tuple[int, int]) -> Video:
        """Read a clip at `size` (height, width), resized as the training clips are."""
        store, index = place
        info = read_info(store.folder, store.entries[index])
        frames = store.frames(index)[: self.num_frames]
        return Video(
            name=info["clip_id"],
            frames=resized(frames, size),
            fps=float(store.fps),
            caption=info["captions"][0],
            captions=tuple(info["captions"]),
            subject=subject_of(info["clip_id"]),
            held_out=store.split == "validation",
        )


def match_clips(clips: ClipSet, real: RealClips, num_videos: int | None = None) -> MatchedSets:
    """Match a set of generated clips with the real clips that their captions come from.

    Args:
        clips: a set of the generate stage.
        real: the decoded clips.
        num_videos: measure the first of them only. Of clips of one subject, only the first counts,
            because distances compare as many generated videos as there are real ones.

    Raises:
        DataError: if the set holds clips of fewer than 2 subjects, a clip is too short, its real
            clip is not there, or the frame rates differ.
    """
    real.check_rate(clips)
    kept = _first_of_each_subject(clips.entries)[:num_videos]
    if len(kept) < 2:
        raise DataError(
            f"{clips.path}: clips of {counted(len(kept), 'source video')}; at least 2 are needed; "
            "add source videos, make generate.set_size at least 2, and run the generate stage again"
        )
    shape = clips.frames(kept[0]).shape
    size = shape[1], shape[2]
    taken = {subject_of(clips.entries[i].clip_id): clips.entries[i].clip_id for i in kept}
    unknown = sorted(set(taken) - set(real.subjects))
    if unknown:
        raise DataError(
            f"{real.folder}: no clip of {unknown[0]}, whose caption {clips.path} was made from; "
            "run the generate stage again"
        )
    other_windows: dict[int, Callable[[], Video]] = {}
    for index, subject in enumerate(real.subjects):
        place = real.other_window(subject, taken.get(subject, ""))
        if place is not None:
            other_windows[index] = partial(real.read, place, size)
    positions = {subject: index for index, subject in enumerate(real.subjects)}
    return MatchedSets(
        generated=LazyVideos(
            [partial(_read, clips, index, real.num_frames) for index in kept],
            [clips.entries[index].clip_id for index in kept],
        ),
        real=LazyVideos(
            [
                partial(real.read, real.window(subject, taken.get(subject, "")), size)
                for subject in real.subjects
            ],
            real.subjects,
        ),
        other_windows=other_windows,
        partners=[positions[subject_of(clips.entries[i].clip_id)] for i in kept],
        generated_captions=[(clips.entries[index].prompt,) for index in kept],
        real_captions=[real.captions(subject) for subject in real.subjects],
        num_frames=real.num_frames,
        size=size,
        fps=clips.entries[kept[0]].fps,
    )


def num_subjects(clips: ClipSet) -> int:
    """Return the number of source videos that the captions of a set come from."""
    return len(_first_of_each_subject(clips.entries))


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (t, h, w, 3) by the rule that makes the training clips: area. Clips of another
    shape are cropped to their middle first.
    """
    if frames.shape[1:3] == size:
        return frames
    height, width = frames.shape[1:3]
    rows, columns = fitting_part((height, width), size)
    top, left = (height - rows) // 2, (width - columns) // 2
    frames = frames[:, top : top + rows, left : left + columns]
    return from_model_range(resize_video(to_model_range(frames)[None], size)[0])


def subject_of(clip_id: str) -> str:
    """Return the source video of a clip: its id without the number of the part and of the window,
    `trip` of `trip#1@0`.
    """
    return re.sub(r"(#\d+)?(@\d+)?$", "", clip_id)


def _read(clips: ClipSet, index: int, num_frames: int) -> Video:
    entry = clips.entries[index]
    frames = clips.frames(index)
    if len(frames) < num_frames:
        raise DataError(
            f"{clips.path}: clip {index} has {len(frames)} frames; {num_frames} are needed; run the "
            "generate stage again"
        )
    return Video(
        name=entry.clip_id,
        frames=frames[:num_frames],
        fps=entry.fps,
        caption=entry.prompt,
        captions=(entry.prompt,),
        subject=subject_of(entry.clip_id),
        held_out=entry.held_out,
    )


def _first_of_each_subject(entries: Sequence[SetEntry]) -> list[int]:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        first.setdefault(subject_of(entry.clip_id), index)
    return list(first.values())
