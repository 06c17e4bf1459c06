"""Stores which text encoder a model was trained with, as a small JSON file beside the model.

Training and blending copy this record. They do not build the encoder, so this module imports none.
"""

from __future__ import annotations

import json
from pathlib import Path

from lumiere.errors import DataError
from lumiere.files import read_json

CONFIG_NAME = "text_encoder.json"


def write_text_config(folder: Path, name: str, max_tokens: int) -> None:
    """Write the name and the number of tokens of a text encoder into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"name": name, "max_tokens": max_tokens}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_text_config(folder: Path) -> tuple[str, int]:
    """Read the name and the number of tokens that `write_text_config` wrote.

    Raises:
        DataError: if the file is missing or holds anything else.
    """
    path = folder / CONFIG_NAME
    config = read_json(path)
    name, max_tokens = config.get("name"), config.get("max_tokens")
    if not isinstance(name, str) or not isinstance(max_tokens, int):
        raise DataError(f"{path}: expected the name of a text encoder and its max_tokens")
    return name, max_tokens
