"""open_clip's towers through a small random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lumiere.errors import DataError, ParamsError
from lumiere.evaluation.backbones import FrameBackbone, load_backbone, parse_backbone
from lumiere.evaluation.backbones.open_clip_image import OpenCLIPBackbone
from lumiere.files import content_hash
from tests.tiny_open_clip import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a tiny architecture that open_clip knows."""
    return save_weights(tmp_path_factory.mktemp("open clip"), "tiny-B-8")


@pytest.fixture(scope="module")
def backbone(weights: Path) -> OpenCLIPBackbone:
    loaded = load_backbone("open_clip", f"tiny-B-8/{weights}")
    assert isinstance(loaded, OpenCLIPBackbone)
    return loaded


@torch.inference_mode()
def test_equals_open_clips_own_preprocessing_and_network(
    backbone: OpenCLIPBackbone, weights: Path
) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-B-8", pretrained=str(weights)
    )
    batch = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
    expected = model.eval().encode_image(batch)
    features = backbone.embed(pictures)
    assert features.shape == (5, 8) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    texts = ["a cat", "a dog runs"]
    tokens = open_clip.get_tokenizer("tiny-B-8")(texts)
    np.testing.assert_allclose(backbone.embed_texts(texts), model.encode_text(tokens), atol=1e-5)


def test_has_the_interface(backbone: OpenCLIPBackbone, weights: Path) -> None:
    assert isinstance(backbone, FrameBackbone)
    assert backbone.name == "open_clip_tiny_b_8"
    assert "size 16" in backbone.preprocessing or "(16, 16)" in backbone.preprocessing
    assert content_hash(weights) in backbone.describe()


def test_the_hash_is_checked(weights: Path) -> None:
    digest = content_hash(weights)
    spec = parse_backbone(f"open_clip=tiny-B-8/{weights}@{digest}")
    assert spec.load().weights.expected
    with pytest.raises(DataError, match=f"tiny.safetensors: has sha256 {digest}, expected 0000"):
        load_backbone("open_clip", f"tiny-B-8/{weights}", "0" * 64)


@pytest.mark.parametrize(
    "source", ["tiny-B-8", "tiny-B-8/", "/w.safetensors", "ViT-Z/w.safetensors"]
)
def test_an_unknown_architecture_says_what_to_write(source: str) -> None:
    with pytest.raises(ParamsError, match=r": allowed: ARCHITECTURE/FILE\.safetensors"):
        load_backbone("open_clip", source)


def test_a_tokenizer_that_is_not_here_has_a_cure(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("offline")

    backbone = OpenCLIPBackbone(f"tiny-B-8/{weights}")
    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(DataError, match=r"no tokenizer: offline; set HF_HUB_OFFLINE=0 once"):
        backbone.embed_texts(["a dog"])


def test_other_files_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_backbone("open_clip", f"tiny-B-8/{tmp_path}/nowhere.safetensors")
    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(b"pickled")
    with pytest.raises(DataError, match=r"not a \.safetensors file"):
        load_backbone("open_clip", f"tiny-B-8/{pickled}")
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors: not weights of tiny-B-8"):
        load_backbone("open_clip", f"tiny-B-8/{tmp_path}/other.safetensors")
