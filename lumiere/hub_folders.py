"""Finds the folder of a model or a pipeline: a local one, or the copy of one from a hub.

Only configs, vocabularies and safetensors are downloaded; pickles (.bin, .ckpt) are neither fetched
nor loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lumiere.errors import one_line

SUFFIXES = (".json", ".txt", ".model", ".safetensors")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove diffusers' options of a download from keyword arguments, and return those that are
    set.
    """
    taken = {}
    for name in HUB_OPTIONS:
        value = options.pop(name, None)
        if value is not None:
            taken[name] = value
    return taken


def find_folder(
    source: str | Path,
    expected: str,
    patterns: Sequence[str],
    ignored: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Return a local folder as it is, or download the files of a hub name.

    Files in the hub's cache are not downloaded again; with HF_HUB_OFFLINE=1 or `local_files_only`
    only the cache is used.

    Args:
        source: a folder, or a hub name such as "user/model".
        expected: what the folder should be, for the message.
        patterns, ignored: names of the files to download, and of those to leave out.
        options: `HUB_OPTIONS`, as in diffusers.

    Raises:
        ValueError: if `source` is neither a folder nor a hub name that can be downloaded; the
            message says which of the two it looks like.
    """
    if not isinstance(source, (str, Path)) or not str(source):
        raise ValueError(f"a folder or a hub name is needed, not {source!r}; expected {expected}")
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise ValueError(f"{source}: a file; expected {expected}")
    if not is_hub_name(str(source)):
        raise ValueError(
            f"{source}: no such folder; expected {expected}, or a hub name (user/model)"
        )
    options.pop("proxies", None)  # huggingface_hub reads them from the environment
    try:
        downloaded = snapshot_download(
            str(source), allow_patterns=list(patterns), ignore_patterns=list(ignored), **options
        )
    except Exception as error:  # the name's form, the network, the hub's answer or the disk
        raise ValueError(
            f"{source}: neither {expected} nor a hub name that can be downloaded: {one_line(error)}"
        ) from None
    return Path(downloaded)


def is_hub_name(source: str) -> bool:
    """Return whether a text has the form of a hub name; most paths have another."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True
