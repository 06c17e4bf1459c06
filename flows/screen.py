"""The terminal while stages run side by side: whole lines scroll, one line at the bottom holds the bar that moved last.

Prefect's own log lines go to the same terminal, so a filter on its handlers wipes the bar before each of them.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from typing import Any, TextIO

BAR_SECONDS = 0.2  # between two states of a bar on a terminal
QUIET_BAR_SECONDS = 10.0  # the same where output goes to a file
LOG_LINES_PER_SECOND = 20  # to Prefect, per stage
HINTS = re.compile(
    r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config core|Use `dvc push`"
)
SHOWN = "lumiere_shown"  # marks log records that are on the screen already


AnyLogger = logging.Logger | logging.LoggerAdapter[Any]


class Screen:
    """Writes lines and bars of several threads to one stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._lock = threading.RLock()
        self._has_bar = False
        self._last_bar: dict[str, float] = {}

    def line(self, stage: str, text: str) -> None:
        """A whole line of a stage's output."""
        with self._lock:
            self.clear()
            print(f"{stage:>18} │ {text}", file=self.stream, flush=True)

    def bar(self, stage: str, text: str) -> None:
        """A state of a stage's progress bar; states that come too fast are left out."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_bar.get(stage, float("-inf")) < (
                BAR_SECONDS if self.is_terminal else QUIET_BAR_SECONDS
            ):
                return
            self._last_bar[stage] = now
            if self.is_terminal:
                self.stream.write(f"\r\x1b[2K{stage:>18} │ {text}")
                self.stream.flush()
                self._has_bar = True
            else:
                self.line(stage, text)

    def clear(self) -> None:
        """Wipe the bar, so that something else can be printed."""
        with self._lock:
            if self._has_bar:
                self.stream.write("\r\x1b[2K")
                self.stream.flush()
                self._has_bar = False

    def filter(self, record: logging.LogRecord) -> bool:
        """For logging handlers that write to the terminal: drop what a stage has shown, make room for the rest."""
        if getattr(record, SHOWN, False):
            return False
        self.clear()
        return True

    def share_terminal(self) -> None:
        """Let the handlers that write to the terminal go through `filter`."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.filters = [old for old in handler.filters if not isinstance(old, Screen)]
                handler.addFilter(self)


class StageOutput:
    """Where the output of one stage goes: all of it to the screen, not too much of it to Prefect."""

    def __init__(
        self,
        stage: str,
        screen: Screen,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self.has_run = False  # whether DVC started the stage's command
        self.last_lines: list[str] = []
        self._stage, self._screen, self._logger = stage, screen, logger
        self._second, self._sent, self._dropped = 0.0, 0, 0

    def __call__(self, text: str, is_line: bool) -> None:
        if not is_line:
            self._screen.bar(self._stage, text)
            return
        if HINTS.match(text):  # DVC's advice after every stage
            return
        self.has_run = self.has_run or text.startswith(f"Running stage '{self._stage}'")
        self.last_lines = [*self.last_lines[-9:], text]
        self._screen.line(self._stage, text)
        if time.monotonic() - self._second >= 1:
            if self._dropped:
                self._send(f"({self._dropped} lines left out)")
            self._second, self._sent, self._dropped = time.monotonic(), 0, 0
        if self._sent < LOG_LINES_PER_SECOND:
            self._send(text)
        else:
            self._dropped += 1

    def _send(self, text: str) -> None:
        self._sent += 1
        self._logger.info("%s", text, extra={SHOWN: True})
