"""Finds diffusers pipelines by folder or by hub name."""

from __future__ import annotations

from pathlib import Path

from lumiere.hub_folders import SUFFIXES, find_folder

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
    patterns = [f"{part}/*{suffix}" for part in parts for suffix in SUFFIXES] or ["*.json"]
    return find_folder(source, "a folder with unet/ and scheduler/", patterns, SKIPPED)
