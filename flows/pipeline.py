"""Run the whole pipeline now, or serve it on a schedule.

Prefect takes seconds to import, and so does its server to start. So this program starts the server
first, and imports the rest of itself meanwhile.
"""

from __future__ import annotations

import gc
import sys

from flows.embedded_server import EmbeddedServer
from flows.program_options import parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = parse(arguments)
    server = EmbeddedServer()
    if options.schedule is None:
        server.start()
    # The imports make half a million objects that all stay. The collector would look at them again
    # and again, which is a tenth of their time.
    gc.disable()
    try:
        from flows.program import run

        return run(options, lambda: _get_ready(server))
    finally:
        gc.enable()


def _get_ready(server: EmbeddedServer) -> None:
    """Wait for the server, after all imports."""
    gc.freeze()
    gc.enable()
    server.wait()


if __name__ == "__main__":
    sys.exit(main())
