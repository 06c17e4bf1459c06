"""Runs the trainings of a stage, and keeps their state in a scratch folder until the output is
written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lumiere.config import Params, to_dict
from lumiere.errors import LockError
from lumiere.locks import own_folder, release_folder
from lumiere.staleness import deciding_files
from lumiere.training.checkpoint import fingerprint
from lumiere.training.loop import Log, Preview, Task, train
from lumiere.training.loss_curves import write_record
from lumiere.training.parallel import is_main_process
from lumiere.training.state import TrainingResult

RECORD = "lumiere/training/loss_curves.py"  # writes down how a training went; decides no weights
KEPT = 2  # states of other runs of the same stage, to resume after a return to earlier params


class StagedTraining:
    """The trainings of one stage. Call `finish` once the stage's output is written, to delete their
    state.
    """

    def __init__(
        self, scratch: Path, params: Params, section: Any, inputs: Iterable[str | Path]
    ) -> None:
        """Name the training's state after everything that decides its weights, so that only an
        equal run resumes it.

        That includes the section's params and the contents of `inputs`. The launch settings, the
        version of torch and its number of threads count too, because another order of summation
        gives other bits.

        Args:
            scratch: holds one folder per training.
            params: provides `launch` and `runtime`.
            section: the stage's params.
            inputs: files and folders. For a Python file, everything that it imports and that
                decides its outputs counts too (`lumiere.staleness`), but for `RECORD`. Empty
                strings, which mean that an input is not used, are left out.
        """
        files: list[Path] = []
        for name in inputs:
            if Path(name).suffix == ".py":
                files += [path for path in deciding_files(Path(name)) if not path.match(RECORD)]
            elif name != "":
                files.append(Path(name))
        self.launch, self.runtime = params.launch, params.runtime
        settings = {
            "params": to_dict(section),
            "launch": to_dict(params.launch),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            # torchrun may start a number of processes other than the one in params.
            "processes": os.environ.get("WORLD_SIZE", "1"),
        }
        self.folder = scratch / fingerprint(settings, files)

    def train(
        self, task: Task, log: Log, out: Path, preview: Preview | None = None
    ) -> TrainingResult:
        """Train, and write the losses into `out` as `<task name>.json` and `.png`."""
        if is_main_process():
            self.claim()
        scratch = self.folder / task.name
        result = train(task, scratch, log, self.launch, self.runtime, preview)
        if is_main_process():
            write_record(out, task.name, result)
        return result

    def finish(self) -> None:
        """Delete the training state."""
        if is_main_process():
            _drop(self.folder)

    def claim(self) -> None:
        """Lock the state until `finish`, and delete the states of old runs; `train` calls it."""
        own_folder(self.folder, "the same training")
        others = [
            path for path in self.folder.parent.glob("*") if path.is_dir() and path != self.folder
        ]
        for old in sorted(others, key=_last_written)[:-KEPT]:
            with suppress(LockError):  # another process is using it
                own_folder(old, "another training")
                _drop(old)


def _drop(folder: Path) -> None:
    """Delete the state in a folder that this process has locked, and release the lock."""
    shutil.rmtree(folder, ignore_errors=True)
    release_folder(folder)


def _last_written(folder: Path) -> float:
    """Return the time of the latest change in a folder; 0 if another process is deleting it."""
    try:
        return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    except FileNotFoundError:
        return 0.0
