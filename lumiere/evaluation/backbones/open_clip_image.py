"""The image tower of an open_clip model, and its text tower for CLIPSIM.

CLIPSIM (Wu et al., "GODIVA", 2021) is the cosine of a frame's features and its caption's, averaged
over frames; the literature takes OpenAI's ViT-B/32. OpenAI's weights need the architecture with
"-quickgelu" in its name.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumiere.errors import DataError, ParamsError, one_line
from lumiere.evaluation.backbones.interface import FrameNetwork
from lumiere.evaluation.backbones.weight_files import check_file
from lumiere.plurals import shortened

TOKENIZER_CURE = (
    "set HF_HUB_OFFLINE=0 once to download it, or take an architecture whose tokenizer is "
    "part of open_clip, such as ViT-B-32-quickgelu"
)


class OpenCLIPBackbone(FrameNetwork):
    """The projected image features of a CLIP model, and the text features in the same space."""

    def __init__(self, source: str, sha256: str | None = None) -> None:
        """
        Args:
            source: "<architecture>/<file>": one of `open_clip.list_models()`, and a .safetensors
                file of the whole model, its path relative to the current folder or absolute, such
                as "ViT-B-32-quickgelu/weights/clip.safetensors".
            sha256: the expected hash of the file.

        Raises:
            ParamsError: if the architecture is unknown.
            DataError: if the file is missing, does not fit or has another hash.
        """
        import open_clip  # takes seconds
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.architecture, _, file = source.partition("/")
        if self.architecture not in open_clip.list_models() or not file:
            raise ParamsError(
                f"open_clip model {source!r}: allowed: ARCHITECTURE/FILE.safetensors, with an "
                "architecture of open_clip such as ViT-B-32-quickgelu"
            )
        weights = check_file(Path(file), sha256)
        if weights.path.suffix != ".safetensors":
            raise DataError(f"{file}: not a .safetensors file; convert the weights")
        try:
            # The initial weights are replaced. Drawing them must not change the caller's random
            # numbers.
            with torch.random.fork_rng(devices=[]):
                model = open_clip.create_model(
                    self.architecture,
                    pretrained=str(weights.path.resolve()),
                    require_pretrained=True,
                    weights_only=True,
                )
        except Exception as error:  # a damaged file, or keys that do not fit
            raise DataError(
                f"{file}: not weights of {self.architecture}: {shortened(one_line(error))}"
            ) from None
        self.model = model
        config = PreprocessCfg(**model.visual.preprocess_cfg)
        self.transform = image_transform_v2(config, is_train=False)
        self.name = "open_clip_" + re.sub("[^a-z0-9]+", "_", self.architecture.lower())
        self.preprocessing = (
            f"open_clip {self.architecture}: the model's own preprocessing (size {config.size}, "
            f"{config.resize_mode} side, {config.interpolation}, antialiased by PIL, the middle; "
            f"mean {config.mean}, deviation {config.std}); the projected image features."
        )
        super().__init__(model, weights)

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize, crop and normalise: uint8 (n, h, w, 3) → float32 (n, 3, size, size)."""
        return torch.stack([self.transform(Image.fromarray(frame)) for frame in frames])

    def features(self, batch: Tensor) -> Tensor:
        """Compute (n, 3, size, size) → (n, d)."""
        return self.model.encode_image(batch)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Compute features (n, d), float32, of captions, in the space of the images' features.

        Raises:
            DataError: if open_clip lacks the tokenizer's files.
        """
        import open_clip

        try:
            tokenizer = open_clip.get_tokenizer(self.architecture)
        except Exception as error:  # a tokenizer that would have to be downloaded
            raise DataError(
                f"{self.name}: no tokenizer: {shortened(one_line(error))}", cure=TOKENIZER_CURE
            ) from None
        with torch.inference_mode():
            features = [self.model.encode_text(tokenizer([text])) for text in texts]
        return self._check_finite(torch.cat(features).float().numpy())
