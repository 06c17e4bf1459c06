"""Turns a manifest into shards of clips.

Windows are cut in worker processes, and each caption is embedded once. Shards follow the order of
the manifest, whichever window is finished first.
"""

from __future__ import annotations

import errno
import math
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from lumiere.data.disk_arrays import disk_array
from lumiere.data.extract import extract_video, load_windows
from lumiere.data.frame_sizes import as_sizes, nearest, plain
from lumiere.data.ray_engine import RunTasks
from lumiere.data.remote import RemoteFolder, file_in, not_fetched
from lumiere.data.shards import Sample, write_index, write_null_text, write_shards
from lumiere.data.window_choice import Source, WindowSettings
from lumiere.data.workers import Failure, run_tasks
from lumiere.errors import DataError, FetchError, VideoError, sentence
from lumiere.files import MACHINE_CURES
from lumiere.locks import own_folder

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "validation")
TEXT_BATCH = 64  # captions embedded at a time
# Faults of the machine, which say nothing about a video.
MACHINE = {*MACHINE_CURES, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
SHARE_SCRATCH = "give all nodes of the cluster one scratch folder at the same path"
# The columns of the manifest that are read.
COLUMNS = (
    "clip_id", "video", "start", "end", "exact_start", "exact_end", "captions", "split", "decoder",
    "width", "height", "crop", "duration", "motion_curve", "sha256", "match_curve",
)  # fmt: skip

Row = Mapping[str, Any]
Embeddings = Mapping[str, tuple[np.ndarray, np.ndarray]]  # caption -> float16 (n, d), uint8 (n,)


class Encoder(Protocol):
    """The part of a text encoder that is used here."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the states (b, n, d) and the mask (b, n) of sentences."""
        ...


def cut_all(
    rows: Sequence[Row],
    raw: Path | RemoteFolder,
    settings: WindowSettings,
    workers: int,
    timeout_s: float,
    scratch: Path,
    memory_mb: float = math.inf,
    decoder: str = "pyav",
    run: RunTasks | None = None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Cut the windows of every row.

    This process keeps the scratch folder locked until it ends, because the returned files lie
    there.

    Args:
        rows: the accepted rows of the manifest.
        raw: the folder of raw videos.
        settings: the shape of the windows.
        workers: how many processes to start.
        timeout_s: the limit for a video without progress, in wall-clock seconds.
        scratch: the folder for finished windows.
        memory_mb: the limit for one process.
        decoder: "pyav", or "decord" for the files that curation trusts it with.
        run: runs the tasks, see `ray_engine.engine`; by default processes of this machine.

    Returns:
        The files with windows by clip_id, and the errors of failed clips by clip_id.

    Raises:
        LockError: if another process uses the scratch folder.
        DataError: if another machine has written windows that this one does not see, or files
            cannot be fetched, or the disk is full or broken, because clips would silently be
            missing.
    """
    own_folder(scratch, "another decoding")
    by_video: dict[str, list[int]] = {}
    clip_ids = []
    for number, row in enumerate(rows):
        by_video.setdefault(row["video"], []).append(number)
        clip_ids.append(row["clip_id"])
    names, videos = list(by_video), list(by_video.values())
    tasks = _Tasks(rows, videos, raw, settings, scratch, decoder)
    files: dict[str, Path] = {}
    failures: dict[str, str] = {}
    missing: list[str] = []
    finished = (run or run_tasks)(extract_video, tasks, workers, timeout_s, memory_mb)
    for index, outcome in tqdm(
        finished, total=len(tasks), desc="decode", unit="video", mininterval=0.5
    ):
        own = videos[index]
        if isinstance(outcome, Failure):
            error, video = outcome.error, names[index]
            if isinstance(error, FetchError):
                missing.append(f"{video}: {error}")
            elif isinstance(error, OSError) and error.errno in MACHINE:
                raise DataError(f"{video}: {sentence(error)}", "then run the stage again") from None
        outcomes = [outcome] * len(own) if isinstance(outcome, Failure) else outcome
        for number, result in zip(own, outcomes, strict=True):
            if isinstance(result, Path):
                if not result.is_file():
                    raise DataError(f"{result}: not on this machine", SHARE_SCRATCH)
                files[clip_ids[number]] = result
            else:
                failures[clip_ids[number]] = _explanation(result)
    if missing:
        raise not_fetched(missing)
    return files, failures


@dataclass(frozen=True)
class _Tasks(Sequence[tuple]):
    """Holds the arguments of `extract_video` for each video, made when they are asked for.

    Attributes:
        rows: of the manifest.
        videos: the places of each video's rows.
    """

    rows: Sequence[Row]
    videos: Sequence[Sequence[int]]
    raw: Path | RemoteFolder
    settings: WindowSettings
    scratch: Path
    decoder: str

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: Any) -> Any:  # no slices
        own = [self.rows[number] for number in self.videos[i]]
        sources = tuple(_source(row, self.raw, self.decoder) for row in own)
        # Shots of a video may have different bars, and so different shapes.
        settings = tuple(_settings_of(row, self.settings) for row in own)
        return sources, settings, self.scratch


def _source(row: Row, raw: Path | RemoteFolder, decoder: str) -> Source:
    """Return the stretch of a row of the manifest."""
    return Source(
        file_in(raw, row["video"]),
        row["sha256"],
        Fraction(row["exact_start"]),
        Fraction(row["exact_end"]),
        row["decoder"] if decoder == "decord" else "pyav",
        tuple(row["motion_curve"]),
        tuple(row["crop"]) or None,
        tuple(row.get("match_curve") or ()),  # only models fill it
    )


def _bucket(row: Row, settings: WindowSettings) -> int:
    """Return the number of the size that a clip gets."""
    sizes = as_sizes(settings.size)
    return nearest(sizes, row["height"], row["width"]) if len(sizes) > 1 else 0


def _settings_of(row: Row, settings: WindowSettings) -> WindowSettings:
    """Return the settings for the windows of a clip."""
    return replace(settings, size=plain(as_sizes(settings.size)[_bucket(row, settings)]))


def _explanation(outcome: Failure | VideoError) -> str:
    """Return why a clip has no windows."""
    if isinstance(outcome, VideoError):
        return str(outcome)
    return str(outcome.error) if isinstance(outcome.error, VideoError) else outcome.detail


def embed_captions(
    captions: Sequence[str], encoder: Encoder, folder: Path | None = None
) -> Embeddings:
    """Embed every different caption. The embeddings lie in a file without a name.

    Captions are sorted and batched in a fixed way, because the composition of a batch may change
    the last bits.

    Args:
        captions: sentences, which may repeat.
        folder: where the file lies; by default the system's folder for temporary files.
    """
    texts = sorted(set(captions))
    stored = _StoredEmbeddings(texts)
    for start in tqdm(
        range(0, len(texts), TEXT_BATCH), desc="captions", unit="batch", mininterval=0.5
    ):
        batch = texts[start : start + TEXT_BATCH]
        embeds, mask = (np.asarray(array.cpu()) for array in encoder.encode(batch))
        stored.put(start, embeds, mask, folder)
    return stored


class _StoredEmbeddings(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Maps sentences to their embeddings on the disk: float16 (n, d) and uint8 (n,).

    Args:
        texts: all sentences, each once.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._places = {text: place for place, text in enumerate(texts)}
        self._embeds = np.empty(0, np.float16)
        self._masks = np.empty(0, np.uint8)

    def put(self, start: int, embeds: np.ndarray, masks: np.ndarray, folder: Path | None) -> None:
        """Store those of the sentences from `start` on, (b, n, d) and (b, n)."""
        if not self._embeds.size:
            count = len(self._places)
            self._embeds = disk_array((count, *embeds.shape[1:]), np.float16, folder)
            self._masks = np.zeros((count, *masks.shape[1:]), np.uint8)
        self._embeds[start : start + len(embeds)] = embeds
        self._masks[start : start + len(masks)] = masks

    def __getitem__(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        place = self._places[text]
        return self._embeds[place], self._masks[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def check_training_clips(rows: Sequence[Row], decoded: Container[str], raw: str | Path) -> None:
    """Check that enough clips could be decoded, and print a note if all come from one video.

    Args:
        rows: the accepted clips.
        decoded: the ids of those that could be decoded.
        raw: the folder of the videos.

    Raises:
        DataError: if no clip is left to train on.
    """
    num_usable, trained_on = 0, set[str]()
    for row in rows:
        if row["clip_id"] in decoded:
            num_usable += 1
            if row["split"] == "train":
                trained_on.add(row["video"])
    if not num_usable:
        raise DataError(f"{raw}: no accepted clip could be decoded ({len(rows)} tried)")
    if not trained_on:
        all_are = "the only clip is" if num_usable == 1 else f"all {num_usable} clips are"
        raise DataError(
            f"{raw}: {all_are} held out, so none is left to train on; add videos, or lower curate.validation_fraction"
        )
    if len(trained_on) == 1:
        print(
            f"note: the clips to train on come from one video, {trained_on.pop()}; the stages up to "
            "generate work, but evaluate compares videos and needs at least 2",
            file=sys.stderr,
        )


def write_clips(
    folder: Path,
    rows: Sequence[Row],
    files: Mapping[str, Path],
    failures: Mapping[str, str],
    embeddings: Embeddings,
    settings: WindowSettings,
    clips_per_shard: int,
    others: Sequence[str] = (),
    **text_settings: Any,
) -> dict[str, int]:
    """Write the shards and the index of both splits, in the order of the manifest. With several
    sizes, those of one size follow each other, because a shard holds clips of one size.

    `folder` appears only when it is complete. A run that is killed while it replaces an older
    folder leaves the old one or the new one, or the old one under another name, which the next run
    renames back before it starts.

    Args:
        folder: the folder to write; an older one is replaced.
        rows: the accepted rows of the manifest.
        files: the files with windows by clip_id, from `cut_all`.
        failures: the errors by clip_id, from `cut_all`.
        embeddings: the embeddings of every caption and of the empty sentence, from
            `embed_captions`.
        settings: the shape of the windows.
        clips_per_shard: how many clips a shard holds.
        others: columns of the manifest that the table of captions added.
        text_settings: facts about the text encoder, for the index.

    Returns:
        The number of clips in each split.

    Raises:
        LockError: if another process writes into `folder`.
    """
    own_folder(folder, "another decoding")
    temporary = folder.with_name(f".{folder.name}.tmp")
    _recover(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    splits = {}
    for split in SPLITS:
        places = [
            (_bucket(row, settings), number)
            for number, row in enumerate(rows)
            if row["split"] == split and row["clip_id"] in files
        ]
        own_rows = (rows[number] for _, number in sorted(places))
        samples = tqdm(
            _samples(own_rows, files, embeddings, settings, others),
            desc=f"write {split}",
            unit="clip",
            mininterval=0.5,
        )
        splits[split] = write_shards(temporary, split, samples, clips_per_shard)
    choice = (
        "clips_per_video",
        "min_window_motion",
        "max_match_drop",
    )  # of windows, and no property of the clips
    shared = {key: value for key, value in asdict(settings).items() if key not in choice}
    write_null_text(temporary, *embeddings[""])
    write_index(
        temporary, splits, failures=dict(sorted(failures.items())), **shared, **text_settings
    )
    _replace(folder, temporary)
    return {name: len(split.entries) for name, split in splits.items()}


def _replace(folder: Path, new: Path) -> None:
    """Rename `new` to `folder`; an older folder is deleted only when the new one is in its place."""
    if folder.exists():
        folder.rename(_old(folder))
    new.rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _recover(folder: Path) -> None:
    """Finish or undo what a killed `_replace` has left."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _samples(
    rows: Iterable[Row],
    files: Mapping[str, Path],
    embeddings: Embeddings,
    settings: WindowSettings,
    others: Sequence[str],
) -> Iterator[Sample]:
    has_buckets = len(as_sizes(settings.size)) > 1
    for row in rows:
        windows = load_windows(files[row["clip_id"]])
        embeds, masks = zip(*(embeddings[caption] for caption in row["captions"]), strict=True)
        for number, (video, start) in enumerate(zip(windows.videos, windows.starts, strict=True)):
            info = {
                "clip_id": f"{row['clip_id']}@{number}",
                "video": row["video"],
                "start": start,
                "captions": list(row["captions"]),
                "fps": settings.fps,
            }
            if others:  # one value for each caption
                info["others"] = {name: list(row[name] or []) for name in others}
            bucket = _bucket(row, settings) if has_buckets else None
            yield Sample(video, np.stack(embeds), np.stack(masks), info, bucket)
