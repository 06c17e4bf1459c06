"""Finds diffusers pipelines by folder or by hub name; downloads only safetensors and configs from a
hub.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from lumiere.errors import one_line

# Configs, vocabularies and weights; pickles (.bin, .ckpt) are neither fetched nor loaded.
SUFFIXES = (".json", ".txt", ".model", ".safetensors")
SKIPPED = ("*.fp16*", "*.non_ema*", "*.onnx*")  # second copies of the same weights


def pipeline_folder(source: str, *parts: str) -> Path:
    """Return the folder with the files of a pipeline, after downloading them if necessary.

    Args:
        source: a folder (a relative one starts at the current folder, which is the project's root
            in every stage), or a hub name such as "DeepFloyd/IF-I-M-v1.0".
        parts: the folders to download from a hub, such as "unet"; without any, the JSON files of
            all folders. Files in the hub's cache are not downloaded again; with HF_HUB_OFFLINE=1
            only the cache is used.

    Raises:
        ValueError: if `source` is neither a folder nor a hub name that can be downloaded.
    """
    if Path(source).is_dir():
        return Path(source)
    patterns = [f"{part}/*{suffix}" for part in parts for suffix in SUFFIXES] or ["*.json"]
    try:
        return Path(
            snapshot_download(source, allow_patterns=patterns, ignore_patterns=list(SKIPPED))
        )
    except Exception as error:  # the name's form, the network, the hub's answer or the disk
        expected = (
            "neither a folder with unet/ and scheduler/ nor a hub name that can be downloaded"
        )
        raise ValueError(f"{source}: {expected}: {one_line(error)}") from None
