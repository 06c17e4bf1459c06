"""I3D, the network of the Fréchet video distance.

The TorchScript file is StyleGAN-V's translation of the network in the FVD's original code
(Unterthiner et al., "Towards Accurate Generative Models of Video", 2018; Skorokhodov et al.,
"StyleGAN-V", 2022). Nearly all FVDs of the literature since come from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumiere.errors import DataError, first_line
from lumiere.evaluation.backbones.interface import VideoNetwork
from lumiere.evaluation.backbones.resizing import centre_crop, resize_bilinear, with_shorter_side
from lumiere.evaluation.backbones.weight_files import check_file

# i3d_torchscript.pt of StyleGAN-V, 51,235,320 bytes
PUBLISHED_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
SIZE = 224  # pixels


class I3DBackbone(VideoNetwork):
    """The 400 outputs of I3D before the softmax, for 16 frames."""

    name = "i3d"
    num_frames = 16
    preprocessing = (
        "I3D (Kinetics-400, TorchScript): the first 16 frames; the shorter side resized to 224 by "
        "torch's bilinear interpolation (align_corners=False, no antialiasing), the longer side "
        "rounded up; the middle 224×224; pixel / 127.5 − 1; called with rescale=False, "
        "resize=False, return_features=True (400 outputs before the softmax)."
    )

    def __init__(self, path: str | Path, sha256: str | None = None) -> None:
        """
        Args:
            path: StyleGAN-V's i3d_torchscript.pt.
            sha256: the expected hash; None means that of the published file.

        Raises:
            DataError: if the file is missing, damaged or has another hash.
        """
        weights = check_file(Path(path), sha256, PUBLISHED_SHA256)
        try:
            network = torch.jit.load(str(weights.path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as TorchScript: {first_line(error)}") from None
        super().__init__(network, weights)

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize, crop and scale: uint8 (16, h, w, 3) → float32 (1, 3, 16, 224, 224) in [−1, 1]."""
        size = with_shorter_side(frames, SIZE, round_up=True)
        planes = centre_crop(resize_bilinear(frames, *size), SIZE)
        return (planes / 127.5 - 1).transpose(0, 1)[None].contiguous()

    def features(self, batch: Tensor) -> Tensor:
        """Compute (1, 3, 16, 224, 224) → (1, 400)."""
        try:
            output = self.network(batch, rescale=False, resize=False, return_features=True)
        except RuntimeError as error:
            raise DataError(
                f"{self.weights.path}: not the I3D of the FVD: {first_line(error)}"
            ) from None
        if output.ndim != 2 or len(output) != 1:
            raise DataError(
                f"{self.weights.path}: not the I3D of the FVD: it returns {tuple(output.shape)}, "
                "expected (1, 400)"
            )
        return output
