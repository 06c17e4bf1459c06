"""LAION's aesthetic head: what is read of the file, and what is refused."""

import numpy as np
import pytest
import torch

from lumiere.errors import DataError, ParamsError
from lumiere.evaluation.backbones import load_aesthetic_head
from lumiere.evaluation.folders import load_networks
from lumiere.evaluation.temporal.consistency import aesthetic_quality


def test_the_head_of_the_file_is_applied_to_unit_features(tmp_path):
    file = tmp_path / "head.pth"
    layer = torch.nn.Linear(768, 1)
    torch.save(layer.state_dict(), file)
    head = load_aesthetic_head(file)
    features = np.random.default_rng(0).normal(size=(3, 768))
    unit = torch.from_numpy(features / np.linalg.norm(features, axis=1, keepdims=True)).float()
    expected = layer(unit).mean().item() / 10
    assert aesthetic_quality(features, head.weight, head.bias) == pytest.approx(expected, abs=1e-6)
    assert head.weights.sha256 in head.weights.describe()


def test_another_layer_and_a_head_without_its_clip_are_refused(tmp_path):
    file = tmp_path / "head.pth"
    torch.save({"scale": torch.ones(3)}, file)
    with pytest.raises(DataError, match="not an aesthetic head: it holds scale"):
        load_aesthetic_head(file)
    for broken in ({"weight": torch.full((1, 3), torch.nan)}, {"bias": torch.tensor([torch.inf])}):
        torch.save({"weight": torch.ones(1, 3), "bias": torch.zeros(1)} | broken, file)
        with pytest.raises(DataError, match=r"holds NaN or infinite values; get the file again"):
            load_aesthetic_head(file)
    with pytest.raises(DataError, match=r"no such file of weights; give LAION's"):
        load_aesthetic_head(tmp_path / "none.pth")
    with pytest.raises(ParamsError, match="give open_clip=ViT-L-14/FILE"):
        load_networks([], "none", str(file))
