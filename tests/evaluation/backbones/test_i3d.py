"""I3D through a small TorchScript module with the call signature of the published file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumiere.errors import DataError
from lumiere.evaluation.backbones import VideoBackbone, load_backbone
from lumiere.evaluation.backbones.i3d import PUBLISHED_SHA256, I3DBackbone
from lumiere.files import content_hash


class Tiny(nn.Module):
    """Four outputs: the mean, the change from first to last frame, and two corners."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        assert not rescale and not resize and return_features
        assert list(x.shape[1:]) == [3, 16, 224, 224]
        first, last = x[:, :, 0].mean(dim=(1, 2, 3)), x[:, :, 15].mean(dim=(1, 2, 3))
        corners = [x[:, 0, 0, 0, 0], x[:, 2, 15, 223, 223]]
        return torch.stack([x.mean(dim=(1, 2, 3, 4)), last - first, corners[0], corners[1]], dim=1)


class OtherSignature(nn.Module):
    """A network that does not take the three options."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class OtherResult(nn.Module):
    """A network with the signature that returns maps."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        return x


def saved(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def load(path: Path) -> I3DBackbone:
    return I3DBackbone(path, content_hash(path))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> I3DBackbone:
    return load(saved(Tiny(), tmp_path_factory.mktemp("i3d") / "tiny.pt"))


def clip(t: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (t, h, w, 3), dtype=np.uint8)


def test_scales_to_minus_one_to_one(backbone: I3DBackbone) -> None:
    fade = np.zeros((16, 40, 40, 3), np.uint8)
    fade[15] = 255
    features = backbone.embed(fade)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [-1 + 2 / 16, 2, -1, 1], atol=1e-5)


def test_takes_the_first_16_frames(backbone: I3DBackbone) -> None:
    frames = clip(20, 30, 30)
    np.testing.assert_array_equal(backbone.embed(frames), backbone.embed(frames[:16]))
    assert not np.allclose(backbone.embed(frames), backbone.embed(frames[4:]))


def test_takes_views(backbone: I3DBackbone) -> None:
    view = clip(16, 30, 30)[::-1, :, ::-1]
    np.testing.assert_array_equal(backbone.embed(view), backbone.embed(view.copy()))


@pytest.mark.parametrize("shape", [(32, 32), (60, 80), (300, 240)])
def test_preprocesses_as_the_literature(backbone: I3DBackbone, shape: tuple[int, int]) -> None:
    frames = clip(16, *shape)
    scale = 224 / min(shape)
    size = [int(np.ceil(side * scale)) for side in shape]
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    large = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
    expected = (large[:, :, top : top + 224, left : left + 224] - 0.5) * 2
    torch.testing.assert_close(
        backbone.prepare(frames), expected.transpose(0, 1)[None], atol=1e-5, rtol=0
    )


def test_a_short_video_is_an_error(backbone: I3DBackbone) -> None:
    with pytest.raises(ValueError, match="i3d needs 16 frames and the video has 15"):
        backbone.embed(clip(15, 8, 8))


def test_has_the_interface(backbone: I3DBackbone) -> None:
    assert isinstance(backbone, VideoBackbone)
    assert "first 16 frames" in backbone.describe() and not backbone.weights.published


def test_another_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    path = saved(Tiny(), tmp_path / "tiny.pt")
    with pytest.raises(DataError) as error:
        load_backbone("i3d", path)
    for part in (str(path), content_hash(path), PUBLISHED_SHA256, "NAME=PATH@SHA256"):
        assert part in str(error.value)


@pytest.mark.parametrize("network", [OtherSignature(), OtherResult()])
def test_another_network_is_refused(tmp_path: Path, network: nn.Module) -> None:
    other = load(saved(network, tmp_path / "other.pt"))
    with pytest.raises(DataError, match=r"other\.pt: not the I3D of the FVD"):
        other.embed(clip(16, 8, 8))


def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    path.write_text("not a network")
    with pytest.raises(DataError, match=r"text\.pt: cannot be read as TorchScript"):
        load(path)
