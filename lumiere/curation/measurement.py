"""Measures a video by its frames, once, in a process that can be killed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from lumiere.curation import filters
from lumiere.curation.probe import Probe, locate, probe
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.shots import find_shots
from lumiere.data.shards import pack_arrays, unpack_arrays
from lumiere.data.video_io import Decoded, code_version, decode
from lumiere.errors import VideoError
from lumiere.files import content_hash, write_atomically

# If any of these changes, earlier results are not reused.
CODE = code_version(
    __name__,
    "lumiere.curation.filters",
    "lumiere.curation.probe",
    "lumiere.curation.shots",
    "lumiere.data.optical_flow",
    "lumiere.data.shards",
    "lumiere.data.video_io",
)
SAMPLE_FPS = 16  # the rate at which training sees videos
SPAN_TOLERANCE_S = 0.1  # people mark spans by hand
DURATION_TOLERANCE = 0.1  # share of the container's duration that may be missing

Span = tuple[float, float]

# Silence the decoder: the manifest already records the errors that matter.
av.logging.set_libav_level(av.logging.PANIC)


@dataclass(frozen=True)
class Segment:
    """A stretch without a cut, and its scores.

    Attributes:
        start, end: seconds from the first frame.
        span: the captioned span that it belongs to; None for a whole shot.
        motion, sharpness: see `filters`.
    """

    start: float
    end: float
    span: Span | None
    motion: float
    sharpness: float


@dataclass(frozen=True)
class Measurement:
    """The measurements of one video, as numbers and small pictures; no verdict except whether it can be read.

    Attributes:
        reason, detail: why it cannot be read; empty if it can.
        width, height: pixels, upright.
        num_frames: source frames that the decoder returned.
        shots: spans between cuts.
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
    duration: float = 0.0
    shots: tuple[Span, ...] = ()
    segments: tuple[Segment, ...] = ()
    signatures: np.ndarray = dataclasses.field(
        default_factory=lambda: np.empty((0, 4, 64, 64, 3), np.uint8)
    )


def measure_video(
    raw: Path, name: str, spans: tuple[Span, ...], shot_threshold: float, scratch: Path
) -> Measurement:
    """Measure a video, or read the measurement of an earlier run from `scratch`.

    Args:
        raw: the folder of raw videos.
        name: the file's path in it.
        spans: the captioned spans, in seconds.
        shot_threshold: see `shots`.
        scratch: folder of finished measurements, keyed by content, spans, threshold and code
            version.

    Raises:
        Rejection: if the file must not be opened, or the machine cannot read it now. Faults of the
            file itself are results, which are kept in `scratch`.
    """
    path = locate(raw, name)
    try:
        return _measure_once(path, spans, shot_threshold, scratch)
    except (OSError, MemoryError) as error:
        # Leave out the path, which differs between machines.
        cause = getattr(error, "strerror", None) or type(error).__name__
        detail = f"The machine could not read it ({cause}); `dvc repro -f curate` tries again."
        raise Rejection(Reason.UNREADABLE, detail) from error


def _measure_once(
    path: Path, spans: tuple[Span, ...], shot_threshold: float, scratch: Path
) -> Measurement:
    sha256 = content_hash(path)
    key = json.dumps([CODE, sha256, spans, shot_threshold])
    cached = scratch / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if cached.is_file():
        return from_bytes(cached.read_bytes())
    try:
        measurement = _measure(path, sha256, spans, shot_threshold)
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
    return pack_arrays(facts=np.array(json.dumps(facts)), signatures=measurement.signatures)


def from_bytes(content: bytes) -> Measurement:
    """Undo `to_bytes`."""
    arrays = unpack_arrays(content)
    facts: dict[str, Any] = json.loads(str(arrays["facts"]))
    facts["probe"] = Probe(**facts["probe"]) if facts["probe"] else None
    facts["shots"] = tuple(tuple(shot) for shot in facts["shots"])
    facts["segments"] = tuple(
        Segment(**{**segment, "span": tuple(segment["span"]) if segment["span"] else None})
        for segment in facts["segments"]
    )
    return Measurement(**{**facts, "signatures": arrays["signatures"]})


def containing_shot(span: Span, shots: tuple[Span, ...]) -> Span | None:
    """Return the part of a span that lies in one shot; None if there is a cut within the span."""
    for start, end in shots:
        if start - SPAN_TOLERANCE_S <= span[0] and span[1] <= end + SPAN_TOLERANCE_S:
            return max(start, span[0]), min(end, span[1])
    return None


def _measure(
    path: Path, sha256: str, spans: tuple[Span, ...], shot_threshold: float
) -> Measurement:
    try:
        facts = probe(path)
        sizes: list[tuple[int, int]] = []
        sharp: list[float] = []

        def shrink_and_note(frame: np.ndarray) -> np.ndarray:
            sizes.append((frame.shape[1], frame.shape[0]))
            sharp.append(filters.sharpness(frame))
            return filters.shrink(frame)

        decoded, facts = _decode(path, facts, shrink_and_note)
    except VideoError as error:
        raise Rejection(Reason.UNREADABLE, f"It cannot be read: {error}.") from None
    _check_whole(facts, decoded)
    duration = round(decoded.duration, 6)
    shots = tuple(find_shots(path, shot_threshold, duration))
    pieces: list[tuple[Span, Span | None]] = [(shot, None) for shot in shots]
    pieces += [(part, span) for span in spans if (part := containing_shot(span, shots))]
    segments, signatures = [], []
    for (start, end), span in pieces:
        # Take the frames whose ticks lie in [start, end); at least one.
        first = min(int(np.ceil(start * SAMPLE_FPS - 1e-6)), len(decoded.frames) - 1)
        last = max(first + 1, int(np.ceil(end * SAMPLE_FPS - 1e-6)))
        frames = decoded.frames[first:last]
        blur = round(float(np.median(sharp[first:last])), 3)
        segments.append(Segment(start, end, span, filters.motion(frames), blur))
        signatures.append(filters.signature(frames))
    return Measurement(
        sha256=sha256,
        num_bytes=path.stat().st_size,
        probe=facts,
        width=sizes[0][0],
        height=sizes[0][1],
        num_frames=decoded.num_source_frames,
        duration=duration,
        shots=shots,
        segments=tuple(segments),
        signatures=np.stack(signatures),
    )


def _decode(
    path: Path, facts: Probe, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[Decoded, Probe]:
    """Decode all frames, with PyAV where decord fails; the returned probe names the decoder that was used."""
    if facts.decoder == "decord":
        try:
            return decode(path, SAMPLE_FPS, decoder="decord", transform=transform), facts
        except (VideoError, ImportError) as error:
            facts = dataclasses.replace(
                facts, decoder="pyav", decoder_reason=f"decord failed: {error}"[:200]
            )
    return decode(path, SAMPLE_FPS, decoder="pyav", transform=transform), facts


def _check_whole(facts: Probe, decoded: Decoded) -> None:
    """Raise Rejection if the decoder returned less than the container promises."""
    promised = facts.promised_frames
    if promised is not None and decoded.num_source_frames < promised:
        raise Rejection(
            Reason.TRUNCATED,
            f"The decoder returned {decoded.num_source_frames} frames; the header promises {promised}.",
        )
    seconds = facts.promised_seconds
    if seconds is None:
        return
    if decoded.duration < seconds * (1 - DURATION_TOLERANCE) - 1 / SAMPLE_FPS:
        raise Rejection(
            Reason.TRUNCATED,
            f"The decoder returned {decoded.duration:.2f} s; the container promises {seconds:.2f} s.",
        )
