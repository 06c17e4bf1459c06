"""Opens pages in a headless Chromium and asks what they show, by Chromium's DevTools protocol."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.servers import program

START_SECONDS, PAGE_SECONDS, END_SECONDS = 60.0, 120.0, 30.0  # generous, for a busy machine
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
]


TEXT = "(document.body?.innerText ?? '')"  # a page that loads has no body yet


class ProtocolError(Exception):
    """The browser refused a command."""


class Browser:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._calls = 0

    def open(self, address: str) -> None:
        """Go to a page; do not wait for it."""
        # A change after `#` alone would keep the page that is there.
        for there in ("about:blank", address):
            self._call("Page.navigate", url=there)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression of JavaScript in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = PAGE_SECONDS) -> None:
        """Wait until an expression is true; if it never is, the test fails with the page's text."""
        deadline = time.monotonic() + seconds
        while not self._holds(script):
            assert time.monotonic() < deadline, f"{script}\n{self.text()}"
            time.sleep(0.2)

    def _holds(self, script: str) -> bool:
        try:
            return bool(self.evaluate(script))
        except ProtocolError:  # the page is being left
            return False

    def wait_for_text(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.wait_for(f"{TEXT}.includes({json.dumps(text)})")

    def click(self, text: str) -> None:
        """Wait until the page shows an element with this text alone, and click it."""
        has_text = f"(element) => element.textContent.trim() == {json.dumps(text)}"
        # The last one is the innermost.
        script = f"const found = [...document.querySelectorAll('body *')].filter({has_text}).pop();"
        self.wait_for(f"(() => {{ {script} found?.click(); return !!found; }})()")

    def text(self) -> str:
        """Return all text that the page shows."""
        return str(self.evaluate(TEXT))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv(timeout=PAGE_SECONDS))
            if answer.get("id") == self._calls:  # others are events
                if "error" in answer:
                    raise ProtocolError(answer["error"])
                return dict(answer["result"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium, with a profile in a new folder; skip the test where there is none."""
    words = [
        program("chromium"),
        *OPTIONS,
        f"--user-data-dir={folder}",
        "--remote-debugging-port=0",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_address_of_tab(folder), max_size=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _address_of_tab(folder: Path) -> str:
    found, deadline = folder / "DevToolsActivePort", time.monotonic() + START_SECONDS
    while not (found.exists() and found.read_text().count("\n")):
        assert time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.05)
    port = found.read_text().split("\n", 1)[0]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
    with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
        return str(json.load(answer)["webSocketDebuggerUrl"])
