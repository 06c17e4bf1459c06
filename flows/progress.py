"""Shows how far a stage is as a progress artifact on Prefect's pages."""

from __future__ import annotations

import contextvars
import re
import threading
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

BAR = re.compile(r"^(?:(?P<what>[^|]*?):)?\s*(?P<percent>\d{1,3})%\|")  # as tqdm writes it
UPDATE_SECONDS = 5.0  # between two updates of the server


class StageProgress:
    """Sends the newest position of a stage's progress bar to Prefect, from a thread of its own.

    A server that is slow or away neither delays the stage nor fails it: the artifact then shows an
    older position, or is not there.

    Args:
        stage: its name. The artifact's key is `progress-<stage>`, with hyphens for underscores.
        pause: seconds between two updates.
    """

    def __init__(self, stage: str, pause: float = UPDATE_SECONDS) -> None:
        self._stage, self._pause = stage, pause
        self._percent: float | None = None
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def see(self, bar: str) -> None:
        """Take an update of a progress bar; other texts do not count."""
        found = BAR.match(bar)
        if found is None:
            return
        self._percent = min(100.0, float(found["percent"]))
        if self._thread is None:
            # The artifact belongs to the task run that this context knows.
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._send,), daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread send the last position. Do not wait for it."""
        self._is_over.set()

    def _send(self) -> None:
        key = f"progress-{self._stage.replace('_', '-')}"
        sent = self._percent or 0.0
        try:
            artifact = create_progress_artifact(
                progress=sent, key=key, description=f"Progress of the stage {self._stage}"
            )
            assert isinstance(artifact, UUID)  # and no coroutine: this thread has no event loop
            is_over = False
            while not is_over:
                is_over = self._is_over.wait(self._pause)
                if self._percent is not None and self._percent != sent:
                    sent = self._percent
                    update_progress_artifact(artifact, sent)
        except Exception:  # the server is away; the lines of the log say how far the stage is
            return
