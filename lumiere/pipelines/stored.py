"""A pipeline on disk: diffusers' folders, with the text encoder's config and the styles in folders of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import lumiere.compat  # noqa: F401  before diffusers

from torch import Tensor

from lumiere.pipelines.base import LumiereBasePipeline
from lumiere.pipelines.styles import FOLDER as STYLES_FOLDER
from lumiere.pipelines.styles import StyleBook
from lumiere.text import load_text_encoder

TEXT_ENCODER_FOLDER = "text_encoder"


class StoredPipeline(LumiereBasePipeline):
    """What `LumierePipeline` saves and loads beside diffusers' own components."""

    styles: StyleBook

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in diffusers, with the text encoder's config and the styles in folders of their own."""
        folder, text_encoder = Path(save_directory), self.text_encoder
        # diffusers saves and loads the kinds of component that it knows; a text encoder is none of them.
        self.register_modules(text_encoder=None)
        try:
            super().save_pretrained(folder, **kwargs)
        finally:
            self.register_modules(text_encoder=text_encoder)
        if text_encoder is not None:
            text_encoder.save_pretrained(folder / TEXT_ENCODER_FOLDER)
        self.styles.save(folder / STYLES_FOLDER)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load what `save_pretrained` wrote; components may be given instead, as in diffusers.

        Raises:
            ValueError: when that is not such a folder.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / cls.config_name).is_file():
            raise ValueError(
                f"{folder}: no {cls.config_name}; expected a folder written by {cls.__name__}.save_pretrained"
            )
        if "text_encoder" not in kwargs and (folder / TEXT_ENCODER_FOLDER).is_dir():
            kwargs["text_encoder"] = load_text_encoder(folder / TEXT_ENCODER_FOLDER)
        pipe = super().from_pretrained(str(folder), **kwargs)
        pipe.styles.load(folder / STYLES_FOLDER)
        return pipe

    def add_style(self, name: str, weights: str | Path | Mapping[str, Tensor], alpha: float = 1.0) -> None:
        """Name a style: a safetensors file, or the state dict, of the T2I fine-tuned on it; or, with `alpha` below 1,
        a finished blend of it, which serves that alpha alone.

        Raises:
            ValueError: on a name that cannot be a file's, or no such file.
        """
        self.styles.add(name, weights, alpha)
