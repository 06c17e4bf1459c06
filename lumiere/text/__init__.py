"""Text encoders, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lumiere.compat  # noqa: F401  before transformers and open_clip
from lumiere.text.diffusers_encoder import DiffusersTextEncoder
from lumiere.text.encoder import TextEncoder
from lumiere.text.minilm_encoder import MiniLMTextEncoder
from lumiere.text.open_clip_encoder import OpenCLIPTextEncoder
from lumiere.text_config import CONFIG_NAME, read_text_config

__all__ = ["DiffusersTextEncoder", "TextEncoder", "load_text_encoder"]

ENCODERS: dict[str, type[TextEncoder]] = {MiniLMTextEncoder.name: MiniLMTextEncoder}
# Encoders whose name says where the weights are: <family>:<source>.
FAMILIES: dict[str, Callable[[str, int], TextEncoder]] = {
    "open_clip": OpenCLIPTextEncoder,
    "diffusers": DiffusersTextEncoder,
}


def load_text_encoder(name: str | Path, max_tokens: int = 32) -> TextEncoder:
    """Load a text encoder by its name, or from the folder that `save_pretrained` wrote.

    Args:
        name: "minilm"; "open_clip:<architecture>/<pretrained tag or .safetensors file>";
            "diffusers:<folder or hub name of a pipeline>"; or a saved folder. Relative paths in a
            name start at the current folder, which is the project's root in every stage, not at the
            saved folder.
        max_tokens: every sentence is padded or cut to this many tokens; a saved folder stores its
            own number.

    Raises:
        ValueError: if the name is unknown, or the encoder does not take that length.
    """
    if (Path(name) / CONFIG_NAME).is_file():
        name, max_tokens = read_text_config(Path(name))
    family, _, source = str(name).partition(":")
    if family in FAMILIES and source:
        return FAMILIES[family](source, max_tokens)
    if str(name) not in ENCODERS:
        raise ValueError(
            f"text encoder {str(name)!r}: unknown; allowed: {', '.join(sorted(ENCODERS))}, "
            "open_clip:<architecture>/<weights>, diffusers:<pipeline>, or a saved folder"
        )
    return ENCODERS[str(name)](max_tokens=max_tokens)
