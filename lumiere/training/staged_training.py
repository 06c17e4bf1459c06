"""A training as a stage runs it: state in a scratch folder of its own, resumed where params, data and code agree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lumiere.config import OptimConfig, Params, to_dict
from lumiere.errors import LockError
from lumiere.locks import own_folder, release_folder
from lumiere.staleness import deciding_files
from lumiere.training.checkpoint import fingerprint
from lumiere.training.loop import Log, Preview, Task, TrainingResult, train
from lumiere.training.loss_curves import write_record
from lumiere.training.parallel import is_main_process

KEPT = 2  # states of other runs of the same stage, for who goes back to earlier params


class StagedTraining:
    """Trainings of one stage; `finish` drops their state once the stage's output is written."""

    def __init__(
        self, scratch: Path, params: Params, section: Any, inputs: Iterable[str | Path]
    ) -> None:
        """Name the training's state after all that decides its weights, so that only an equal run resumes from it.

        These are the section's params and the contents of `inputs`. How it is launched, torch and its number of
        threads count too: another order of summation gives other bits.

        Args:
            scratch: holds one folder per training.
            params: for `launch` and `runtime`.
            section: the stage's params.
            inputs: files and folders. A Python file counts with all that it imports and that decides its outputs
                (`lumiere.staleness`). An empty string, as params have it for an input that is not used, is left out.
        """
        files: list[Path] = []
        for path in (Path(name) for name in inputs if name != ""):
            files += deciding_files(path) if path.suffix == ".py" else [path]
        self.launch, self.runtime = params.launch, params.runtime
        settings = {
            "params": to_dict(section),
            "launch": to_dict(params.launch),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": os.environ.get(
                "WORLD_SIZE", "1"
            ),  # also where torchrun was told, not params
        }
        self.folder = scratch / fingerprint(settings, files)

    def train(
        self, task: Task, config: OptimConfig, log: Log, out: Path, preview: Preview | None = None
    ) -> TrainingResult:
        """Train, and write the losses into `out` as `<task name>.json` and `.png`."""
        if is_main_process():
            self.claim()
        result = train(
            task, config, self.folder / task.name, log, self.launch, self.runtime, preview
        )
        if is_main_process():
            write_record(out, task.name, result)
        return result

    def finish(self) -> None:
        """Drop the training state."""
        if is_main_process():
            _drop(self.folder)

    def claim(self) -> None:
        """Keep others out until it is finished, and drop the states of runs long past; `train` does it."""
        own_folder(self.folder, "the same training")
        others = [
            path for path in self.folder.parent.glob("*") if path.is_dir() and path != self.folder
        ]
        for old in sorted(others, key=_last_written)[:-KEPT]:
            with suppress(LockError):  # one that is at work
                own_folder(old, "another training")
                _drop(old)


def _drop(folder: Path) -> None:
    """Delete the state in a folder that this process owns, and give the folder up."""
    shutil.rmtree(folder, ignore_errors=True)
    release_folder(folder)


def _last_written(folder: Path) -> float:
    """0 of one that is just being dropped."""
    try:
        return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    except FileNotFoundError:
        return 0.0
