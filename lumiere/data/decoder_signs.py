"""Lists the decoders that notice damage, and collects the errors that some only log."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.logging

# These decoders mark the frames whose damage they conceal. All others have to be strict instead.
MARKING_CODECS = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "flv1"})
# These stop at almost all damage, if they are strict.
STRICT_CODECS = frozenset({"vp9", "av1"})
# These return a picture whose checksum is wrong, and only log it. The logs of the others add
# nothing to their marks and errors.
LOGGING_CODECS = frozenset({"hevc", "ffv1"})

# A NAL unit of type 40 (suffix SEI) that begins with the MD5 of one or three planes, H.265 D.2.19.
# FFmpeg does not check the other two kinds of sums.
HEVC_MD5 = re.compile(rb"\x50[\x01-\x07]\x84[\x11\x31]\x00")
FFV1_FOOTER = 8  # bytes: the slice's size (3), its state (1), its checksum (4)
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_lock = threading.Lock()
_num_listeners = 0
# FFmpeg's log: its level, and whether it joins lines.
_before: tuple[int | None, bool] = (None, True)


def is_checked(codec: str, packet: av.Packet) -> bool:
    """Return whether the decoder can notice almost all damage to a packet.

    Args:
        codec: its canonical name.
        packet: the packet of one frame.
    """
    if codec == "hevc":
        return HEVC_MD5.search(bytes(packet)) is not None
    if codec == "ffv1":
        return _has_ffv1_checksum(bytes(packet))
    return codec in MARKING_CODECS or codec in STRICT_CODECS


@contextmanager
def complaints(codec: str) -> Iterator[list[tuple[int, str, str]]]:
    """Collect the errors that FFmpeg logs on this thread, if the codec's decoder only logs some.

    FFmpeg has one log for all threads, so it is switched on only while this context is open.
    """
    if codec not in LOGGING_CODECS:
        yield []
        return
    _listen(1)
    try:
        with av.logging.Capture(local=True) as messages:
            yield messages
    finally:
        _listen(-1)


def _listen(change: int) -> None:
    """Count the listeners: the first one switches the log on, and the last one restores it."""
    global _num_listeners, _before
    with _lock:
        _num_listeners += change
        if change > 0 and _num_listeners == 1:
            _before = av.logging.get_level(), av.logging.get_skip_repeated()
            av.logging.set_level(av.logging.ERROR)
            av.logging.set_skip_repeated(False)  # each frame counts
        elif _num_listeners == 0:
            av.logging.set_level(_before[0])
            av.logging.set_skip_repeated(_before[1])


def _has_ffv1_checksum(packet: bytes) -> bool:
    """Return whether the last slice of a packet ends with its CRC, RFC 9043, section 4.8.

    If it does, the polynomial divides the slice without a remainder. `zlib` reads the bits of a
    byte in the other order, and inverts its state before and after.
    """
    size = int.from_bytes(packet[-FFV1_FOOTER : 3 - FFV1_FOOTER], "big") + FFV1_FOOTER
    if size > len(packet):
        return False
    return zlib.crc32(packet[-size:].translate(REVERSED), 0xFFFFFFFF) == 0xFFFFFFFF
