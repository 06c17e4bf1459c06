"""Measures a video by its frames, once, in a process that can be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import statistics
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lumiere.curation import filters
from lumiere.curation.damage import undamaged, within
from lumiere.curation.frame_pass import SAMPLE_FPS, Pass, read_frames
from lumiere.curation.inner_pictures import inner_pictures
from lumiere.curation.probe import Probe, locate, probe
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import Span, shots_between
from lumiere.data.bars import Box
from lumiere.data.display import INTERLACED
from lumiere.data.remote import RemoteFolder
from lumiere.data.shards import pack_arrays, unpack_arrays
from lumiere.data.video_io import code_version
from lumiere.data.workers import hash_with_progress, report_progress
from lumiere.errors import FetchError, VideoError
from lumiere.files import write_atomically
from lumiere.plurals import counted

# If any of these changes, earlier results are not reused.
CODE = code_version(
    __name__,
    "lumiere.curation.combing",
    "lumiere.curation.damage",
    "lumiere.curation.filters",
    "lumiere.curation.frame_pass",
    "lumiere.curation.inner_pictures",
    "lumiere.curation.probe",
    "lumiere.curation.shots",
    "lumiere.curation.tick_frames",
    "lumiere.data.bars",
    "lumiere.data.decoder_signs",
    "lumiere.data.disk_arrays",
    "lumiere.data.display",
    "lumiere.data.frame_times",
    "lumiere.data.key_frames",
    "lumiere.data.optical_flow",
    "lumiere.data.shards",
    "lumiere.data.video_io",
    "lumiere.data.video_source",
    "lumiere.data.video_streams",
    "lumiere.plurals",
)
SPAN_TOLERANCE_S = Fraction(1, 10)  # people mark spans by hand
NO_COLOUR = 2.0  # of 255; encoded grey is a little coloured
SLOWEST_STEP = Fraction(1, 12)  # seconds; frames that are further apart than in animation jerk
LONG_STEP = 3  # times the usual time between frames
FEWEST_REPEATS = 3  # times that each frame is shown, for a remark: drawn animation shows many twice
STILL = 0.03  # pixels per frame at 64 pixels; encoding moves as much
STILL_S = 1  # seconds without motion that get a remark
DURATION_TOLERANCE = 0.1  # share of the container's duration that may be missing
FRAME_TOLERANCE = 1  # frames that may be missing: headers and decoders disagree by one now and then

# Silence the decoder: the manifest already records the errors that matter.
av.logging.set_libav_level(av.logging.PANIC)


@dataclass(frozen=True)
class Segment:
    """A stretch without a cut, and its scores.

    Attributes:
        start, end: seconds from the first frame, exact.
        span: the captioned span that it belongs to; None for a whole shot.
        motion, sharpness: see `filters`.
        motion_curve: see `filters.motions`, starting at the first sixteenth of a second within the
            segment.
        box: the picture within black bars: left, top, width and height in pixels; None without
            bars.
    """

    start: Fraction
    end: Fraction
    span: Span | None
    motion: float
    sharpness: float
    motion_curve: tuple[float, ...] = ()
    box: Box | None = None


@dataclass(frozen=True)
class Measurement:
    """The measurements of one video, as numbers and small pictures; no verdict except whether it can be read.

    Attributes:
        reason, detail: why it cannot be read; empty if it can.
        width, height: pixels, as shown, with black bars.
        num_frames: source frames that the decoder returned.
        notes: what is unusual about its pictures and times.
        damage: what was cut out, in words; empty for nothing.
        shots: spans between cuts, without damage.
        segments: the shots, then the captioned spans that lie within one shot.
        signatures: uint8 (segments, 4, 64, 64, 3).
    """

    sha256: str
    num_bytes: int
    reason: str = ""
    detail: str = ""
    probe: Probe | None = None
    width: int = 0
    height: int = 0
    num_frames: int = 0
    duration: Fraction = Fraction(0)
    notes: tuple[str, ...] = ()
    damage: str = ""
    shots: tuple[Span, ...] = ()
    segments: tuple[Segment, ...] = ()
    signatures: np.ndarray = dataclasses.field(
        default_factory=lambda: np.empty((0, 4, 64, 64, 3), np.uint8)
    )

    def box_of(self, stretch: Segment) -> Box | None:
        """Return the box of the picture within black bars; None without bars. A stretch that was not
        measured gets the box that all shots share; None if they differ.
        """
        if _key(stretch) in self._places:
            return stretch.box
        boxes = {segment.box for segment in self.segments if segment.span is None}
        return boxes.pop() if len(boxes) == 1 else None

    def size_of(self, stretch: Segment) -> tuple[int, int]:
        """Return the (width, height) of a stretch within black bars."""
        box = self.box_of(stretch)
        return (self.width, self.height) if box is None else box[2:]

    def signature_of(self, stretch: Segment) -> np.ndarray | None:
        """Return the small frames of a stretch; None if it was not measured."""
        place = self._places.get(_key(stretch))
        return None if place is None else self.signatures[place]

    @functools.cached_property
    def _places(self) -> dict[tuple[Any, ...], int]:
        """The index of each segment, by its key."""
        return {_key(segment): place for place, segment in enumerate(self.segments)}


def _key(segment: Segment) -> tuple[Any, ...]:
    return segment.start, segment.end, segment.span


def _fetched(raw: RemoteFolder, name: str) -> Path:
    try:
        return locate(raw, name)
    except TimeoutError:
        detail = "Its store sent nothing for too long; `dvc repro -f curate` tries again."
        raise Rejection(Reason.TIMEOUT, detail) from None
    except OSError as error:
        raise FetchError(f"{name}: cannot be fetched: {error.strerror or error}") from None


def measure_video(
    raw: Path | RemoteFolder,
    name: str,
    spans: tuple[Span, ...],
    shot_threshold: float,
    scratch: Path,
    roots: tuple[Path, ...] = (),
) -> Measurement:
    """Measure a video, or read the measurement of an earlier run from `scratch`.

    Args:
        raw: the folder of raw videos.
        name: the file's path in it.
        spans: the captioned spans, in seconds.
        shot_threshold: see `shots`.
        scratch: folder of finished measurements, keyed by content, spans, threshold and code
            version.
        roots: other folders that links may lead to.

    Raises:
        Rejection: if the file must not be opened, or the machine cannot read it now. Faults of the
            file itself are results, which are kept in `scratch`.
        FetchError: if a remote file cannot be fetched now.
    """
    try:
        path = _fetched(raw, name) if isinstance(raw, RemoteFolder) else locate(raw, name, roots)
        return _measure_once(path, spans, shot_threshold, scratch)
    except (OSError, MemoryError) as error:
        # Leave out the path, which differs between machines.
        cause = getattr(error, "strerror", None) or type(error).__name__
        detail = f"The machine could not read it ({cause}); `dvc repro -f curate` tries again."
        raise Rejection(Reason.UNREADABLE, detail) from error


def _measure_once(
    path: Path, spans: tuple[Span, ...], shot_threshold: float, scratch: Path
) -> Measurement:
    sha256 = hash_with_progress(path)
    key = json.dumps([CODE, sha256, spans, shot_threshold], default=str)
    cached = scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if cached.is_file():
        return from_bytes(cached.read_bytes())
    try:
        measurement = _measure(path, sha256, spans, shot_threshold, scratch)
    except Rejection as rejection:
        measurement = Measurement(
            sha256, path.stat().st_size, rejection.reason.value, rejection.detail
        )
    write_atomically(cached, to_bytes(measurement))
    return measurement


def to_bytes(measurement: Measurement) -> bytes:
    """Pack a measurement as an npz without pickles."""
    facts = dataclasses.asdict(measurement)
    del facts["signatures"]
    text = json.dumps(facts, default=str)  # a fraction as "6/5"
    return pack_arrays(facts=np.array(text), signatures=measurement.signatures)


def from_bytes(content: bytes) -> Measurement:
    """Undo `to_bytes`."""
    arrays = unpack_arrays(content)
    facts: dict[str, Any] = json.loads(str(arrays["facts"]))
    if facts["probe"]:
        facts["probe"] = Probe(**{**facts["probe"], "notes": tuple(facts["probe"]["notes"])})
    facts["notes"] = tuple(facts["notes"])
    facts["duration"] = Fraction(facts["duration"])
    facts["shots"] = tuple(_span(shot) for shot in facts["shots"])
    facts["segments"] = tuple(_segment(segment) for segment in facts["segments"])
    return Measurement(**{**facts, "signatures": arrays["signatures"]})


def containing_shot(span: Span, shots: tuple[Span, ...]) -> Span | None:
    """Return the part of a span that lies in one shot; None if there is a cut within the span."""
    for start, end in shots:
        if start - SPAN_TOLERANCE_S <= span[0] and span[1] <= end + SPAN_TOLERANCE_S:
            return max(start, span[0]), min(end, span[1])
    return None


def _span(texts: list[str]) -> Span:
    return Fraction(texts[0]), Fraction(texts[1])


def _segment(facts: dict[str, Any]) -> Segment:
    start, end = _span([facts["start"], facts["end"]])
    span = _span(facts["span"]) if facts["span"] else None
    curve, box = tuple(facts["motion_curve"]), tuple(facts["box"]) if facts["box"] else None
    times = {"start": start, "end": end, "span": span}
    return Segment(**{**facts, **times, "motion_curve": curve, "box": box})


def _measure(
    path: Path, sha256: str, spans: tuple[Span, ...], shot_threshold: float, scratch: Path
) -> Measurement:
    try:
        facts, display = probe(path)
        seen = read_frames(path, display, scratch)
    except VideoError as error:
        raise Rejection(Reason.UNREADABLE, f"It cannot be read: {error}.") from None
    with contextlib.closing(seen):
        return _measure_frames(path, sha256, spans, shot_threshold, facts, seen)


def _measure_frames(
    path: Path,
    sha256: str,
    spans: tuple[Span, ...],
    shot_threshold: float,
    facts: Probe,
    seen: Pass,
) -> Measurement:
    seen.leave_out_damaged_end()
    stretches = undamaged(path, facts.codec, seen.end, seen.damage) if seen.damage else []
    _check_whole(facts, seen, bool(stretches))
    facts = _with_decoder(facts, seen, bool(stretches))
    whole = seen.picture_box()
    if whole is not None:
        seen.cut_bars(whole)
    cuts = seen.cuts.cuts(shot_threshold, seen.times)
    shots = tuple(shots_between(seen.times, cuts, seen.end))
    if stretches:
        shots = _undamaged_shots(shots, stretches, spans)
        seen.notes.append(f"cut around damage ({seen.damage})")
    pieces: list[tuple[Span, Span | None]] = [(shot, None) for shot in shots]
    pieces += [(part, span) for span in spans if (part := containing_shot(span, shots))]
    pictures = inner_pictures(path, seen, [piece for piece, _ in pieces], len(shots), whole)
    segments, signatures = [], []
    for ((start, end), span), inner in zip(pieces, pictures, strict=True):
        motion, curve = filters.motions(inner.frames)
        report_progress()
        score = motion, inner.sharpness, tuple(curve)
        segments.append(Segment(start, end, span, *score, inner.box))
        signatures.append(filters.signature(inner.frames))
    return Measurement(
        sha256=sha256,
        num_bytes=path.stat().st_size,
        probe=facts,
        width=seen.sizes[0][0],
        height=seen.sizes[0][1],
        num_frames=len(seen.times),
        duration=seen.end,
        notes=tuple(_remarks(seen, segments)),
        damage=str(seen.damage) if stretches else "",
        shots=shots,
        segments=tuple(segments),
        signatures=np.stack(signatures),
    )


def _with_decoder(facts: Probe, seen: Pass, has_stretches: bool) -> Probe:
    """Return the facts with PyAV as the decoder if the frames show that decord is no choice."""
    if f"{INTERLACED} in part" in seen.notes:  # and not, as the first frames say, the whole
        facts = dataclasses.replace(facts, notes=tuple(n for n in facts.notes if n != INTERLACED))
    if not has_stretches and not seen.num_interlaced:
        return facts
    doubt = "damaged" if has_stretches else "interlaced"
    return dataclasses.replace(facts, decoder="pyav", decoder_reason=doubt)


def _undamaged_shots(
    shots: tuple[Span, ...], stretches: list[Span], spans: tuple[Span, ...]
) -> tuple[Span, ...]:
    """Return the shots of the longest stretch; of all if a captioned span lies in another one only."""
    longest = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    of_longest, of_all = within(shots, [longest]), within(shots, stretches)
    for span in spans:
        if containing_shot(span, of_all) and not containing_shot(span, of_longest):
            return of_all
    return of_longest


def _remarks(seen: Pass, segments: list[Segment]) -> list[str]:
    """Return what is unusual about the pictures and times of a video."""
    remarks = list(seen.notes)
    if seen.most_colour < NO_COLOUR:
        remarks.append("without colour")
    steps = [after - before for before, after in itertools.pairwise(seen.times)]
    if not steps:
        return remarks
    usual, longest = statistics.median_low(steps), max(steps)
    if usual > SLOWEST_STEP:
        remarks.append(f"{float(1 / usual):.3g} frames per second")
    repeats = seen.cuts.repeats()
    if repeats >= FEWEST_REPEATS:
        remarks.append(f"every frame {repeats} times")
    if longest > max(LONG_STEP * usual, SLOWEST_STEP):
        remarks.append(f"a frame that stands for {float(longest):.2f} s")
        return remarks
    return [*remarks, *_still_parts(segments)]


def _still_parts(segments: list[Segment]) -> list[str]:
    """Return where the picture of a shot that moves is frozen for long."""
    remarks = []
    for segment in segments:
        if segment.span is not None:
            continue
        start = 0
        for is_still, ticks in itertools.groupby(segment.motion_curve, lambda fast: fast < STILL):
            count = len(list(ticks))
            is_long = count >= STILL_S * SAMPLE_FPS
            if is_still and is_long and count < len(segment.motion_curve):
                first = float(segment.start) + start / SAMPLE_FPS
                remarks.append(
                    f"nothing moves from {first:.2f} to {first + count / SAMPLE_FPS:.2f} s"
                )
            start += count
    return remarks


def _check_whole(facts: Probe, seen: Pass, has_stretches: bool) -> None:
    """Raise Rejection if the file holds less than its header promises, or is damaged and has no
    stretches without damage.
    """
    num_frames, promised = len(seen.times), facts.promised_frames
    is_short = promised is not None and num_frames < promised - FRAME_TOLERANCE
    if is_short and not has_stretches:  # damage explains it
        raise Rejection(
            Reason.TRUNCATED,
            f"The decoder returned {counted(num_frames, 'frame')}; the header promises {promised}.",
        )
    missing = facts.missing_seconds
    if missing > (float(seen.end) + missing) * DURATION_TOLERANCE + 1 / SAMPLE_FPS:
        raise Rejection(
            Reason.TRUNCATED, f"The file ends {missing:.2f} s earlier than its header promises."
        )
    if len(seen.sizes) > 1:
        named = ", ".join(f"{width}x{height}" for width, height in seen.sizes[:4])
        raise Rejection(
            Reason.UNREADABLE, f"Its pictures change their size ({named}); convert it to one size."
        )
    if seen.damage and not has_stretches:
        detail = f"It gives {counted(num_frames, 'frame')}; the decoder reports {seen.damage}."
        raise Rejection(Reason.DAMAGED, detail)
