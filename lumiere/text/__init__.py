"""Text encoders, by name."""

from __future__ import annotations

import json
from pathlib import Path

from lumiere.text.encoder import CONFIG_NAME, TextEncoder
from lumiere.text.minilm import MiniLMTextEncoder

__all__ = ["TextEncoder", "load_text_encoder"]

ENCODERS: dict[str, type[TextEncoder]] = {MiniLMTextEncoder.name: MiniLMTextEncoder}


def load_text_encoder(name: str | Path, max_tokens: int = 32) -> TextEncoder:
    """A text encoder by its name, or from the folder that `save_pretrained` wrote.

    Raises:
        ValueError: on a name that is neither.
    """
    config_file = Path(name) / CONFIG_NAME
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        name, max_tokens = config["name"], config["max_tokens"]
    if str(name) not in ENCODERS:
        raise ValueError(
            f"text encoder {str(name)!r}: unknown; allowed: {', '.join(sorted(ENCODERS))}, or a saved folder"
        )
    return ENCODERS[str(name)](max_tokens=max_tokens)
