"""A training as a stage runs it: state in a scratch folder of its own, resumed where params, data and code agree."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import lumiere
from lumiere.config import OptimConfig
from lumiere.training.checkpoint import fingerprint
from lumiere.training.loop import Log, Task, TrainingResult, train
from lumiere.training.record import write_record

CODE = ("conditioning.py", "data", "diffusion", "files.py", "models", "text", "training")
KEPT = 2  # states of other runs of the same stage, for who goes back to earlier params


class StagedTraining:
    """Trainings of one stage; `finish` drops their state once the stage's output is written."""

    def __init__(self, scratch: Path, params: Any, inputs: Iterable[str | Path]) -> None:
        """`params` and the contents of `inputs`: with the code, what makes this run the same as an earlier one.

        An input that is an empty string, as params name one that is not used, is left out. torch and its number of
        threads count too: another order of summation gives other bits.
        """
        code = [Path(lumiere.__file__).parent / name for name in CODE]
        settings = {"params": params, "torch": torch.__version__, "threads": torch.get_num_threads()}
        self._scratch = scratch / fingerprint(settings, [*(Path(name) for name in inputs if name != ""), *code])
        others = [path for path in scratch.glob("*") if path.is_dir() and path != self._scratch]
        for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def train(self, task: Task, config: OptimConfig, log: Log, out: Path) -> TrainingResult:
        """Train, and write the losses into `out` as `<task name>.json` and `.png`."""
        result = train(task, config, self._scratch / task.name, log)
        write_record(out, task.name, result)
        return result

    def finish(self) -> None:
        """Drop the training state."""
        shutil.rmtree(self._scratch, ignore_errors=True)
