"""Curates a folder of videos: lists them, measures them in worker processes, decides which to accept."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, add_sidecars, normal_name, read_captions
from lumiere.curation.clip_models import ClipModels
from lumiere.curation.copies import Network, embed_clips, find_copies
from lumiere.curation.look_alikes import find_look_alikes
from lumiere.curation.looks import Look, LookKey, look_at
from lumiere.curation.measurement import Measurement, measure_video
from lumiere.curation.probe import list_inputs
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span
from lumiere.curation.sidecars import read_sidecars
from lumiere.curation.verdicts import Row, decide
from lumiere.data.disk_arrays import ArrayFile
from lumiere.data.ray_engine import RunTasks
from lumiere.data.remote import RemoteFolder, list_names, matching, not_fetched
from lumiere.data.workers import Failure, run_tasks
from lumiere.errors import DataError, FetchError
from lumiere.plurals import counted

SIGNATURE = (4, 64, 64, 3)  # the pictures of a segment, see `filters.signature`
LATE_CAPTIONS = (
    "The file of captions beside it could not be fetched within curate.timeout_s; "
    "`dvc repro -f curate` tries again."
)
NO_SIGNATURES = np.empty((0, *SIGNATURE), np.uint8)


def curate(
    raw: Path | RemoteFolder,
    captions_file: Path,
    config: CurateConfig,
    scratch: Path,
    network: Network | None = None,
    pattern: str = "",
    run: RunTasks | None = None,
    models: ClipModels | None = None,
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Give every input of a raw folder its scores and a verdict.

    Args:
        raw: folder of videos; it is only read.
        captions_file: CSV, JSON lines or Parquet with video, caption and optionally start, end.
            Videos without a row take what lies beside them, see `sidecars`.
        scratch: folder for finished measurements, from which a killed run resumes.
        network: finds edited copies, see `copies`; without it none of them is found.
        pattern: of the names in the folder that count, see `remote.matching`; all by default.
        run: runs the tasks, see `ray_engine.engine`; by default processes of this machine.
        models: look at the clips, see `looks`; by default none does.

    Returns:
        The manifest's rows sorted by clip_id, and four small frames per clip, by clip_id.

    Raises:
        DataError: if the folder or the captions are missing, or nothing in them can be used.
    """
    captions = read_captions(captions_file)
    listed = _list(raw, config)
    matched = set(matching(listed, pattern))
    has_rows = {name for name in listed if normal_name(name) in captions}
    sidecars, names, late = read_sidecars(
        raw, listed, matched, has_rows, config.workers, config.timeout_s
    )
    where = raw if isinstance(raw, Path) else raw.url
    if not names:
        what = f"holds no file that matches {pattern}" if pattern else "the folder holds no video"
        raise DataError(f"{where}: {what}")
    captions = add_sidecars(captions, sidecars)
    in_time = [name for name in names if name not in late]
    outcomes = measure_all(raw, in_time, captions, config, scratch, run)
    outcomes |= {_printable(name): Rejection(Reason.TIMEOUT, LATE_CAPTIONS) for name in late}

    looks: dict[LookKey, Look] = {}
    if models:
        looks, failures = look_at(
            raw,
            outcomes,
            captions,
            models,
            config,
            scratch,
            run or run_tasks,
            allowed_roots(config),
        )
        outcomes |= _unread(failures)

    def copies(signatures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        if network is None or len(signatures) < 2:
            return []
        vectors = embed_clips(signatures, network, scratch / "embeddings.bin")
        found = scratch / "copies.npz"
        return find_copies(signatures, vectors, found, config.workers, config.timeout_s)

    alike = functools.partial(find_look_alikes, cache=scratch / "look_alikes.npz")
    rows, pictures = decide(outcomes, captions, config, copies, alike, looks)
    if not any(row["verdict"] == "accepted" for row in rows):
        counts = Counter(row["reason"] for row in rows).most_common()
        reasons = [f"{count} x {reason}: {Reason(reason).sentence}" for reason, count in counts]
        among = counted(len(names), "file")
        raise DataError(f"{where}: no usable video among {among} ({'; '.join(reasons)})")
    return rows, pictures


def _list(raw: Path | RemoteFolder, config: CurateConfig) -> list[str]:
    """Return the names of all files in the folder.

    Raises:
        DataError: if it cannot be listed.
    """
    if isinstance(raw, RemoteFolder):
        return list_names(raw, config.timeout_s)
    if not raw.is_dir():
        raise DataError(f"{raw}: no such folder; it must hold the raw videos")
    return list(list_inputs(raw, allowed_roots(config)))


def allowed_roots(config: CurateConfig) -> tuple[Path, ...]:
    """Return the folders that links may lead to.

    Raises:
        DataError: if one does not exist.
    """
    roots = tuple(Path(root).expanduser() for root in config.allowed_roots)
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; curate.allowed_roots names it")
    return roots


def measure_all(
    raw: Path | RemoteFolder,
    names: list[str],
    captions: dict[str, list[Caption]],
    config: CurateConfig,
    scratch: Path,
    run: RunTasks | None = None,
) -> dict[str, Measurement | Rejection]:
    """Measure each video, and return by name its measurement or the reason why there is none.

    Raises:
        DataError: if files cannot be fetched, because they would silently be missing.
    """
    roots = allowed_roots(config)
    tasks = []
    for name in names:
        spans = _spans(captions.get(normal_name(name), []))
        tasks.append((raw, name, spans, config.shot_threshold, scratch, roots))
    outcomes: dict[str, Measurement | Rejection] = {}
    # Small pictures of all clips would fill the memory.
    pictures = ArrayFile(SIGNATURE, np.uint8, scratch)
    measured: dict[str, tuple[Measurement, slice]] = {}
    missing: list[str] = []
    run = run or run_tasks
    finished = run(measure_video, tasks, config.workers, config.timeout_s, config.memory_mb)
    for index, outcome in tqdm(
        finished, total=len(tasks), desc="curate", unit="video", mininterval=0.5
    ):
        if isinstance(outcome, Failure):
            if isinstance(outcome.error, FetchError):
                missing.append(str(outcome.error))
                continue
            outcome = _rejection(outcome)
        name = _printable(names[index])
        if isinstance(outcome, Measurement):
            place = pictures.add(outcome.signatures)
            measured[name] = dataclasses.replace(outcome, signatures=NO_SIGNATURES), place
        else:
            outcomes[name] = outcome
    stored = pictures.finish()
    if missing:
        raise not_fetched(missing)
    for name, (outcome, place) in measured.items():
        outcomes[name] = dataclasses.replace(outcome, signatures=stored[place])
    return outcomes


def _spans(captions: list[Caption]) -> tuple[Span, ...]:
    return tuple(sorted({caption.span for caption in captions if caption.span is not None}))


def _printable(name: str) -> str:
    """Escape the bytes of a name that are not UTF-8, because the manifest cannot hold them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unread(failures: dict[str, Failure]) -> dict[str, Rejection]:
    """Return by name why the frames of videos could not be read for the models.

    Raises:
        DataError: if files cannot be fetched, because they would silently be missing.
    """
    missing = [str(f.error) for f in failures.values() if isinstance(f.error, FetchError)]
    if missing:
        raise not_fetched(missing)
    return {name: _rejection(failure) for name, failure in failures.items()}


def _rejection(failure: Failure) -> Rejection:
    if isinstance(failure.error, Rejection):
        return failure.error
    if failure.kind == "error":
        return Rejection(Reason.UNREADABLE, f"It cannot be read: {failure.detail}.")
    kinds = {"timeout": Reason.TIMEOUT, "memory": Reason.TOO_MUCH_MEMORY}
    reason = kinds.get(failure.kind, Reason.CRASHED)
    return Rejection(
        reason, f"Reading it failed: {failure.detail}; `dvc repro -f curate` tries again."
    )
