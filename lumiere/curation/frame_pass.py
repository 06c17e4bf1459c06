"""Decodes a video once, and gathers what its measurements need."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lumiere.curation import combing, filters
from lumiere.curation.shots import CutFinder, Span
from lumiere.curation.tick_frames import TickFrames
from lumiere.data.bars import Box, are_black, find_picture, has_dark_edges, may_have_bars
from lumiere.data.display import INTERLACED, Display
from lumiere.data.frame_times import end_of
from lumiere.data.optical_flow import FLOW_FPS
from lumiere.data.video_source import FRAMES_LOOKED_AT, Damage, SourceFrame, source_frames
from lumiere.data.workers import report_progress
from lumiere.errors import VideoError

SAMPLE_FPS = FLOW_FPS  # about the rate at which training sees videos
DETAIL_FPS = 2  # frames a second whose sharpness and bars are measured, at full size
MOST_AT_END = 2  # signs of damage of a last frame, one for each of its fields
DETAIL_STEP = SAMPLE_FPS // DETAIL_FPS  # ticks

MAY_HAVE_BARS = "may have bars"


@dataclass
class Pass:
    """Gathers facts about a video in one pass over its frames.

    Attributes:
        cuts: has seen every source frame.
        frames: the small picture of each tick.
        times: when each source frame is shown.
        end: when the last one ends.
        sizes: the different (width, height) of the pictures, as shown.
        sharp: the sharpness by tick, for `DETAIL_FPS` ticks a second.
        sharp_cells: the same in the cells of a grid, as long as the picture may have bars, whose
            edges are sharp; 28 MB an hour.
        damage: what could not be read.
        most_colour: the highest mean difference of a frame's channels, 0 to 255.
        notes: what is unusual.
        num_interlaced: how many frames were marked as interlaced.
        combs: counts the frames that look interlaced, of those that are looked at closely.
        brightest: uint8 (h, w), the brightest grey of each pixel of the frames that are looked at
            closely, as shown.
        brightest_small: uint8 (64, 64), the same of all frames, squashed.
    """

    cuts: CutFinder
    frames: TickFrames
    times: list[Fraction] = field(default_factory=list)
    end: Fraction = Fraction(0)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sharp: dict[int, float] = field(default_factory=dict)
    sharp_cells: dict[int, np.ndarray] = field(default_factory=dict)
    damage: Damage = field(default_factory=Damage)
    most_colour: float = 0.0
    notes: list[str] = field(default_factory=list)
    num_interlaced: int = 0
    combs: combing.CombCounter = field(default_factory=combing.CombCounter)
    brightest: np.ndarray | None = None
    brightest_small: np.ndarray = field(
        default_factory=lambda: np.zeros((filters.FLOW_SIDE, filters.FLOW_SIDE), np.uint8)
    )

    def add(self, frame: SourceFrame, small: np.ndarray) -> None:
        """Note the time, the size, the colours and the cuts of the next frame."""
        self.times.append(frame.time)
        if frame.size not in self.sizes:
            self.sizes.append(frame.size)
        self.num_interlaced += frame.is_interlaced
        self.cuts.add(small)
        red, green, blue = cv2.split(small)
        high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
        self.most_colour = max(self.most_colour, cv2.mean(cv2.subtract(high, low))[0])
        # The highest channel is at least as bright as the grey, which bars must not reach.
        cv2.max(self.brightest_small, high, dst=self.brightest_small)

    def hold(self, held: SourceFrame, small: np.ndarray, until: Fraction) -> None:
        """Give the newest frame to each tick at which it is shown, and look at it closely in time."""
        first, last = _tick(held.time), _tick(until)
        self.frames.hold(small, last - first)
        self.combs.see(held, small)
        close = [tick for tick in range(first, last) if tick % DETAIL_STEP == 0]
        if not close:
            return
        picture = held.picture()
        self.combs.look(picture)
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.sharp |= dict.fromkeys(close, filters.sharpness(gray))
        if self.brightest is None:
            self.brightest = gray
        elif self.brightest.shape == gray.shape:
            np.maximum(self.brightest, gray, out=self.brightest)
        if not has_dark_edges(self.brightest):
            self.sharp_cells.clear()
        elif close[0] == 0 or self.sharp_cells:
            self.sharp_cells |= dict.fromkeys(close, filters.sharpness_cells(gray))

    def picture_box(self) -> Box | None:
        """Return the picture within black bars, see `bars`; None without bars, or in doubt, which is
        noted.
        """
        assert self.brightest is not None
        box = find_picture(self.brightest)
        if box is not None and are_black(self.brightest_small, box, self.sizes[0]):
            return box
        may_have_one = may_have_bars(self.brightest) and may_have_bars(self.brightest_small)
        if box is not None or may_have_one:
            self.notes.append(MAY_HAVE_BARS)
        return None

    def cut_bars(self, box: Box) -> None:
        """Leave the bars around a box out of the small pictures, and of the sharpness."""
        self.frames.cut_bars(box, self.sizes[0])
        self.sharp = {
            tick: filters.sharpness_within(self.sharp_cells[tick], box, self.sizes[0])
            for tick in self.sharp
        }

    def ticks_of(self, span: Span) -> tuple[int, int]:
        """Return the first tick in a span, and the first behind it; at least one lies between."""
        first = min(_tick(span[0]), len(self.frames) - 1)
        return first, max(first + 1, _tick(span[1]))

    def part(self, span: Span) -> TickFrames:
        """Return the small pictures of a span."""
        return self.frames.part(*self.ticks_of(span))

    def sharpness(self, span: Span) -> float:
        """Return the median sharpness of the ticks of a span, or of the next one before."""
        first, last = self.ticks_of(span)
        near = [value for tick, value in self.sharp.items() if first <= tick < last]
        before = self.sharp[first // DETAIL_STEP * DETAIL_STEP]
        return round(float(np.median(near or [before])), 3)

    def leave_out_damaged_end(self) -> None:
        """Forget a damaged last frame: recordings often end in the middle of one."""
        first, last = self.damage.first, self.times[-1]
        if first is None or first < last or len(self.times) < 2:
            return
        is_more = self.damage.num_frames + self.damage.num_packets > MOST_AT_END
        if is_more or not self.damage.is_timed:
            return
        self.notes.append("a damaged last frame left out")
        if first == last:
            self.end = self.times.pop()
        count = _tick(self.end)
        self.frames.leave_out(count)
        self.sharp = {tick: value for tick, value in self.sharp.items() if tick < count}
        self.damage = Damage()

    def close(self) -> None:
        """Delete the files of small pictures."""
        self.cuts.close()
        self.frames.close()


def _tick(time: Fraction) -> int:
    """Return the first tick at or after a time."""
    return -(-time.numerator * SAMPLE_FPS // time.denominator)


def read_frames(path: Path, display: Display, folder: Path | None = None) -> Pass:
    """Decode all frames once. PyAV reads them, because decord conceals damage without a sign.

    Args:
        path, display: of the video.
        folder: for the small pictures, which lie in files without a name until the pass is closed;
            by default the system's folder for temporary files.

    Raises:
        VideoError: if no frame can be decoded.
    """
    combs = combing.CombCounter(display.are_rows_shown)
    seen = Pass(CutFinder(folder), TickFrames(folder), combs=combs)
    try:
        _gather(seen, path, display)
    except BaseException:
        seen.close()
        raise
    return seen


def _gather(seen: Pass, path: Path, display: Display) -> None:
    held: SourceFrame | None = None
    small: np.ndarray = np.empty(0, np.uint8)
    for frame in source_frames(path, seen.damage, display=display):
        report_progress()
        if held is not None:
            seen.hold(held, small, frame.time)
        held, small = frame, frame.thumbnail(filters.FLOW_SIDE)
        seen.add(frame, small)
    if held is None:
        raise VideoError("no frame could be decoded")
    seen.end = end_of(seen.times, held.duration)
    seen.hold(held, small, seen.end)
    if seen.num_interlaced:
        # The first frames of an interlaced video may be marked differently.
        in_part = seen.num_interlaced < len(seen.times) - FRAMES_LOOKED_AT
        if in_part or not display.is_interlaced:
            seen.notes.append(f"{INTERLACED} in part")
    elif combing.is_interlaced(seen.combs.count(), len(seen.sharp)):
        seen.notes.append("looks interlaced")
