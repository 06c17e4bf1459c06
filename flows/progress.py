"""Shows the current progress bar of a stage as a progress artifact on Prefect's pages."""

from __future__ import annotations

import contextvars
import re
import threading
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

BAR = re.compile(r"^(?:(?P<title>[^|]*?):)?\s*(?P<percent>\d{1,3})%\|")  # as tqdm writes it
UP = "\x1b[A"  # by which tqdm moves the cursor back up after a nested bar
UPDATE_SECONDS = 5.0  # between two updates of the server


class StageProgress:
    """Sends the newest position of a stage's progress bar to Prefect, from a thread of its own.

    A server that is slow or away neither delays the stage nor fails it. The artifact is then late,
    keeps an earlier position, or is missing.

    Args:
        stage: its name. The artifact's key is `progress-<stage>`, with hyphens for underscores.
        pause: seconds between two updates.
    """

    def __init__(self, stage: str, pause: float = UPDATE_SECONDS) -> None:
        self._stage, self._pause = stage, pause
        self._newest: tuple[str, float] | None = None  # the title of the bar, and percent
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def see(self, text: str) -> None:
        """Read a line or an update of a bar, and keep the position if it is that of an outer bar."""
        found = BAR.match(text)
        if found is None or UP in text:
            return
        title, percent = (found["title"] or "").strip(), min(100.0, float(found["percent"]))
        if self._newest and title != self._newest[0] and percent == 100 > self._newest[1]:
            return  # a nested bar that stays on the screen after it ends
        self._newest = title, percent
        if self._thread is None:
            # The artifact belongs to the task run that this context knows.
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._send,), daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread send the last position. Do not wait for it."""
        self._is_over.set()

    def _send(self) -> None:
        artifact: UUID | None = None
        sent: tuple[str, float] | None = None
        is_over = False
        while not is_over:
            is_over = self._is_over.is_set()
            newest = self._newest
            if newest is not None and newest != sent:
                try:
                    artifact = self._publish(artifact, *newest)
                    sent = newest
                except Exception:  # the server is away; the log says how far the stage is
                    pass
            if not is_over:
                self._is_over.wait(self._pause)

    def _publish(self, artifact: UUID | None, title: str, percent: float) -> UUID:
        words = f"Stage {self._stage}" + ("" if title in ("", self._stage) else f": {title}")
        if artifact is not None:
            update_progress_artifact(artifact, percent, description=words)
            return artifact
        key = f"progress-{self._stage.replace('_', '-')}"
        made = create_progress_artifact(progress=percent, key=key, description=words)
        assert isinstance(made, UUID)  # not a coroutine, because this thread has no event loop
        return made
