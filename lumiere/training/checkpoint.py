"""Training state on disk: safetensors and JSON, written aside and renamed, so that a kill never leaves half of it.

State lives in a scratch folder named after a fingerprint of params, data and code, outside DVC's outputs: a run
that is the same goes on where it stopped, and a run that differs in anything starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
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
    """A short hex name for (params, contents of files); folders stand for the .py and data files in them.

    Of shards of clips name and size count: their index, whose content counts, holds the shards' hashes.
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


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write `step-NNNNNNN/` under `folder`, then drop all but it and the one before.

    Later steps are dropped too: a run that is at `step` began before them, because they could not be read.

    Raises:
        DiskError: when it cannot be written (a full disk); the checkpoints there stay as they were.
    """
    target, aside = folder / f"step-{step:07d}", folder / f".writing-{os.getpid()}"
    for leftover in folder.glob(".writing-*"):  # of a run that was killed in the middle
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            aside / TENSORS_FILE,
        )
        about = json.dumps({"step": step, "tensors": content_hash(aside / TENSORS_FILE), **state})
        (aside / STATE_FILE).write_text(f"{about}\n{_digest(about)}\n", encoding="utf-8")
        for name in (TENSORS_FILE, STATE_FILE):
            with open(aside / name, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except (OSError, SafetensorError) as error:
        raise DiskError(
            f"{folder}: the state of step {step} cannot be written: {error}; make room, and the same command goes on "
            "from the checkpoint before it"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    steps = _steps(folder)
    newest = steps.index(target) + 1
    for other in steps[: max(0, newest - KEEP)] + steps[newest:]:
        shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable checkpoint under `folder`, or None."""
    for candidate in reversed(_steps(folder)):
        try:
            about, digest = (candidate / STATE_FILE).read_text(encoding="utf-8").splitlines()
            if digest != _digest(about):
                raise ValueError(f"{STATE_FILE} is not what was written")
            state = json.loads(about)
            if state["tensors"] != content_hash(candidate / TENSORS_FILE):
                raise ValueError(f"{TENSORS_FILE} is not what was written")
            return read_tensors(candidate / TENSORS_FILE), state
        except Exception as error:  # whatever is wrong with it, the one before it may be whole
            print(
                f"checkpoint {candidate.name} cannot be read ({error}); trying the one before it",
                flush=True,
            )
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """The folder of the newest checkpoint, readable or not."""
    return max(_steps(folder), default=None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{7,}", path.name))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as flat tensors, `optimizer/<index>/<key>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{i}/{key}": value for i, entry in state.items() for key, value in entry.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    place: Callable[[Tensor, Tensor], Tensor] = lambda value, parameter: value.clone(),
) -> None:
    """The inverse of `optimizer_tensors`; `place` copies a value to where its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = place(value, parameters[int(index)])
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
