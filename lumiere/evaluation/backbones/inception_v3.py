"""Inception v3 as the FID and the Inception Score use it.

The network is Google's of 2015-12-05, which is not torchvision's: its average pools leave out the
padding, one block ends in a maximum pool, and it has 1008 classes (Szegedy et al., "Rethinking the
Inception Architecture", 2015; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017).
Module names are those of the published file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lumiere.evaluation.backbones.interface import FrameNetwork
from lumiere.evaluation.backbones.resizing import channels_first, resize_antialiased
from lumiere.evaluation.backbones.weight_files import check_file, fill, read_state_dict

# pt_inception-2015-12-05-6726825d.pth of pytorch-fid; torch-fidelity's
# weights-inception-2015-12-05-6726825d.pth is the same file.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 299  # pixels
FEATURES, CLASSES = 2048, 1008


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, in_channels, h, w) → (b, out_channels, h', w')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def wide(in_channels: int, out_channels: int, length: int) -> ConvNorm:
    """Make a 1×length filter that keeps the size."""
    return ConvNorm(in_channels, out_channels, (1, length), padding=(0, length // 2))


def tall(in_channels: int, out_channels: int, length: int) -> ConvNorm:
    """Make a length×1 filter that keeps the size."""
    return ConvNorm(in_channels, out_channels, (length, 1), padding=(length // 2, 0))


def average_pool(x: Tensor) -> Tensor:
    """Compute 3×3 averages, at the border only of positions inside the map."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(nn.Module):
    """35×35 maps: 1×1, 5×5, double 3×3 and pooled branches."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64)
        self.branch5x5_1 = ConvNorm(channels, 48)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(channels, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, channels, h, w) → (b, 224 + pooled, h, w)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average_pool(x))], 1)


class InceptionB(nn.Module):
    """From 35×35 to 17×17 maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, channels, h, w) → (b, channels + 480, h / 2, w / 2)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(nn.Module):
    """17×17 maps: 1×1, 7×7, double 7×7 and pooled branches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(768, 192)
        self.branch7x7_1 = ConvNorm(768, width)
        self.branch7x7_2 = wide(width, width, 7)
        self.branch7x7_3 = tall(width, 192, 7)
        self.branch7x7dbl_1 = ConvNorm(768, width)
        self.branch7x7dbl_2 = tall(width, width, 7)
        self.branch7x7dbl_3 = wide(width, width, 7)
        self.branch7x7dbl_4 = tall(width, width, 7)
        self.branch7x7dbl_5 = wide(width, 192, 7)
        self.branch_pool = ConvNorm(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, 768, h, w) → (b, 768, h, w)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average_pool(x))], 1)


class InceptionD(nn.Module):
    """From 17×17 to 8×8 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(768, 192)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(768, 192)
        self.branch7x7x3_2 = wide(192, 192, 7)
        self.branch7x7x3_3 = tall(192, 192, 7)
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, 768, h, w) → (b, 1280, h / 2, w / 2)."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(nn.Module):
    """8×8 maps. The last block of the FID's network pools maxima, where the paper has averages."""

    def __init__(self, channels: int, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1 = ConvNorm(channels, 320)
        self.branch3x3_1 = ConvNorm(channels, 384)
        self.branch3x3_2a = wide(384, 384, 3)
        self.branch3x3_2b = tall(384, 384, 3)
        self.branch3x3dbl_1 = ConvNorm(channels, 448)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = wide(384, 384, 3)
        self.branch3x3dbl_3b = tall(384, 384, 3)
        self.branch_pool = ConvNorm(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (b, channels, h, w) → (b, 2048, h, w)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.last else average_pool(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, 1)


class InceptionV3(nn.Module):
    """The network of the FID."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(128)
        self.Mixed_6c = InceptionC(160)
        self.Mixed_6d = InceptionC(160)
        self.Mixed_6e = InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(1280, last=False)
        self.Mixed_7c = InceptionE(FEATURES, last=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features (b, 2048) of normalised frames (b, 3, 299, 299)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)  # (b, 64, 73, 73)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)  # (b, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # (b, 768, 17, 17)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))  # (b, 1280, 8, 8)
        return self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))


class InceptionV3Backbone(FrameNetwork):
    """The 2048 features of the FID, and the class probabilities of the Inception Score."""

    name = "inception_v3"
    preprocessing = (
        "Inception v3 of 2015-12-05: frames resized to 299×299 by PIL's antialiased bicubic filter "
        "on 32-bit floats, each channel by itself, clipped to 0…255 (as clean-fid), then "
        "(pixel − 128) / 128; the last feature map averaged over its positions (2048 features); "
        "class probabilities are the softmax of the 1008 outputs without their bias (as "
        "torch-fidelity)."
    )

    def __init__(self, path: str | Path, sha256: str | None = None) -> None:
        """
        Args:
            path: pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or torch-fidelity's equal
                weights-inception-2015-12-05-6726825d.pth.
            sha256: the expected hash; None means that of the published file.

        Raises:
            DataError: if the file is missing, damaged or has another hash.
        """
        weights = check_file(Path(path), sha256, PUBLISHED_SHA256)
        state = read_state_dict(weights.path)
        # The initial weights are replaced at once. Drawing them must not change the caller's
        # random numbers.
        with torch.random.fork_rng(devices=[]):
            network = InceptionV3()
        fill(network, state, weights.path)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(network, weights)
        self.classifier = network.fc.weight

    def prepare(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise: uint8 (n, h, w, 3) → float32 (n, 3, 299, 299)."""
        resized = resize_antialiased(frames, SIZE, SIZE, Image.Resampling.BICUBIC)
        return channels_first((resized - 128) / 128)

    def features(self, batch: Tensor) -> Tensor:
        """Compute (n, 3, 299, 299) → (n, 2048)."""
        return self.network(batch)

    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        """Compute class probabilities (n, 1008), float32, of uint8 frames (n, h, w, 3)."""
        return self._in_batches(frames, self._classify)

    def _classify(self, batch: Tensor) -> Tensor:
        return F.linear(self.network(batch), self.classifier).softmax(dim=1)
