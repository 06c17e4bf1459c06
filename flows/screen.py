"""Shows the output of stages that run side by side on one terminal.

Whole lines scroll, and one line at the bottom shows the progress bar that moved last. Prefect's log
lines go to the same terminal, so a filter on its handlers wipes the bar before each of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from typing import Any, TextIO

from flows.progress import StageProgress
from flows.second_tries import exit_code
from lumiere.plurals import counted

BAR_SECONDS = 0.2  # the shortest time between two updates of a bar on a terminal
QUIET_BAR_SECONDS = 10.0  # the same for output to a file
LOG_LINES_PER_SECOND = 20  # the most that each stage sends to Prefect
HINTS = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core|Use `dvc push`"
)
SHOWN = "lumiere_shown"  # marks log records that are already on the screen


AnyLogger = logging.Logger | logging.LoggerAdapter[Any]


class Screen:
    """Writes the lines and bars of several threads to one stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._lock = threading.RLock()
        self._has_bar = False
        self._last_bar: dict[str, float] = {}

    def line(self, stage: str, text: str) -> None:
        """Write a whole line of a stage's output."""
        with self._lock:
            self.clear()
            self._write(f"{stage:>18} │ {text}\n")

    def bar(self, stage: str, text: str) -> None:
        """Update a stage's progress bar. Updates that come too fast are dropped."""
        with self._lock:
            now = time.monotonic()
            pause = BAR_SECONDS if self.is_terminal else QUIET_BAR_SECONDS
            if now - self._last_bar.get(stage, float("-inf")) < pause:
                return
            self._last_bar[stage] = now
            if self.is_terminal:
                self._write(f"\r\x1b[2K{stage:>18} │ {text}")
                self._has_bar = True
            else:
                self.line(stage, text)

    def clear(self) -> None:
        """Wipe the bar to make room for other output."""
        with self._lock:
            if self._has_bar:
                self._write("\r\x1b[2K")
                self._has_bar = False

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:  # the worker that read it was killed
            drop_output()

    def filter(self, record: logging.LogRecord) -> bool:
        """Filter log records: drop what is already on the screen, and make room for the rest."""
        if getattr(record, SHOWN, False):
            return False
        self.clear()
        return True

    def share_terminal(self) -> None:
        """Add `filter` to the logging handlers that write to the terminal."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.filters = [old for old in handler.filters if not isinstance(old, Screen)]
                handler.addFilter(self)


def drop_output() -> None:
    """Send what this process prints nowhere. Nobody reads it any more, and the next line would end
    the process in the middle of its work.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class StageOutput:
    """Sends the output of one stage to the screen, and a limited part of it to Prefect.

    Args:
        stage: its name.
        screen: shows all of it.
        logger: Prefect's, which gets whole lines.
        progress: gets the positions of progress bars.
    """

    def __init__(
        self,
        stage: str,
        screen: Screen,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
        progress: StageProgress,
    ) -> None:
        self.has_run = False  # whether DVC started the stage's command
        self.exit_code: int | None = None  # of the stage's command, if it failed
        self._stage, self._screen, self._logger = stage, screen, logger
        self._progress = progress
        self._second, self._sent, self._dropped = 0.0, 0, 0

    def __call__(self, text: str, is_line: bool) -> None:
        self._progress.see(text)
        if not is_line:
            self._screen.bar(self._stage, text)
            return
        if HINTS.match(text):  # DVC's advice after every stage
            return
        self.has_run = self.has_run or text.startswith(f"Running stage '{self._stage}'")
        self.exit_code = exit_code(text) or self.exit_code
        self._screen.line(self._stage, text)
        if time.monotonic() - self._second >= 1:
            if self._dropped:
                self._send(f"({counted(self._dropped, 'line')} left out)")
            self._second, self._sent, self._dropped = time.monotonic(), 0, 0
        if self._sent < LOG_LINES_PER_SECOND:
            self._send(text)
        else:
            self._dropped += 1

    def _send(self, text: str) -> None:
        self._sent += 1
        self._logger.info("%s", text, extra={SHOWN: True})
