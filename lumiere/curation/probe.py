"""Inspects a file without decoding it, and picks its decoder.

decord is exact and fast on ordinary closed-GOP files, but returns wrong frames or hangs on several
other kinds. It reads only files that pass every check below; PyAV reads the others, in order, by
timestamp.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Stream

from lumiere.curation.dvc_cache import is_in_cache
from lumiere.curation.reasons import Reason, Rejection
from lumiere.data.decoder_signs import is_checked
from lumiere.data.display import Display
from lumiere.data.frame_times import RAW_STREAMS
from lumiere.data.remote import RemoteFolder
from lumiere.data.video_source import FirstFrames
from lumiere.data.video_streams import demuxed, main_stream, open_video
from lumiere.data.workers import report_progress
from lumiere.errors import DataError
from lumiere.plurals import counted

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"}
)
VIDEO_SUFFIXES |= {
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".ogv",
    ".gif",
    ".3gp",
    ".mjpeg",
    ".h264",
    ".hevc",
}
DECORD_CONTAINERS = frozenset({"mp4", "mov", "matroska", "webm"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp9", "mjpeg"})


@dataclass(frozen=True)
class Probe:
    """Facts from the container, and the decoder to use.

    Attributes:
        width, height: pixels, as stored (before rotation).
        frame_rate: average frames per second; 0 if unknown.
        promised_frames: how many frames an undamaged file contains; None if the container does not
            say, or is often wrong.
        missing_seconds: how much earlier the packets of all streams end than the container says.
            The end of the picture alone says nothing, because sound may be longer.
        decoder: "decord" or "pyav".
        decoder_reason: why it is not decord; empty for decord.
        notes: how it is shown, where that differs from what is stored, and what else is unusual.
    """

    codec: str
    container: str
    width: int
    height: int
    frame_rate: float
    promised_frames: int | None
    missing_seconds: float
    decoder: str
    decoder_reason: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Packets:
    """The result of one pass over the packets."""

    points: list[int | None]  # pts in file order
    num_discarded: int  # cut away by an edit list
    num_corrupt: int
    num_leading: int  # shown before the first keyframe: they need frames that are not in the file
    is_open: bool  # a frame is shown before the keyframe that precedes it in the file
    are_checked: bool  # whether the decoder can notice almost all damage
    end: Fraction  # seconds at which the last packet of any stream ends


def list_inputs(raw: Path, roots: Sequence[Path] = ()) -> Iterator[str]:
    """List all files below `raw` as sorted relative paths.

    A hidden folder and a link to a folder are listed themselves, without their content. Links to
    folders within `roots` are followed.

    Args:
        raw: the folder of raw videos.
        roots: other folders that links may lead to.
    """
    names: list[str] = []
    seen = {raw.resolve()}
    pending = [raw]
    while pending:
        folder = pending.pop()
        for entry in _entries(folder):
            path = Path(entry.path)
            if not _is_followed(entry, roots):
                names.append(path.relative_to(raw).as_posix())
            elif (real := path.resolve()) not in seen:  # else links that lead round in a circle
                seen.add(real)
                pending.append(path)
    return iter(sorted(names))


def locate(raw: Path | RemoteFolder, name: str, roots: Sequence[Path] = ()) -> Path:
    """Return the real path of an input without opening it, because opening a pipe would hang.

    Args:
        raw: the folder of raw videos. A file of a remote one is fetched first.
        name: the input's path in it.
        roots: other folders that links may lead to.

    Raises:
        Rejection: HIDDEN, NOT_A_VIDEO, NOT_A_FILE or OUTSIDE_FOLDER. Links into the cache of the
            own DVC project are followed.
        DataError: if the settings of that project cannot be read.
        OSError: if a remote file cannot be fetched.
    """
    # Python decodes bytes that are not UTF-8 to surrogates.
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise Rejection(Reason.NOT_A_FILE, "Its name contains bytes that are not UTF-8.")
    if any(part.startswith(".") for part in Path(name).parts):
        raise Rejection(Reason.HIDDEN)
    if Path(name).suffix.lower() not in VIDEO_SUFFIXES:
        raise Rejection(Reason.NOT_A_VIDEO)
    if isinstance(raw, RemoteFolder):
        return raw.fetch(name)
    path = raw / name
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        raise Rejection(Reason.NOT_A_FILE) from None
    if not _is_allowed(real, (raw, *roots)) and not is_in_cache(real, raw):
        raise Rejection(Reason.OUTSIDE_FOLDER)
    if not stat.S_ISREG(mode):
        raise Rejection(Reason.NOT_A_FILE)
    return real


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder.

    Raises:
        DataError: if it cannot be read, because its videos would be lost silently.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        cure = "let this user read it, or move it out of the raw folder"
        raise DataError(f"{folder}: cannot be read: {error.strerror}; {cure}") from None


def _is_followed(entry: os.DirEntry[str], roots: Sequence[Path]) -> bool:
    """Return whether an entry is a folder whose content is listed."""
    if entry.name.startswith("."):
        return False
    if entry.is_dir(follow_symlinks=False):
        return True
    try:
        return entry.is_dir() and _is_allowed(Path(entry.path).resolve(), roots)
    except (OSError, RuntimeError):  # links in a circle
        return False


def _is_allowed(real: Path, roots: Sequence[Path]) -> bool:
    """Return whether a real path lies in one of the folders."""
    return any(real.is_relative_to(root.resolve()) for root in roots)


def probe(path: Path) -> tuple[Probe, Display]:
    """Read the header, pass over all packets, and decode the first frames.

    Returns:
        The facts, and how the frames are shown.

    Raises:
        VideoError: if it cannot be opened or holds no video.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        context = stream.codec_context
        index, num_streams = stream.index, len(container.streams.video)
        first_frames = FirstFrames(stream)
        packets = _read_packets(container, stream, first_frames)
        display = first_frames.display()
        codec, kind = context.codec.canonical_name, container.format.name
        seconds = Fraction(max(0, container.duration or 0), av.time_base)
        start = Fraction(container.start_time or 0, av.time_base)
        header_frames, rate = stream.frames, float(stream.average_rate or 0)
        width, height = context.width, context.height
    is_mp4 = "mp4" in kind.split(",")
    stored = _read_stored(path, index) if is_mp4 else packets
    has_edits = _shape(stored) != _shape(packets)
    hidden = len(stored.points) - len(packets.points) + packets.num_discarded
    # Only mp4's table counts its samples; other headers hold estimates, too low or too high.
    promised_frames = None
    if is_mp4 and header_frames:
        promised_frames = header_frames - max(0, hidden) - packets.num_leading
    missing = max(Fraction(0), start + seconds - packets.end) if seconds else Fraction(0)
    doubt = _doubt(kind, codec, seconds, header_frames, packets, has_edits)
    doubt = doubt or _doubt_display(num_streams, display)
    facts = Probe(
        codec=codec,
        container=kind.split(",")[0],
        width=width,
        height=height,
        frame_rate=rate,
        promised_frames=promised_frames,
        missing_seconds=0.0 if has_edits else float(missing),
        decoder="pyav" if doubt else "decord",
        decoder_reason=doubt,
        notes=(*display.notes, *_remarks(kind, num_streams, rate, packets.are_checked)),
    )
    return facts, display


