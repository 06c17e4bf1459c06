"""Inception v3 of the FID, beside numbers of pytorch-fid 0.3.0 and torch-fidelity 0.4.0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lumiere.errors import DataError
from lumiere.evaluation.backbones import load_backbone
from lumiere.evaluation.backbones import weight_files as weights_module
from lumiere.evaluation.backbones.inception_v3 import (
    PUBLISHED_SHA256,
    InceptionV3,
    InceptionV3Backbone,
)
from lumiere.files import content_hash

# Measured with pytorch-fid and torch-fidelity on `picture()`, with `reproducible_weights()`.
GOLDEN_FEATURES = [0.28965133, 0.46237668, 0.00236493, 0.06482250]
GOLDEN_NORM = 10.5156355
GOLDEN_CLASS, GOLDEN_PROBABILITY = 585, 0.0028951932


def reproducible_weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Random weights that numpy draws by name, so that every implementation gets the same."""
    state = {}
    for index, name in enumerate(sorted(shapes)):
        shape = tuple(shapes[name])
        values = np.random.default_rng(index).standard_normal(shape, dtype=np.float32)
        if name.endswith("running_var"):
            values = 1 + values**2 / 4
        elif name.endswith("bn.weight"):
            values = 1 + values / 10
        elif len(shape) > 1:
            values *= np.sqrt(2 / np.prod(shape[1:]))
        else:
            values /= 10
        state[name] = torch.from_numpy(values)
    return state


def picture() -> np.ndarray:
    """Ramps and stripes, (1, 299, 299, 3), so that nothing is resized."""
    y, x = np.mgrid[0:299, 0:299]
    planes = [(x + y) % 256, (x * 3) % 256, (x * y // 50) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with torch.random.fork_rng():
        named = InceptionV3().state_dict()
    shapes = {name: value.shape for name, value in named.items() if "num_batches" not in name}
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(reproducible_weights(shapes), path)
    yield path
    path.unlink()  # 95 MB


@pytest.fixture(scope="module")
def backbone(file: Path) -> InceptionV3Backbone:
    return InceptionV3Backbone(file, content_hash(file))


def test_equals_the_reference_implementations(backbone: InceptionV3Backbone) -> None:
    (features,) = backbone.embed(picture())
    assert features.shape == (2048,)
    np.testing.assert_allclose(features[:4], GOLDEN_FEATURES, rtol=1e-3)
    assert np.linalg.norm(features) == pytest.approx(GOLDEN_NORM, rel=1e-4)


def test_probabilities_leave_out_the_bias(backbone: InceptionV3Backbone) -> None:
    (probabilities,) = backbone.probabilities(picture())
    assert probabilities.shape == (1008,) and probabilities.sum() == pytest.approx(1, abs=1e-4)
    assert probabilities.argmax() == GOLDEN_CLASS
    assert probabilities.max() == pytest.approx(GOLDEN_PROBABILITY, rel=1e-3)


def test_frames_of_any_size_are_resized(backbone: InceptionV3Backbone) -> None:
    small = np.full((1, 8, 5, 3), 128, np.uint8)
    assert backbone.prepare(small).shape == (1, 3, 299, 299)
    assert backbone.prepare(small).abs().max() < 1e-5
    assert "299×299" in backbone.describe() and "hash that was asked for" in backbone.describe()


def test_another_file_is_refused_before_it_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(weights_module.torch, "load", read)
    with pytest.raises(DataError) as error:
        load_backbone("inception_v3", file)
    for part in (str(file), content_hash(file), PUBLISHED_SHA256):
        assert part in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2, 3)}, path)
    with pytest.raises(DataError, match="weights of another network"):
        load_backbone("inception_v3", path, content_hash(path))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    torch.save({"fc.weight": Path("not a tensor")}, path)
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_backbone("inception_v3", path, content_hash(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.pth"):
        load_backbone("inception_v3", path, content_hash(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.pth: no such file"):
        load_backbone("inception_v3", tmp_path / "nowhere.pth")
