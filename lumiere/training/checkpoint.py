"""Stores training state as safetensors and JSON. Each state is written to a temporary folder and
renamed, so a killed process leaves no partial state.

State lives in a scratch folder outside DVC's outputs, named after a fingerprint of params, data and
code: a run with the same fingerprint resumes where it stopped, and any other run starts from the
beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lumiere.data.shards import shard_names
from lumiere.errors import DiskError
from lumiere.files import content_hash
from lumiere.tensor_files import read_tensors

TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"
KEEP = 2


def fingerprint(params: Any, files: Iterable[str | Path]) -> str:
    """Return a short hex name for params and the contents of files, including all files in folders.

    Shards of clips count by name and size only. Their index counts by content, and it holds the
    hashes of the shards.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode())
    for entry in sorted(Path(file) for file in files):
        members = sorted(p for p in entry.rglob("*") if p.is_file()) if entry.is_dir() else [entry]
        shards = shard_names(entry)
        for member in members:
            if "__pycache__" in member.parts:
                continue
            digest.update(str(member.relative_to(entry)).encode())
            if member.name in shards:
                digest.update(str(member.stat().st_size).encode())
                continue
            with open(member, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `step-NNNNNNN/` under `folder`, then delete all checkpoints but this one and the one
    before it.

    Later checkpoints are deleted too: this run started from an earlier one, so they were
    unreadable.

    Args:
        folder: where checkpoints are kept.
        state: maps "step" to the step, and other names to tensors, JSON values or further mappings.

    Raises:
        DiskError: the state cannot be written (a full disk); existing checkpoints are unchanged.
    """
    step = state["step"]
    tensors, values = _split(state)
    target, aside = folder / f"step-{step:07d}", folder / f".writing-{os.getpid()}"
    for leftover in folder.glob(".writing-*"):  # a run was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            aside / TENSORS_FILE,
        )
        about = json.dumps({"tensors": content_hash(aside / TENSORS_FILE), "state": values})
        (aside / STATE_FILE).write_text(f"{about}\n{_digest(about)}\n", encoding="utf-8")
        for name in (TENSORS_FILE, STATE_FILE):
            with open(aside / name, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except (OSError, SafetensorError) as error:
        raise DiskError(
            f"{folder}: the state of step {step} cannot be written: {error}; make room, then "
            "run the same command to resume from the checkpoint before it"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    steps = _steps(folder)
    newest = steps.index(target) + 1
    for other in steps[: max(0, newest - KEEP)] + steps[newest:]:
        shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable state under `folder`, as passed to `save_checkpoint`, or None."""
    for candidate in reversed(_steps(folder)):
        try:
            about, digest = (candidate / STATE_FILE).read_text(encoding="utf-8").splitlines()
            if digest != _digest(about):
                raise ValueError(f"{STATE_FILE} is not what was written")
            record = json.loads(about)
            if record["tensors"] != content_hash(candidate / TENSORS_FILE):
                raise ValueError(f"{TENSORS_FILE} is not what was written")
            return _join(read_tensors(candidate / TENSORS_FILE), record["state"])
        except Exception as error:  # whatever went wrong, the checkpoint before may be intact
            print(
                f"checkpoint {candidate.name} cannot be read ({error}); trying the one before it",
                flush=True,
            )
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the newest checkpoint, readable or not; None without any."""
    return max(_steps(folder), default=None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{7,}", path.name))


def _split(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a state into tensors by path, such as "optimizer/0/step", and all other values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            inner_tensors, values[name] = _split(value, f"{prefix}{name}/")
            tensors |= inner_tensors
        else:
            values[name] = value
    return tensors, values


def _join(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """Undo `_split`."""
    for path, tensor in tensors.items():
        *names, last = path.split("/")
        inner = values
        for name in names:
            inner = inner.setdefault(name, {})
        inner[last] = tensor
    return values
