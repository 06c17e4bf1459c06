"""Resizing on floats, as clean-fid does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lumiere.evaluation.backbones.resizing import resize_antialiased

BICUBIC = Image.Resampling.BICUBIC


def frames(n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_the_same_size_changes_nothing() -> None:
    given = frames(2, 20, 30)
    np.testing.assert_array_equal(resize_antialiased(given, 20, 30, BICUBIC), given)


@pytest.mark.parametrize("size", [(50, 40), (9, 13), (224, 224)])
def test_equals_an_independent_antialiased_bicubic_filter(size: tuple[int, int]) -> None:
    given = frames(2, 32, 24)
    planes = torch.from_numpy(given).permute(0, 3, 1, 2).double()
    expected = F.interpolate(planes, size=size, mode="bicubic", antialias=True).clamp(0, 255)
    found = resize_antialiased(given, *size, BICUBIC)
    assert found.dtype == np.float32 and found.shape == (2, *size, 3)
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, atol=0.01)


def test_shrinking_averages_instead_of_dropping_pixels() -> None:
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    small = resize_antialiased(stripes, 8, 8, BICUBIC)
    assert np.abs(small - 127.5).max() < 15  # dropping columns would give 0 or 255


def test_stays_in_range() -> None:
    edge = np.zeros((1, 8, 8, 3), np.uint8)
    edge[:, :, 4:] = 255
    large = resize_antialiased(edge, 100, 100, BICUBIC)
    assert large.min() == 0 and large.max() == 255
