"""Noise: its distribution, and how the noise of different frames is correlated."""

from __future__ import annotations

import pytest
import torch

from lumiere.diffusion.noise import draw_noise, video_generators
from tests.default_dtype import same, under_each_default_dtype

CPU = torch.device("cpu")


def generators(count: int = 1) -> list[torch.Generator]:
    return video_generators(torch.Generator().manual_seed(0), count)


@pytest.mark.parametrize("correlation", [0.0, 0.25, 0.8, 1.0])
def test_frames_are_standard_normal_and_correlated_as_told(correlation: float) -> None:
    noise = draw_noise((1, 3, 4, 64, 64), generators(), CPU, correlation)
    frames = noise[0].transpose(0, 1).flatten(1)
    measured = torch.corrcoef(frames)
    expected = torch.full((4, 4), correlation).fill_diagonal_(1.0)
    # 12,288 numbers a frame: one standard error is below 0.01.
    torch.testing.assert_close(measured, expected, atol=0.04, rtol=0)
    torch.testing.assert_close(frames.mean(1), torch.zeros(4), atol=0.04, rtol=0)
    torch.testing.assert_close(frames.std(1), torch.ones(4), atol=0.04, rtol=0)


def test_at_one_all_frames_are_equal_and_clips_are_not() -> None:
    noise = draw_noise((2, 3, 5, 8, 8), generators(2), CPU, correlation=1.0)
    assert torch.equal(noise, noise[:, :, :1].expand_as(noise))
    assert not torch.equal(noise[0], noise[1])


def test_a_clip_does_not_depend_on_its_batch() -> None:
    batch = draw_noise((2, 3, 5, 8, 8), generators(2), CPU, correlation=0.5)
    alone = draw_noise((1, 3, 5, 8, 8), generators(1), CPU, correlation=0.5)
    assert torch.equal(batch[:1], alone)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 1, 8, 8)])
def test_a_picture_has_the_same_noise_whatever_the_correlation(shape: tuple[int, ...]) -> None:
    drawn = [draw_noise(shape, generators(2), CPU, correlation) for correlation in (0.0, 1.0)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_noise_does_not_depend_on_the_default_dtype(correlation: float) -> None:
    def draw() -> torch.Tensor:
        return draw_noise((2, 3, 5, 8, 8), generators(2), CPU, correlation)

    assert same(*under_each_default_dtype(draw)) and draw().dtype == torch.float32
