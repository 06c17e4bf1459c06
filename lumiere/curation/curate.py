"""Curates a folder of videos: lists them, measures them in worker processes, decides which to accept."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, normal_name, read_captions
from lumiere.curation.measurement import Measurement, measure_video
from lumiere.curation.probe import list_inputs
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span
from lumiere.curation.verdicts import Row, decide
from lumiere.data.workers import Failure, run_tasks
from lumiere.errors import DataError


def curate(
    raw: Path, captions_file: Path, config: CurateConfig, scratch: Path
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Give every input of a raw folder its scores and a verdict.

    Args:
        raw: folder of videos; it is only read.
        captions_file: CSV with the columns video, caption and optionally start, end.
        scratch: folder for finished measurements, from which a killed run resumes.

    Returns:
        The manifest's rows sorted by clip_id, and four small frames per clip, by clip_id.

    Raises:
        DataError: if the folder or the captions are missing, or nothing in them can be used.
    """
    if not raw.is_dir():
        raise DataError(f"{raw}: no such folder; it must hold the raw videos")
    captions = read_captions(captions_file)
    names = list(list_inputs(raw))
    if not names:
        raise DataError(f"{raw}: the folder holds no video")
    outcomes = measure_all(raw, names, captions, config, scratch)
    rows, pictures = decide(outcomes, captions, config)
    if not any(row["verdict"] == "accepted" for row in rows):
        counts = Counter(row["reason"] for row in rows).most_common()
        reasons = [f"{count} x {reason}: {Reason(reason).sentence}" for reason, count in counts]
        raise DataError(f"{raw}: no usable video among {len(names)} files ({'; '.join(reasons)})")
    return rows, pictures


def measure_all(
    raw: Path,
    names: list[str],
    captions: dict[str, list[Caption]],
    config: CurateConfig,
    scratch: Path,
) -> dict[str, Measurement | Rejection]:
    """Measure each video, and return by name its measurement or the reason why there is none."""
    tasks = [
        (raw, name, _spans(captions.get(normal_name(name), [])), config.shot_threshold, scratch)
        for name in names
    ]
    outcomes: dict[str, Measurement | Rejection] = {}
    finished = run_tasks(measure_video, tasks, config.workers, config.timeout_s)
    for index, outcome in tqdm(
        finished, total=len(tasks), desc="curate", unit="video", mininterval=0.5
    ):
        if isinstance(outcome, Failure):
            outcome = _rejection(outcome)
        outcomes[_printable(names[index])] = outcome
    return outcomes


def _spans(captions: list[Caption]) -> tuple[Span, ...]:
    return tuple(sorted({caption.span for caption in captions if caption.span is not None}))


def _printable(name: str) -> str:
    """Escape the bytes of a name that are not UTF-8, because the manifest cannot hold them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _rejection(failure: Failure) -> Rejection:
    if isinstance(failure.error, Rejection):
        return failure.error
    if failure.kind == "error":
        return Rejection(Reason.UNREADABLE, f"It cannot be read: {failure.detail}.")
    reason = Reason.TIMEOUT if failure.kind == "timeout" else Reason.CRASHED
    return Rejection(
        reason, f"Reading it failed: {failure.detail}; `dvc repro -f curate` tries again."
    )
