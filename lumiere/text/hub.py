"""A diffusers pipeline by folder or by hub name; of a hub's files only the safetensors and the configs are fetched."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from lumiere.errors import one_line

# Configs, vocabularies and weights; pickles (.bin, .ckpt) are neither fetched nor loaded.
SUFFIXES = (".json", ".txt", ".model", ".safetensors")
SKIPPED = ("*.fp16*", "*.non_ema*", "*.onnx*")  # second copies of the same weights


def pipeline_folder(source: str, *parts: str) -> Path:
    """Where the files of a pipeline are.

    Args:
        source: a folder (a relative one starts at the current folder, which is the project's root in every stage), or
            a hub name such as "DeepFloyd/IF-I-M-v1.0".
        parts: folders that are needed, such as "unet"; none for the JSON files of all of them. A hub's are fetched,
            or found in its cache; HF_HUB_OFFLINE=1 allows the cache alone.

    Raises:
        ValueError: when `source` is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    patterns = [f"{part}/*{suffix}" for part in parts for suffix in SUFFIXES] or ["*.json"]
    try:
        return Path(
            snapshot_download(source, allow_patterns=patterns, ignore_patterns=list(SKIPPED))
        )
    except (
        Exception
    ) as error:  # of whichever layer: the name's form, the network, the hub's answer, the disk
        wanted = "neither a folder with unet/ and scheduler/ nor a hub name that can be fetched"
        raise ValueError(f"{source}: {wanted}: {one_line(error)}") from None
