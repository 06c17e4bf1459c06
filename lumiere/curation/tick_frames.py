"""Stores the small picture that a video shows at each tick in a file, so that memory does not grow
with the video's length.
"""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import cv2
import numpy as np

from lumiere.data.bars import Box, crop
from lumiere.data.disk_arrays import ItemFile
from lumiere.data.optical_flow import FLOW_SIDE

SHAPE = (FLOW_SIDE, FLOW_SIDE, 3)


class TickFrames:
    """Holds the picture of each tick, uint8 (64, 64, 3).

    A frame that is shown for many ticks is stored once. Successive ticks that show one frame return
    the same object, so a caller sees that nothing moves.

    Args:
        folder: where the file lies; by default the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = ItemFile(SHAPE, np.uint8, folder)
        self._places = array("q")  # of each tick, in the file
        self._inner: tuple[int, int, int, int] | None = None
        self._newest: tuple[int, np.ndarray] | None = None

    def hold(self, frame: np.ndarray, num_ticks: int) -> None:
        """Add a frame that is shown at the next ticks."""
        if num_ticks > 0:
            self._places.extend([len(self._file)] * num_ticks)
            self._file.append(frame)

    def leave_out(self, first: int) -> None:
        """Forget all ticks from `first` on."""
        del self._places[first:]

    def cut_bars(self, box: Box, size: tuple[int, int]) -> None:
        """Cut the bars off each picture that is read from now on, and enlarge the rest.

        Args:
            box: the picture within bars.
            size: the (width, height) of the frames before they were shrunk.
        """
        left, top, width, height = box
        columns, rows = FLOW_SIDE / size[0], FLOW_SIDE / size[1]
        self._inner = (
            math.ceil(left * columns), math.ceil(top * rows),
            max(1, math.floor(width * columns)), max(1, math.floor(height * rows)),
        )  # fmt: skip
        self._newest = None

    def part(self, first: int, last: int) -> TickFrames:
        """Return the ticks from `first` up to `last`, of the same file."""
        part = object.__new__(TickFrames)
        part._file, part._inner, part._newest = self._file, self._inner, None
        part._places = self._places[first:last]
        return part

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, tick: int, /) -> np.ndarray:
        """Return the picture of a tick, uint8 (64, 64, 3); raise IndexError past the end."""
        place = self._places[tick]
        if self._newest is None or self._newest[0] != place:
            frame = self._file[place]
            if self._inner is not None:
                inside = crop(frame, self._inner)
                frame = cv2.resize(inside, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            self._newest = place, frame
        return self._newest[1]

    def close(self) -> None:
        """Delete the file, which all parts share."""
        self._file.close()


def brightest_of(frames: TickFrames, left_out: int = 0) -> np.ndarray:
    """Return the brightest grey of each pixel, uint8 (64, 64).

    Args:
        frames: the small pictures.
        left_out: how many of the brightest ticks of each pixel do not count, such as a flash.
    """
    highest = [np.zeros(SHAPE[:2], np.uint8) for _ in range(left_out + 1)]
    before = None
    for tick in range(len(frames)):
        frame = frames[tick]
        if frame is before and not left_out:
            continue
        before, rest = frame, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        for i, known in enumerate(highest):
            highest[i], rest = cv2.max(known, rest), cv2.min(known, rest)
    return highest[-1]
