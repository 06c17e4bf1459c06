"""The model that the command line works with: a folder, the current project's, or the demo weights."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.errors import DataError, ParamsError, first_line

if TYPE_CHECKING:
    from lumiere.pipelines import LumierePipeline

PROJECT_PIPELINE, PROJECT_CLIPS = Path("outputs/pipeline"), Path("outputs/clips")
DEMO = "demo"


class ModelError(ParamsError):
    """The model or its device cannot be used, so no request can be met."""


class Model:
    """A pipeline that is loaded when it is needed.

    Attributes:
        folder: a folder that `save_pretrained` wrote; None for the demo weights.
    """

    def __init__(self, folder: Path | None, device: str | None) -> None:
        self.folder = folder
        self._device = device

    @classmethod
    def choose(cls, model: str | None, device: str | None) -> Model:
        """Choose the model that `--model` names: a folder, "demo", or by default the current
        project's.
        """
        if model == DEMO or (
            model is None and not (PROJECT_PIPELINE / "model_index.json").is_file()
        ):
            return cls(None, device)
        return cls(PROJECT_PIPELINE.absolute() if model is None else Path(model).absolute(), device)

    @property
    def name(self) -> str:
        """The value of `--model` that selects this model."""
        return DEMO if self.folder is None else str(self.folder)

    @property
    def description(self) -> str:
        """The name of the model in messages."""
        return "the demo weights that come with lumiere" if self.folder is None else self.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of its files."""
        from lumiere.pipelines.assemble import hash_model

        return hash_model(self.folder)

    @cached_property
    def device(self) -> str:
        """The device it runs on.

        Raises:
            ModelError: if this machine does not have the device.
        """
        import torch

        if self._device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.device(self._device)
        except RuntimeError:
            raise ModelError(
                f"--device {self._device}: no such device; allowed: cpu, cuda, cuda:1, ..."
            ) from None
        try:
            torch.empty(1, device=self._device)
        # A CPU build of torch asserts that it has no CUDA.
        except (RuntimeError, AssertionError) as error:
            reason = first_line(error)
            raise ModelError(
                f"--device {self._device}: not usable here ({reason}); use --device cpu"
            ) from None
        return self._device

    @cached_property
    def pipe(self) -> LumierePipeline:
        """The pipeline itself.

        Raises:
            ModelError: if the folder does not hold a pipeline, or its parts do not fit together.
        """
        from diffusers.utils import logging
        from safetensors import SafetensorError

        from lumiere.diffusion.memory import is_out_of_memory
        from lumiere.pipelines import LumierePipeline
        from lumiere.pipelines.assemble import demo_pipeline

        device = self.device
        logging.disable_progress_bar()
        try:
            pipe = (
                demo_pipeline()
                if self.folder is None
                else LumierePipeline.from_pretrained(self.folder)
            )
        # JSON of another program raises a KeyError or a TypeError.
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            if self.folder is None and isinstance(error, DataError):
                raise ModelError(str(error)) from None  # it names the missing part and the fix
            raise ModelError(
                f"--model {self.name}: cannot be loaded ({first_line(error)}); expected a folder of "
                "LumierePipeline.save_pretrained"
            ) from None
        pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
        try:
            return pipe.to(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"--device {device}: out of memory with the model alone; use --device cpu"
            ) from None
