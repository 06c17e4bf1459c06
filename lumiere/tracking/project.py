"""Finds the project whose runs are recorded, and says whether they are."""

from __future__ import annotations

import os
from pathlib import Path


def is_on() -> bool:
    """Return whether runs are recorded."""
    return os.environ.get("LUMIERE_TRACKING", "on").lower() not in {"off", "0", "false"}


def project_root() -> Path:
    """Return the project's folder, which has the store.

    DVC runs queued experiments, and those of `--temp`, in a temporary copy of the project and deletes
    it afterwards; the project itself is returned then.
    """
    here = workspace()
    original = os.environ.get("DVC_ROOT")  # DVC sets it for the commands of stages
    if original and here.is_relative_to(Path(original).resolve() / ".dvc" / "tmp" / "exps"):
        for copy in (here, *here.parents):
            if (copy / ".dvc").is_dir():
                return Path(original).resolve() / here.relative_to(copy)
    return here


def workspace() -> Path:
    """Return the nearest folder with a `dvc.yaml` at or above the current one, else the current
    one.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    return here
