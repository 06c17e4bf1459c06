"""Weights of a tiny architecture that open_clip knows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

EMBED_DIM = 8
ARCHITECTURE = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_weights(folder: Path, name: str) -> Path:
    """Make the architecture known by this name, and write random weights into the folder."""
    import open_clip

    config, path = folder / f"{name}.json", folder / "tiny.safetensors"
    config.write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(open_clip.create_model(name).state_dict(), path)
    return path
