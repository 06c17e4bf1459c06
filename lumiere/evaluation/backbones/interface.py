"""Defines what every backbone offers: features of frames or of whole videos, and an exact identity.

A backbone is a network that never saw the data of this project. The Fréchet distance, the kernel
distance and the consistency scores compare its features.

The features of a frame do not depend on the frames beside it: batches have a fixed size and are
filled up with zeros. Two processors, two numbers of threads or two versions of torch can still
differ in the last bits.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumiere.errors import DataError
from lumiere.evaluation.backbones.weight_files import Weights


@runtime_checkable
class Backbone(Protocol):
    """Describes what frame and video backbones share.

    Attributes:
        name: lower-case letters, digits and underscores, such as "dino_vitb16".
        preprocessing: one exact sentence, to be shown beside the score.
        weights: the file that the weights came from, and its hash.
    """

    name: str
    preprocessing: str
    weights: Weights

    @property
    def identity(self) -> str:
        """A hash over all that decides the features; the key of the cache."""
        ...

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Compute float32 features of uint8 frames (n, h, w, 3)."""
        ...


@runtime_checkable
class FrameBackbone(Backbone, Protocol):
    """A network on single frames: `embed` maps (n, h, w, 3) to (n, d)."""


@runtime_checkable
class VideoBackbone(Backbone, Protocol):
    """A network on clips: `embed` maps (t, h, w, 3) to (d,), with t ≥ `num_frames`."""

    num_frames: int


@runtime_checkable
class Classifier(FrameBackbone, Protocol):
    """A frame backbone with a classifier, as the Inception Score needs it."""

    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        """Compute class probabilities (n, classes), float32, of uint8 frames (n, h, w, 3)."""
        ...


@runtime_checkable
class TextBackbone(FrameBackbone, Protocol):
    """A frame backbone that embeds captions in the same space, as CLIPSIM needs it."""

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Compute features (n, d), float32, of captions."""
        ...


class Network(ABC):
    """The common part of all backbones.

    Attributes:
        version: raised when a change of the code changes the features.
    """

    version: ClassVar[int] = 1
    name: str
    preprocessing: str

    def __init__(self, network: nn.Module, weights: Weights) -> None:
        self.network = network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.weights = weights

    @property
    def identity(self) -> str:
        """A hash over the name, the preprocessing, the weights, this code and torch's version."""
        parts = (
            self.name,
            self.preprocessing,
            self.weights.sha256,
            str(self.version),
            torch.__version__,
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def describe(self) -> str:
        """Return the preprocessing and the origin of the weights, to be shown beside a score."""
        return f"{self.preprocessing} {self.weights.describe()}"

    def _check_finite(self, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise DataError(
                f"{self.name}: the network of {self.weights.path} returns NaN or infinite values; "
                "get the weights again"
            )
        return values


class FrameNetwork(Network):
    """A backbone on frames.

    Attributes:
        batch_size: frames that pass through the network at a time.
    """

    batch_size: ClassVar[int] = 4

    @abstractmethod
    def prepare(self, frames: np.ndarray) -> Tensor:
        """Turn uint8 frames (n, h, w, 3) into the network's input (n, 3, height, width)."""

    @abstractmethod
    def features(self, batch: Tensor) -> Tensor:
        """Run the network on a prepared batch; returns (n, d)."""

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Compute the features of frames.

        Args:
            frames: uint8 (n, h, w, 3), RGB, n ≥ 1.

        Returns:
            float32 (n, d).

        Raises:
            ValueError: if `frames` has another shape or type.
            DataError: if the network returns NaN.
        """
        return self._in_batches(frames, self.features)

    def _in_batches(self, frames: np.ndarray, function: Callable[[Tensor], Tensor]) -> np.ndarray:
        check_frames(frames)
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(frames), self.batch_size):
                batch = self.prepare(frames[start : start + self.batch_size])
                missing = self.batch_size - len(batch)
                full = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, missing))
                output = function(full.contiguous(memory_format=torch.channels_last))
                outputs.append(output[: len(batch)].float().numpy())
        return self._check_finite(np.concatenate(outputs))


class VideoNetwork(Network):
    """A backbone on clips of `num_frames` frames. Of a longer video it sees the first frames."""

    num_frames: int

    @abstractmethod
    def prepare(self, frames: np.ndarray) -> Tensor:
        """Turn uint8 frames (num_frames, h, w, 3) into the network's input, a batch of one."""

    @abstractmethod
    def features(self, batch: Tensor) -> Tensor:
        """Run the network on a prepared batch; returns (1, d)."""

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Compute the features of one video.

        Args:
            frames: uint8 (t, h, w, 3), RGB, with t ≥ `num_frames`.

        Returns:
            float32 (d,).

        Raises:
            ValueError: if `frames` has another shape or type, or too few frames.
            DataError: if the network returns NaN.
        """
        check_frames(frames)
        if len(frames) < self.num_frames:
            raise ValueError(
                f"{self.name} needs {self.num_frames} frames and the video has {len(frames)}; "
                "give longer videos, or leave this backbone out"
            )
        with torch.inference_mode():
            output = self.features(self.prepare(frames[: self.num_frames]))
        return self._check_finite(output[0].float().numpy().copy())


def check_frames(frames: np.ndarray) -> None:
    """Raise ValueError unless `frames` is uint8 of shape (n, h, w, 3), without an empty axis."""
    type_and_shape = f"{frames.dtype} {frames.shape}"
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are {type_and_shape}; allowed: uint8 of shape (n, h, w, 3)")
    if frames.size == 0:
        raise ValueError(
            f"frames are {type_and_shape}, which has no pixels; at least one frame is needed"
        )