def _doubt(
    kind: str,
    codec: str,
    seconds: Fraction,
    header_frames: int,
    packets: _Packets,
    has_edits: bool,
) -> str:
    """Return the first reason not to use decord; empty if there is none."""
    points = [point for point in packets.points if point is not None]
    # Matroska does not store a frame count, so 0 is fine there. mp4 always stores one.
    counts_differ = header_frames != len(packets.points) and (header_frames > 0 or "mp4" in kind)
    checks = {
        f"container {kind.split(',')[0]}": not DECORD_CONTAINERS & set(kind.split(",")),
        "no duration": not seconds,
        f"codec {codec}": codec not in DECORD_CODECS,
        "no packets": not packets.points,
        "discarded or corrupt packets": packets.num_discarded + packets.num_corrupt > 0,
        "packets without a timestamp": len(points) < len(packets.points),
        "repeated timestamps": len(set(points)) < len(points),
        "open GOP": packets.is_open,
        f"header counts {counted(header_frames, 'frame')}, file holds {len(packets.points)}": counts_differ,
        "edit list": has_edits,
    }
    for reason, holds in checks.items():
        if holds:
            return reason
    return ""


def _remarks(container: str, num_streams: int, rate: float, are_checked: bool) -> list[str]:
    """Return what is unusual about a file and does not show in its pictures."""
    remarks = []
    if num_streams > 1:
        remarks.append(f"{num_streams} video streams")
    if container in RAW_STREAMS:
        remarks.append(f"no times, {rate:g} frames per second assumed")
    if not are_checked:
        remarks.append("damage may go unnoticed")
    return remarks


