"""The model that the command line works with: a folder, the current project's, or the demo weights."""

from __future__ import annotations

import hashlib
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.distilled import DISTILLED_FILE
from lumiere.errors import DataError, ModelError, first_line

if TYPE_CHECKING:
    from lumiere.pipelines import LumierePipeline

PROJECT_PIPELINE, PROJECT_CLIPS = Path("outputs/pipeline"), Path("outputs/clips")
DEMO = "demo"
# The distilled network that belongs to a model: beside its folder, or among the demo weights.
DISTILLED, DEMO_DISTILLED = "distilled", "fast"


class Model:
    """A pipeline that is loaded when it is needed.

    Attributes:
        folder: a folder that `save_pretrained` wrote; None for the demo weights.
        is_fast: whether its distilled network takes the place of the base network.
    """

    def __init__(self, folder: Path | None, device: str | None, is_fast: bool = False) -> None:
        self.folder, self.is_fast = folder, is_fast
        self._device = device

    @classmethod
    def choose(cls, model: str | None, device: str | None, is_fast: bool = False) -> Model:
        """Choose the model that `--model` names: a folder, "demo", or by default the current
        project's.

        Raises:
            ModelError: if `is_fast` is set and the model has no distilled network.
        """
        resolved = cls._choose(model, device, is_fast)
        resolved._check_distilled()
        return resolved

    @classmethod
    def _choose(cls, model: str | None, device: str | None, is_fast: bool) -> Model:
        if model == DEMO or (
            model is None and not (PROJECT_PIPELINE / "model_index.json").is_file()
        ):
            return cls(None, device, is_fast)
        folder = PROJECT_PIPELINE if model is None else Path(model)
        return cls(folder.absolute(), device, is_fast)

    @property
    def name(self) -> str:
        """The value of `--model` that selects this model."""
        return DEMO if self.folder is None else str(self.folder)

    @property
    def description(self) -> str:
        """The name of the model in messages."""
        model = "the demo weights that come with lumiere" if self.folder is None else self.name
        return f"{model}, with the network in {self._distilled_folder}" if self.is_fast else model

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of its files."""
        from lumiere.pipelines.assemble import hash_model

        digest = hash_model(self.folder)
        if self.is_fast:
            both = digest + hash_model(self._distilled_folder)
            digest = hashlib.sha256(both.encode()).hexdigest()
        return digest

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
        if self.folder is not None and not self.folder.is_dir():
            raise ModelError(
                f"--model {self.name}: no such folder; expected a folder of "
                f"LumierePipeline.save_pretrained, or {DEMO}"
            )
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
        if self.is_fast:
            self._load_distilled(pipe)
            self._lower_precision(pipe)
        pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
        try:
            return pipe.to(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"--device {device}: out of memory with the model alone; use --device cpu"
            ) from None

    @property
    def ssr_dtype(self) -> str | None:
        """The precision of super-resolution, such as "float32"; None without super-resolution."""
        network = self.pipe.ssr_unet
        return None if network is None else str(network.dtype).removeprefix("torch.")

    @property
    def _distilled_folder(self) -> Path:
        if self.folder is not None:
            return self.folder.parent / DISTILLED
        from lumiere.pipelines.assemble import PRETRAINED

        return PRETRAINED / DEMO_DISTILLED

    def _check_distilled(self) -> None:
        """Raise ModelError if the model is to be fast and has no distilled network."""
        if not self.is_fast or (self._distilled_folder / DISTILLED_FILE).is_file():
            return
        cure = (
            "set distil.optim.steps in params.yaml and run `dvc repro distil generate`, or leave out "
            "--fast"
        )
        if self.folder is None:
            cure = "leave out --fast, or train a network for a model of your own: docs/training.md"
        raise ModelError(f"--fast: {self._distilled_folder} has no distilled network; {cure}")

    def _load_distilled(self, pipe: LumierePipeline) -> None:
        from safetensors import SafetensorError

        try:
            pipe.load_distilled(self._distilled_folder)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"--fast: {first_line(error)}") from None

    def _lower_precision(self, pipe: LumierePipeline) -> None:
        """Let super-resolution, which is most of the work, compute in bfloat16 where that is fast.

        The base network is small and stays exact.
        """
        import torch

        from lumiere.precision import has_fast_bf16

        if pipe.ssr_unet is not None and has_fast_bf16(torch.device(self.device)):
            pipe.ssr_unet.bfloat16()
