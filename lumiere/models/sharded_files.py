"""Weight files with diffusers' variants and shards: `name[.variant][-00001-of-00002].safetensors`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from lumiere.errors import DataError
from lumiere.files import is_file, read_json
from lumiere.tensor_files import read_tensors


def with_variant(name: str, variant: str | None) -> str:
    """Put a variant into a file's name: "temporal.safetensors" becomes "temporal.fp16.safetensors".

    Raises:
        ValueError: if the variant could not be part of a name.
    """
    if variant is None:
        return name
    if not (isinstance(variant, str) and re.fullmatch(r"[A-Za-z0-9_]+", variant)):
        raise ValueError(f"variant is {variant!r}; allowed: letters, digits and _, such as 'fp16'")
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def write_weights(
    state: Mapping[str, Tensor], path: Path, max_shard_size: int | str | None = None
) -> None:
    """Write tensors to a safetensors file, or to parts with an index if they are larger than
    `max_shard_size`; then remove the parts or the file of an earlier save.
    """
    contiguous = {name: value.contiguous() for name, value in state.items()}
    written, index = {path.name}, _index_of(path)
    parts = None
    if max_shard_size is not None:
        pattern = f"{path.stem}{{suffix}}.safetensors"
        parts = split_torch_state_dict_into_shards(
            contiguous, filename_pattern=pattern, max_shard_size=max_shard_size
        )
    if parts is None or not parts.is_sharded:
        save_file(contiguous, path)
    else:
        written = {*parts.filename_to_tensors, index.name}
        for name, keys in parts.filename_to_tensors.items():
            save_file({key: contiguous[key] for key in keys}, path.with_name(name))
        content = {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        index.write_text(text, encoding="utf-8")
    for old in [path, index, *path.parent.glob(f"{path.stem}-*-of-*.safetensors")]:
        if old.name not in written:
            old.unlink(missing_ok=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what `write_weights` wrote.

    Raises:
        DataError: if a file is missing or damaged.
        DiskError: if a permission is missing, or the disk fails.
    """
    index = _index_of(path)
    if is_file(path) or not is_file(index):
        return read_tensors(path)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(_is_part(path, name) for name in places.values()):
        raise DataError(f"{index}: no weight_map of files beside it", cure="save the weights again")
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        state |= read_tensors(path.with_name(name))
    return state


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.json")


def _is_part(path: Path, name: object) -> bool:
    """Return whether a name in an index is one of the file's parts, and no path elsewhere."""
    pattern = rf"{re.escape(path.stem)}-\d+-of-\d+\.safetensors"
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None
