"""Lets models look at clips: a caption for those without one, and scores.

Models look after the measurements and before the verdicts, at a few frames of each clip. Their
answers are kept by content, stretch, model and settings, so that another threshold costs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption, normal_name
from lumiere.curation.clip_frames import (
    CODE,
    NUM_FRAMES,
    SHORTER_SIDE,
    clip_frames,
    frames_to_follow,
    sparse,
)
from lumiere.curation.clip_models import Captions, ClipModels, Scores, TextAreas
from lumiere.curation.exposure import picture_scores
from lumiere.curation.frame_pass import SAMPLE_FPS
from lumiere.curation.measurement import Measurement
from lumiere.curation.parts import Part, divide
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span
from lumiere.curation.thresholds import bad_score, too_short_or_still, too_small
from lumiere.data.ray_engine import RunTasks
from lumiere.data.remote import RemoteFolder
from lumiere.data.workers import Failure

Outcomes = Mapping[str, Measurement | Rejection]
LookKey = tuple[str, int]  # a video's name, and the number of the part in `divide`'s first list
AT_A_TIME = 8  # clips of a video whose frames a worker returns at once
NOTHING_SAID = "The captioner wrote nothing for it."


@dataclass(frozen=True)
class Look:
    """Holds the answers of the models about a clip.

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
        content: a hash over the file, the stretch and how frames are taken from it.
        needs_caption: whether the captioner has to describe it.
    """

    key: LookKey
    part: Part
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
    answers = _Answers(models, scratch)
    failures: dict[str, Failure] = {}
    missing = [clip for clip in clips if answers.lack(clip)]
    follow = frames_to_follow if models.network else lambda span: NUM_FRAMES
    for clip, frames in _decoded(raw, missing, follow, failures, config, run, roots):
        answers.ask(clip, frames)
    looks = {clip.key: answers.look(clip) for clip in clips if clip.key[0] not in failures}
    answers.save()
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
                scores = picture_scores(part.segment.sharpness, video.signature_of(part.segment))
                if (
                    too_small(min(video.size_of(part.segment)), config)
                    or too_short_or_still(part.segment, config)
                    or bad_score(scores, config)
                ):
                    needs_caption = False  # a threshold rejects it, whatever it shows
                    part = dataclasses.replace(part, problem=None)
            segment = part.segment
            facts = [CODE, NUM_FRAMES, SHORTER_SIDE, SAMPLE_FPS, video.sha256, segment.box]
            facts += [segment.start, segment.end]
            content = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]
            yield _Clip((name, number), part, content, needs_caption)


def _lacks_caption(part: Part, config: CurateConfig) -> bool:
    """Return whether the captioner is responsible for a clip."""
    reasons = {Reason.NO_CAPTION}
    if config.captioner_for == "shots":
        reasons.add(Reason.CAPTION_SPANS_CUTS)
    return part.problem is not None and part.problem.reason in reasons


def _decoded(
    raw: Path | RemoteFolder,
    clips: Sequence[_Clip],
    num_frames: Callable[[Span], int],
    failures: dict[str, Failure],
    config: CurateConfig,
    run: RunTasks,
    roots: tuple[Path, ...],
) -> Iterator[tuple[_Clip, np.ndarray]]:
    """Yield clips with their frames, uint8 (n, h, w, 3), in the order in which they are decoded.

    Args:
        num_frames: how many frames of a stretch to take.
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
        segments = [clip.part.segment for clip in group]
        spans = [(segment.start, segment.end) for segment in segments]
        boxes = [segment.box for segment in segments]
        counts = [num_frames(span) for span in spans]
        tasks.append((raw, group[0].key[0], spans, boxes, roots, counts))
    if not tasks:
        return
    finished = run(clip_frames, tasks, config.workers, config.timeout_s, config.memory_mb)
    for index, outcome in tqdm(finished, total=len(tasks), desc="look", mininterval=0.5):
        if isinstance(outcome, Failure):
            failures[groups[index][0].key[0]] = outcome
        else:
            yield from zip(groups[index], outcome, strict=True)


class _Answers:
    """Asks all models about clips, and holds their answers."""

    def __init__(self, models: ClipModels, scratch: Path) -> None:
        self._captions = Captions(models.captioner, scratch) if models.captioner else None
        self._scores = Scores(models.network, models.head, scratch) if models.network else None
        self._areas = TextAreas(models.reader, scratch) if models.reader else None

    def lack(self, clip: _Clip) -> bool:
        """Return whether a model has yet to see a clip."""
        return bool(self._unasked(clip))

    def ask(self, clip: _Clip, frames: np.ndarray) -> None:
        """Show a clip, uint8 (n, h, w, 3), to the models that have yet to see it."""
        for model in self._unasked(clip):
            model.ask(clip.content, frames if model is self._scores else sparse(frames))

    def _unasked(self, clip: _Clip) -> list[Captions | Scores | TextAreas]:
        captions = self._captions if clip.needs_caption else None
        models = (captions, self._scores, self._areas)
        return [model for model in models if model and not model.knows(clip.content)]

    def save(self) -> None:
        """Write all answers, so that the next run finds them."""
        for model in (self._scores, self._areas):
            if model:
                model.save()

    def look(self, clip: _Clip) -> Look:
        """Return the answers about a clip that every model has seen."""
        part, columns = clip.part, dict[str, Any]()
        if self._captions:
            columns["captioner"] = ""
            if clip.needs_caption:
                sentence = self._captions.of(clip.content)
                part = _described(part, sentence)
                columns["captioner"] = self._captions.captioner.name if sentence else ""
        if self._scores:
            texts = [caption.text for caption in part.captions]
            columns |= self._scores.columns(clip.content, texts)
        if self._areas:
            columns |= self._areas.columns(clip.content)
        return Look(part, columns)


def _described(part: Part, sentence: str) -> Part:
    """Return a part with what the captioner wrote for it, and the other cells of its own captions
    on which these agree. If the captioner wrote nothing, captions that a person wrote stay.
    """
    if sentence:
        first, *rest = [caption.others for caption in part.captions] or [{}]
        agreed = {
            name: cell
            for name, cell in first.items()
            if all(others.get(name) == cell for others in rest)
        }
        return Part(part.segment, [Caption(sentence, others=agreed)])
    if part.captions:
        return part
    return Part(part.segment, [], Rejection(Reason.NO_CAPTION, NOTHING_SAID))
