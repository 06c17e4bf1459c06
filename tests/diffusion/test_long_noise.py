"""The noise of later windows is the first window's in another order (FreeNoise)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumiere.diffusion.long_noise import reschedule_noise
from lumiere.diffusion.windows import temporal_windows


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def draw(num_frames: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, 3, num_frames, 4, 4, generator=seed(9))


def frames_of(noise: Tensor, window: tuple[int, int]) -> list[bytes]:
    """Return the frames of a window of the first row, sorted."""
    return sorted(noise[0, :, frame].numpy().tobytes() for frame in range(*window))


LONG = [(40, 16, 2), (33, 16, 2), (17, 16, 2), (80, 16, 8), (20, 16, 0), (9, 4, 3), (5, 1, 0)]


@pytest.mark.parametrize(("num_frames", "window_size", "overlap"), LONG)
def test_every_window_is_a_permutation_of_the_first(
    num_frames: int, window_size: int, overlap: int
) -> None:
    windows = temporal_windows(num_frames, window_size, overlap)
    independent = draw(num_frames)
    noise = reschedule_noise(independent.clone(), windows, [seed()])
    assert len(windows) > 1
    assert torch.equal(noise[:, :, :window_size], independent[:, :, :window_size])
    first = frames_of(noise, windows[0])
    assert len(set(first)) == window_size
    for window in windows:
        assert frames_of(noise, window) == first


def test_later_windows_have_another_order() -> None:
    noise = reschedule_noise(draw(44), temporal_windows(44, 16, 2), [seed()])
    assert not torch.equal(noise[:, :, 14:30], noise[:, :, :16])
    assert not torch.equal(noise[:, :, 28:44], noise[:, :, 14:30])


@pytest.mark.parametrize("num_frames", [1, 15, 16])
def test_a_clip_of_one_window_keeps_its_noise_and_its_generator(num_frames: int) -> None:
    noise, generator = draw(num_frames), seed()
    made = reschedule_noise(noise.clone(), temporal_windows(num_frames, 16, 2), [generator])
    assert torch.equal(made, noise)
    assert torch.equal(generator.get_state(), seed().get_state())


def test_a_clips_shuffles_depend_on_its_own_generator_alone() -> None:
    windows, noise = temporal_windows(44, 16, 2), draw(44, rows=2)
    both = reschedule_noise(noise.clone(), windows, [seed(3), seed(4)])
    again = reschedule_noise(noise.clone(), windows, [seed(3), seed(4)])
    alone = reschedule_noise(noise[1:].clone(), windows, [seed(4)])
    assert torch.equal(both, again) and torch.equal(both[1:], alone)
    other = reschedule_noise(noise[1:].clone(), windows, [seed(5)])
    assert not torch.equal(alone, other)
