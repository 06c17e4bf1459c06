"""Stores the number of steps of a distilled network, as a small JSON file beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

from lumiere.errors import DataError
from lumiere.files import read_json

DISTILLED_FILE = "distilled.json"


def write_distilled_steps(folder: Path, num_inference_steps: int) -> None:
    """Write the number of steps in which a network samples without guidance."""
    content = json.dumps({"num_inference_steps": num_inference_steps}, indent=2)
    (folder / DISTILLED_FILE).write_text(content + "\n", encoding="utf-8")


def read_distilled_steps(folder: Path) -> int:
    """Read the number that `write_distilled_steps` wrote.

    Raises:
        DataError: if the file is missing or holds anything else.
    """
    path = folder / DISTILLED_FILE
    steps = read_json(path).get("num_inference_steps")
    if type(steps) is not int or steps < 1:
        raise DataError(
            f"{path}: num_inference_steps is {steps!r}; expected a whole number above 0"
        )
    return steps
