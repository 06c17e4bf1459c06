"""VideoMAE, V-JEPA 2 and DINO through small random networks of the same classes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import functional as vision
from transformers import (
    Dinov2Config,
    Dinov2Model,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
    VJEPA2Config,
    VJEPA2Model,
)
from transformers.utils import logging as transformers_logging

from lumiere.errors import DataError
from lumiere.evaluation.backbones import FrameBackbone, VideoBackbone, load_backbone
from lumiere.evaluation.backbones.weight_files import check_folder

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each class, as `save_pretrained` writes it."""
    root = tmp_path_factory.mktemp("models")
    videomae = VideoMAEConfig(
        **SMALL,
        image_size=32,
        patch_size=16,
        num_frames=4,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
    )
    vjepa = VJEPA2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        crop_size=32,
        patch_size=16,
        frames_per_clip=4,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "videomae": VideoMAEForPreTraining(videomae),
            "vjepa2": VJEPA2Model(vjepa),
            "dino": ViTModel(ViTConfig(**SMALL, image_size=224, patch_size=16)),
            "dinov2": Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14)),
        }
        for name, model in models.items():
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)  # its own start is nearly constant
            model.save_pretrained(root / name)
    return {name: root / name for name in models}


def frames(n: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def normalised(resized: torch.Tensor) -> torch.Tensor:
    return vision.normalize(resized.float() / 255, MEAN, DEVIATION)


@torch.inference_mode()
def test_videomae_averages_the_tokens(folders: dict[str, Path]) -> None:
    backbone = load_backbone("videomae", folders["videomae"])
    assert isinstance(backbone, VideoBackbone) and backbone.num_frames == 4
    clip = frames(6, 48, 64)
    planes = torch.from_numpy(clip[:4]).permute(0, 3, 1, 2).float()
    resized = vision.resize(planes, [32], antialias=True)
    pixels = normalised(vision.center_crop(resized, [32, 32]))[None]
    network = VideoMAEModel.from_pretrained(folders["videomae"]).eval()
    expected = network(pixel_values=pixels).last_hidden_state.mean(dim=1)[0]
    features = backbone.embed(clip)
    assert features.shape == (16,)
    np.testing.assert_allclose(features, expected, atol=1e-3)


@torch.inference_mode()
def test_vjepa2_averages_the_encoders_tokens(folders: dict[str, Path]) -> None:
    backbone = load_backbone("vjepa2", folders["vjepa2"])
    assert isinstance(backbone, VideoBackbone) and backbone.num_frames == 16
    clip = frames(17, 48, 64)
    planes = torch.from_numpy(clip[:16]).permute(0, 3, 1, 2).float()
    resized = vision.resize(planes, [36], antialias=True)  # 32 · 256 / 224
    pixels = normalised(vision.center_crop(resized, [32, 32]))[None]
    network = VJEPA2Model.from_pretrained(folders["vjepa2"]).eval()
    expected = network.get_vision_features(pixels).mean(dim=1)[0]
    np.testing.assert_allclose(backbone.embed(clip), expected, atol=1e-3)
    assert "not JEDi's network" in backbone.preprocessing


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(32, 32), (48, 80), (300, 240)])
def test_dino_takes_the_class_token_as_vbench(
    folders: dict[str, Path], shape: tuple[int, int]
) -> None:
    backbone = load_backbone("dino", folders["dino"])
    assert isinstance(backbone, FrameBackbone)
    pictures = frames(3, *shape)
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    pixels = normalised(vision.resize(planes, [224], antialias=False).round())
    network = ViTModel.from_pretrained(folders["dino"], add_pooling_layer=False).eval()
    output = network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    features = backbone.embed(pictures)
    assert features.shape == (3, 16)
    np.testing.assert_allclose(features, output, atol=1e-4)


@torch.inference_mode()
def test_dinov2_is_taken_too(folders: dict[str, Path]) -> None:
    backbone = load_backbone("dino", folders["dinov2"])
    pictures = frames(2, 40, 40)
    network = Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    output = network(pixel_values=backbone.prepare(pictures)).last_hidden_state[:, 0]
    np.testing.assert_allclose(backbone.embed(pictures), output, atol=1e-4)
    assert backbone.name.startswith("dinov2_")


def test_frames_do_not_depend_on_their_neighbours(folders: dict[str, Path]) -> None:
    backbone = load_backbone("dino", folders["dino"])
    pictures = frames(5, 20, 20)
    together = backbone.embed(pictures)
    for picture, features in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(backbone.embed(picture[None])[0], features)


def test_names_follow_the_size(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=6, intermediate_size=8
    )
    with torch.random.fork_rng():
        ViTModel(config).save_pretrained(tmp_path)
    backbone = load_backbone("dino", tmp_path)
    assert backbone.name == "dino_vits16" and "DINO (vits16)" in backbone.describe()


def test_loading_is_silent_and_leaves_no_trace(
    folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """The pre-training checkpoint has a decoder, which transformers would report as unused."""
    state, verbosity = torch.get_rng_state(), transformers_logging.get_verbosity()
    load_backbone("videomae", folders["videomae"])
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)
    assert transformers_logging.get_verbosity() == verbosity


def test_the_folders_hash_is_what_sha256sum_says(folders: dict[str, Path]) -> None:
    lines = []
    for name in ("config.json", "model.safetensors"):
        digest = hashlib.sha256((folders["dino"] / name).read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}\n")
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    backbone = load_backbone("dino", folders["dino"], expected)
    assert backbone.weights.sha256 == expected and backbone.weights.expected


def test_another_hash_is_refused(folders: dict[str, Path]) -> None:
    found = check_folder(folders["vjepa2"], None).sha256
    with pytest.raises(DataError, match=f"vjepa2: has sha256 {found}, expected {'0' * 64}"):
        load_backbone("vjepa2", folders["vjepa2"], "0" * 64)


def test_another_kind_of_model_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="a model of type 'videomae'; allowed: vit or dinov2"):
        load_backbone("dino", folders["videomae"])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model folder"):
        load_backbone("videomae", tmp_path)
    with pytest.raises(DataError, match="not a model folder"):
        load_backbone("videomae", tmp_path / "nowhere")


def copied(folder: Path, target: Path) -> Path:
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_missing_weights_are_an_error_not_random_numbers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["dino"], tmp_path)
    state = load_file(folder / "model.safetensors")
    lost = next(name for name in state if "layer" in name and name.endswith("weight"))
    del state[lost]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights of the network are missing .*\(1 in all"):
        load_backbone("dino", folder)


def test_weights_of_another_shape_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["vjepa2"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(DataError, match=str(folder)):
        load_backbone("vjepa2", folder)


def test_damaged_files_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["dino"], tmp_path)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_backbone("dino", folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(DataError, match="not a configuration"):
        load_backbone("dino", folder)
