"""Shared by the training stages: processes, the MLflow run, state that resumes, and previews."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import stages
from lumiere import tracking
from lumiere.config import Params, to_dict
from lumiere.training.diffusion_task import DiffusionTask
from lumiere.training.parallel import is_main_process
from lumiere.training.preview import SamplePreview
from lumiere.training.staged_training import StagedTraining
from lumiere.training.state import TrainingResult


class TrainingStage:
    """A running training stage, as `training_stage` yields it.

    Attributes:
        run: the stage's MLflow run.
        is_main: whether this process writes files.
    """

    def __init__(
        self,
        name: str,
        arguments: argparse.Namespace,
        params: Params,
        inputs: Iterable[str | Path],
        run: tracking.Run,
    ) -> None:
        self.run, self.is_main = run, is_main_process()
        self._section, self._inputs = getattr(params, name), list(inputs)
        self._arguments, self._params = arguments, params
        self._training: StagedTraining | None = None
        self._result: TrainingResult | None = None

    def train(
        self, task: DiffusionTask[Any], fps: int = 1, preview: type[SamplePreview] = SamplePreview
    ) -> None:
        """Train, or resume. Write the losses to the output folder, and metrics, previews and the
        loss curve to the run.

        Args:
            task: the task to train; its network has the averaged weights afterwards.
            fps: frames per second of the previews' videos.
            preview: makes the previews.
        """
        if self._training is None:
            self._training = StagedTraining(
                self._arguments.scratch, self._params, self._section, self._inputs
            )
        samples = self._training.folder / "samples"
        show = partial(self.run.log_artifact, folder="samples")
        shown = preview(task, self._params.runtime, samples, show, fps)
        result = self._training.train(task, self.run.log_metrics, self._arguments.out, shown)
        self._result = result
        if self.is_main:
            self.run.log_artifact(self._arguments.out / f"{task.name}.png")

    def finish(self) -> None:
        """Delete the training state and print the result; call it once the output is written."""
        if self._training is None or self._result is None or not self.is_main:
            return
        self._training.finish()
        print(f"{self._result.summary()}; {self._arguments.out}")


@contextmanager
def training_stage(
    name: str, arguments: argparse.Namespace, params: Params, inputs: Iterable[str | Path]
) -> Iterator[TrainingStage]:
    """Run a training stage, in as many processes as params ask for; the body trains and writes.

    A stage that ends with an error keeps its training state, so the same command resumes it.

    Args:
        name: the name of the stage.
        arguments: the command line, with `out` and `scratch`.
        params: all sections.
        inputs: files and folders whose contents decide, with the params and the code, the trained
            weights; empty names are left out.
    """
    stages.spread(params)
    with tracking.stage_run(name, to_dict(getattr(params, name))) as run:
        stage = TrainingStage(name, arguments, params, inputs, run)
        yield stage
        stage.finish()
