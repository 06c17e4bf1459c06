"""The process of the embedded Prefect server, which `flows.embedded_server` starts.

It is a file of its own, and imports nothing of this project, so that it runs by its path.
"""

from __future__ import annotations

import argparse
import gc
from typing import Any


def create_app() -> Any:
    """Make Prefect's server."""
    from prefect.server.api.server import create_app

    app = create_app()
    # What is there now stays until the end, so the collector need never look at it.
    gc.freeze()
    gc.enable()
    return app


def main() -> None:
    """Serve until SIGTERM."""
    # The imports make a million objects that all stay. The collector would look at them again and
    # again, which is a fifth of the time until the server answers.
    gc.disable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    import uvicorn

    uvicorn.run(
        create_app,
        factory=True,
        host=options.host,
        port=options.port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
