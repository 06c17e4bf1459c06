"""Bytes and numbers: every byte survives each round trip, and out-of-range values are clamped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lumiere.data.pixel_values import (
    bytes_to_model,
    from_model_range,
    from_unit_range,
    model_to_bytes,
    psnr,
    to_model_range,
    to_unit_range,
)

FRAMES = np.arange(256 * 3, dtype=np.uint8).reshape(2, 8, 16, 3)


def test_every_byte_survives_each_round_trip() -> None:
    assert np.array_equal(from_model_range(to_model_range(FRAMES)), FRAMES)
    assert np.array_equal(from_unit_range(to_unit_range(FRAMES)), FRAMES)


def test_shapes_and_ranges() -> None:
    model, unit = to_model_range(FRAMES), to_unit_range(FRAMES)
    assert model.shape == (3, 2, 8, 16) and (float(model.min()), float(model.max())) == (-1, 1)
    assert unit.shape == (2, 3, 8, 16) and (float(unit.min()), float(unit.max())) == (0, 1)


def test_arguments_are_not_changed() -> None:
    values = torch.tensor([0.0, 255.0])
    bytes_to_model(values)
    assert values.tolist() == [0, 255]


def test_values_outside_the_model_range_are_clamped() -> None:
    assert model_to_bytes(torch.tensor([-3.0, -1.0, 0.999, 1.5])).tolist() == [0, 0, 255, 255]


def test_psnr() -> None:
    assert psnr(0.0, 255) == math.inf and math.isnan(psnr(math.nan, 2))
    assert psnr(1.0, 255) == pytest.approx(20 * math.log10(255))
