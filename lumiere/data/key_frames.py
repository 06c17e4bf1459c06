"""Finds the frames from which a video can be decoded exactly as from its start.

Seeking is exact only if no frame that is shown after a key frame needs one from before it. The
container's mark alone does not say so: it also marks recovery points, behind which a decoder shows
grey. So a key frame counts if the bitstream itself resets the decoder there (an IDR or CRA picture of
H.264 and HEVC, a key frame of VP9, AV1 and MPEG, any frame of a codec without prediction), and if
the times say that no frame is shown across it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from lumiere.data.frame_times import Clock
from lumiere.data.video_source import first_point
from lumiere.data.video_streams import demuxed, main_stream, open_video
from lumiere.data.workers import report_progress

# Containers whose index leads to a frame and not near it.
SEEKABLE = frozenset({"mov", "mp4", "matroska", "webm"})
IDR = 5  # types of NAL units in H.264, ITU-T H.264, table 7-1
AV1_FRAMES = (3, 6)  # types of OBUs that begin with a frame's header
START_CODE = b"\x00\x00\x01"
HEVC_IRAP = range(16, 22)  # BLA, IDR and CRA pictures in H.265, table 7-1


@dataclass(frozen=True)
class KeyFrames:
    """Holds the key frames at which decoding may begin.

    Attributes:
        points: ascending timestamps of the key frames, in ticks of `time_base`; the first is that of
            the first frame that can be decoded, from which all times count. Empty if the video must
            be decoded from its start.
        time_base: seconds per tick.
    """

    points: list[int]
    time_base: Fraction

    def before(self, time: Fraction) -> int | None:
        """Return the last key frame at or before `time`, in seconds from the first frame; None if
        decoding has to begin at the start.
        """
        if not self.points:
            return None
        times = [(point - self.points[0]) * self.time_base for point in self.points]
        return self.points[max(0, bisect.bisect_right(times, time) - 1)]


def key_frames(path: str | Path, must_seek: bool = True) -> KeyFrames:
    """Read all packets, decode the first frame, and return the exact key frames.

    Args:
        must_seek: whether they only count in containers that lead to them.

    Raises:
        VideoError: if the file cannot be opened.
    """
    with open_video(path) as container:
        stream = main_stream(container)
        time_base = Fraction(stream.time_base or 1)
        nothing = KeyFrames([], time_base)
        if must_seek and not SEEKABLE & set(container.format.name.split(",")):
            return nothing
        try:
            points, candidates = _read_points(container, stream, must_seek)
        except (av.error.FFmpegError, _Irregular):
            return nothing
    if not candidates or candidates[0] != 0 or len(set(points)) < len(points):
        return nothing
    exact = _not_crossed(points, candidates)
    first = first_point(path)  # later than that of the first packet if its picture is damaged
    return KeyFrames(exact[exact.index(first) :] if first in exact else [], time_base)


class _Irregular(Exception):
    """Reports a packet that has no time, is damaged, or is not to be shown."""


def _read_points(
    container: av.container.InputContainer, stream: av.VideoStream, must_be_whole: bool
) -> tuple[list[int], list[int]]:
    """Return the timestamps of all packets, and the places among them of those that reset the
    decoder.

    Raises:
        FFmpegError: if the file breaks off.
        _Irregular: at the first such packet.
    """
    context = stream.codec_context
    resets_decoder = RESETS.get(context.codec.canonical_name, _never)
    clock = Clock(container.format.name)
    points: list[int] = []
    candidates: list[int] = []
    for packet in demuxed(container, stream):
        report_progress()
        if not packet.size:
            continue
        point = clock.packet_point(packet)
        if point is None or packet.is_discard or (must_be_whole and packet.is_corrupt):
            raise _Irregular
        if packet.is_keyframe and resets_decoder(bytes(packet), context.extradata or b""):
            candidates.append(len(points))
        points.append(point)
    return points, candidates


def _not_crossed(points: list[int], candidates: list[int]) -> list[int]:
    """Return the times of the key frames before which all earlier packets are shown, and after which
    all later ones.
    """
    latest_before = [points[0] - 1]  # of the packets before each place
    for point in points[:-1]:
        latest_before.append(max(latest_before[-1], point))
    earliest_after = [points[-1]] * len(points)  # of the packets from each place on
    for place in range(len(points) - 2, -1, -1):
        earliest_after[place] = min(points[place], earliest_after[place + 1])
    return [
        points[place]
        for place in candidates
        if latest_before[place] < points[place] == earliest_after[place]
    ]


def _never(content: bytes, extradata: bytes) -> bool:
    return False


def _always(content: bytes, extradata: bytes) -> bool:
    return True


def _vp9_resets(content: bytes, extradata: bytes) -> bool:
    # Bits from the highest: marker (2), profile (2), show_existing_frame, frame_type = 0.
    is_profile_3 = content[0] & 0x30 == 0x30
    return content[0] & 0xC0 == 0x80 and not is_profile_3 and not content[0] & 0x0C


def _h264_resets(content: bytes, extradata: bytes) -> bool:
    if extradata[:1] != b"\x01":
        # Transport streams: units follow start codes.
        return any(unit[0] & 0x1F == IDR for unit in content.split(START_CODE)[1:] if unit)
    if len(extradata) < 5:
        return False
    return IDR in [unit[0] & 0x1F for unit in _units(content, (extradata[4] & 3) + 1)]


def _hevc_resets(content: bytes, extradata: bytes) -> bool:
    if extradata[:1] != b"\x01" or len(extradata) < 22:
        return False
    kinds = [unit[0] >> 1 & 0x3F for unit in _units(content, (extradata[21] & 3) + 1)]
    pictures = [kind for kind in kinds if kind < 32]
    return bool(pictures) and all(kind in HEVC_IRAP for kind in pictures)


def _units(content: bytes, length_size: int) -> list[bytes]:
    """Return the first byte of each NAL unit of a packet, whose units follow their lengths."""
    units = []
    place = 0
    while place + length_size < len(content):
        length = int.from_bytes(content[place : place + length_size], "big")
        place += length_size
        units.append(content[place : place + 1])
        place += length
    return units


def _av1_resets(content: bytes, extradata: bytes) -> bool:
    """Return whether a packet is a key frame that is shown: AV1 specification, 5.3.2 and 5.9.2."""
    place = 0
    while place + 1 < len(content):
        kind, has_extension, has_size = (
            content[place] >> 3 & 15,
            content[place] & 4,
            content[place] & 2,
        )
        place += 2 if has_extension else 1
        size = len(content) - place
        if has_size:
            size, place = _leb128(content, place)
        if kind in AV1_FRAMES and place < len(content):
            # Bits from the highest: show_existing_frame = 0, frame_type (2) = 0, show_frame = 1.
            return content[place] >> 4 == 1
        place += size
    return False


def _leb128(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, the lowest first, and the place behind it."""
    number = shift = 0
    for byte in content[place : place + 8]:
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            break
    return number, place


# By codec: whether no later frame needs one from before a packet, given the packet and the codec's
# own data.
RESETS: dict[str, Callable[[bytes, bytes], bool]] = {
    **dict.fromkeys(("mjpeg", "prores", "dnxhd", "ffvhuff", "huffyuv"), _always),
    # Their key frames are whole pictures.
    **dict.fromkeys(("mpeg1video", "mpeg2video", "mpeg4"), _always),
    "vp9": _vp9_resets,
    "av1": _av1_resets,
    "h264": _h264_resets,
    "hevc": _hevc_resets,
}
