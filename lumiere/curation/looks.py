"""Lets models look at clips: a caption for those without one.

Models look after the measurements and before the verdicts, at a few frames of each clip. Their
answers are kept by content, stretch, model and settings, so that another threshold costs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, normal_name
from lumiere.curation.clip_frames import CODE, NUM_FRAMES, SHORTER_SIDE, clip_frames
from lumiere.curation.clip_models import Captions, ClipModels
from lumiere.curation.measurement import Measurement
from lumiere.curation.parts import Part, divide
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.thresholds import too_short_or_still, too_small
from lumiere.data.bars import Box
from lumiere.data.ray_engine import RunTasks
from lumiere.data.remote import RemoteFolder
from lumiere.data.workers import Failure

Outcomes = Mapping[str, Measurement | Rejection]
LookKey = tuple[str, int]  # a video's name, and the number of the part in `divide`'s first list
AT_A_TIME = 8  # clips of a video whose frames a worker returns at once
NOTHING_SAID = "The captioner wrote nothing for it."


@dataclass(frozen=True)
class Look:
    """What models say of a clip.

    Attributes:
        part: the part, with the captions that count.
        columns: cells of the manifest, by column.
    """

    part: Part
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Clip:
    """A clip to look at.

    Attributes:
        key: its video and number.
        part: as `divide` returns it.
        box: the picture within black bars.
        content: a hash over the file, the stretch and how frames are taken from it.
        needs_caption: whether the captioner has to describe it.
    """

    key: LookKey
    part: Part
    box: Box | None
    content: str
    needs_caption: bool


def look_at(
    raw: Path | RemoteFolder,
    outcomes: Outcomes,
    captions: Mapping[str, list[Caption]],
    models: ClipModels,
    config: CurateConfig,
    scratch: Path,
    run: RunTasks,
    roots: tuple[Path, ...] = (),
) -> tuple[dict[LookKey, Look], dict[str, Failure]]:
    """Ask the models about each clip.

    Args:
        raw: the folder of raw videos.
        outcomes: by video name, the measurement or the rejection.
        captions: from `read_captions`, by normal name.
        scratch: folder for the answers, from which a killed run resumes.
        run: runs the tasks that decode, see `ray_engine.engine`.
        roots: other folders that links may lead to.

    Returns:
        The answers, and the videos whose frames could not be read again.
    """
    clips = list(_clips(outcomes, captions, models, config))
    captioner = Captions(models.captioner, scratch) if models.captioner else None
    failures: dict[str, Failure] = {}
    missing = [clip for clip in clips if _is_missing(clip, captioner)]
    for clip, frames in _decoded(raw, missing, failures, config, run, roots):
        if captioner and clip.needs_caption:
            captioner.ask(clip.content, frames)
    looks = {clip.key: _look(clip, captioner) for clip in clips if clip.key[0] not in failures}
    return looks, failures


def _clips(
    outcomes: Outcomes,
    captions: Mapping[str, list[Caption]],
    models: ClipModels,
    config: CurateConfig,
) -> Iterator[_Clip]:
    """Yield the clips of all videos that could be measured, in the order of their names."""
    for name in sorted(outcomes):
        video = outcomes[name]
        if isinstance(video, Rejection) or video.reason:
            continue
        parts, _ = divide(video, captions.get(normal_name(name), []))
        for number, part in enumerate(parts):
            needs_caption = models.captioner is not None and _lacks_caption(part, config)
            if needs_caption:
                small = too_small(min(video.width, video.height), config)
                if small or too_short_or_still(part.segment, config):
                    needs_caption = False  # a threshold rejects it, whatever it shows
                    part = dataclasses.replace(part, problem=None)
            segment = part.segment
            facts = [CODE, NUM_FRAMES, SHORTER_SIDE, video.sha256, video.box]
            facts += [segment.start, segment.end]
            content = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]
            yield _Clip((name, number), part, video.box, content, needs_caption)


def _lacks_caption(part: Part, config: CurateConfig) -> bool:
    """Return whether the captioner is responsible for a clip."""
    reasons = {Reason.NO_CAPTION}
    if config.captioner_for == "shots":
        reasons.add(Reason.CAPTION_SPANS_CUTS)
    return part.problem is not None and part.problem.reason in reasons


def _is_missing(clip: _Clip, captioner: Captions | None) -> bool:
    """Return whether a model has yet to see a clip."""
    return captioner is not None and clip.needs_caption and not captioner.knows(clip.content)


def _decoded(
    raw: Path | RemoteFolder,
    clips: Sequence[_Clip],
    failures: dict[str, Failure],
    config: CurateConfig,
    run: RunTasks,
    roots: tuple[Path, ...],
) -> Iterator[tuple[_Clip, np.ndarray]]:
    """Yield clips with their frames, uint8 (4, h, w, 3), in the order in which they are decoded.

    Args:
        failures: takes the videos that cannot be read.
    """
    by_video: dict[str, list[_Clip]] = {}
    for clip in clips:
        by_video.setdefault(clip.key[0], []).append(clip)
    groups = [
        own[start : start + AT_A_TIME]
        for own in by_video.values()
        for start in range(0, len(own), AT_A_TIME)
    ]
    tasks = []
    for group in groups:
        spans = [(clip.part.segment.start, clip.part.segment.end) for clip in group]
        tasks.append((raw, group[0].key[0], spans, group[0].box, roots))
    if not tasks:
        return
    finished = run(clip_frames, tasks, config.workers, config.timeout_s, config.memory_mb)
    for index, outcome in tqdm(finished, total=len(tasks), desc="look", mininterval=0.5):
        if isinstance(outcome, Failure):
            failures[groups[index][0].key[0]] = outcome
        else:
            yield from zip(groups[index], outcome, strict=True)


def _look(clip: _Clip, captioner: Captions | None) -> Look:
    part, columns = clip.part, {}
    if captioner:
        columns["captioner"] = ""
        if clip.needs_caption:
            sentence = captioner.of(clip.content)
            problem = None if sentence else Rejection(Reason.NO_CAPTION, NOTHING_SAID)
            part = Part(part.segment, [Caption(sentence)] if sentence else [], problem)
            columns["captioner"] = captioner.captioner.name if sentence else ""
    return Look(part, columns)