def _doubt_display(num_streams: int, display: Display) -> str:
    """Return why decord may read other frames, or show them in another way; empty if it does not."""
    if num_streams > 1:
        return f"{num_streams} video streams"
    return "; ".join(display.notes)


def _read_stored(path: Path, index: int) -> _Packets:
    """Read the packets of a stream of an mp4 file without its edit list."""
    # Without a decoder, FFmpeg does not decode the first frames to open the file.
    with open_video(path, ignore_editlist="1", codec_whitelist="none") as container:
        return _read_packets(container, container.streams[index])


def _read_packets(
    container: av.container.InputContainer,
    stream: Stream,
    first_frames: FirstFrames | None = None,
) -> _Packets:
    points: list[int | None] = []
    ends = _Ends()
    num_discarded, num_corrupt, num_leading, is_open = 0, 0, 0, False
    codec, are_checked = stream.codec_context.codec.canonical_name, True
    key, first_key = None, None
    try:
        for packet in demuxed(container):
            report_progress()
            if not packet.size:
                continue
            ends.add(packet)
            if packet.stream_index != stream.index:
                continue
            if first_frames is not None:
                first_frames.add(packet)
                are_checked &= is_checked(codec, packet)
            num_discarded += packet.is_discard
            num_corrupt += packet.is_corrupt
            points.append(packet.pts)
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                key = packet.pts
                first_key = key if first_key is None else first_key
            elif key is None or packet.pts < key:
                is_open = True
                num_leading += key is None or key == first_key
    except av.error.FFmpegError:
        num_corrupt += 1  # the file breaks off
    end = ends.last()
    return _Packets(points, num_discarded, num_corrupt, num_leading, is_open, are_checked, end)


class _Ends:
    """Computes when the streams of a file end. It counts ticks, because fractions take ten times as
    long.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}  # of each stream, in its time base
        self._time_bases: dict[int, Fraction] = {}

    def add(self, packet: av.Packet) -> None:
        """Note the end of the next packet."""
        number = packet.stream_index
        if number not in self._time_bases:
            self._time_bases[number] = Fraction(packet.time_base or 0)
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            self._ticks[number] = max(self._ticks.get(number, 0), end)

    def last(self) -> Fraction:
        """Return when the last stream ends, in seconds; 0 if no packet has a time."""
        ends = [ticks * self._time_bases[number] for number, ticks in self._ticks.items()]
        return max(ends, default=Fraction(0))


def _shape(packets: _Packets) -> list[int | None]:
    """Return timestamps relative to the first, so that an edit list that only shifts time (as
    with B-frames) is ignored.
    """
    first = next((point for point in packets.points if point is not None), 0)
    return [None if point is None else point - first for point in packets.points]
