"""Opens MLflow's pages at the runs of this project: `python -m lumiere.tracking.pages`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from lumiere.addresses import redacted
from lumiere.errors import run_program
from lumiere.tracking import store
from lumiere.tracking.project import project_root

HOST, PORT = "127.0.0.1", 5000


def main() -> None:
    """Print the link to the runs, and serve the pages unless a server does already."""
    parser = argparse.ArgumentParser(prog="python -m lumiere.tracking.pages", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="default: 5000")
    parser.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        help="host names, divided by commas, that a proxy in front of the pages uses",
    )
    options = parser.parse_args()
    root = project_root()
    uri = store.tracking_uri(root)
    experiment = store.experiment_id(store.open_store(root), root)
    if uri.startswith(("http:", "https:")):
        print(f"MLFLOW_TRACKING_URI names a server: {link(redacted(uri), experiment)}")
        return
    print(f"MLflow: {link(f'http://{HOST}:{options.port}', experiment)}   (Ctrl-C stops it)")
    sys.stdout.flush()
    words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--workers", "1"]
    words += ["--port", str(options.port)]
    # In the environment, because every user of the machine can read a command and a password in it.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    words += ["--default-artifact-root", store.artifact_location(root) or ""]
    if options.allowed_hosts:
        words += ["--allowed-hosts", options.allowed_hosts]
    os.execv(sys.executable, words)


def link(server: str, experiment: str) -> str:
    """Return the address of the page with the runs, in MLflow's view of trainings."""
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def run_link(root: Path, run_id: str) -> str:
    """Return the address of the page of a run: on the server that has it, or where `make ui` serves
    pages by default.
    """
    uri = store.tracking_uri(root)
    server = redacted(uri) if uri.startswith(("http:", "https:")) else f"http://{HOST}:{PORT}"
    return f"{server.rstrip('/')}/#/runs/{run_id}"


if __name__ == "__main__":
    run_program(main)
