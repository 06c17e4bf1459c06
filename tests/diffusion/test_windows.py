"""Windows cover every clip; reconciling them is the least-squares solution."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lumiere.diffusion.windows import reconcile, tapered_weights, temporal_windows


@pytest.mark.parametrize("window_size", range(1, 9))
def test_windows_cover_any_clip(window_size: int) -> None:
    for overlap in range(window_size):
        for num_frames in range(1, 41):
            windows = temporal_windows(num_frames, window_size, overlap)
            where = (num_frames, window_size, overlap, windows)
            assert {frame for start, end in windows for frame in range(start, end)} == set(
                range(num_frames)
            ), where
            assert windows[0][0] == 0 and windows[-1][1] == num_frames, where
            if num_frames <= window_size:
                assert windows == [(0, num_frames)], where
                continue
            assert all(end - start == window_size for start, end in windows), where
            pairs = list(itertools.pairwise(windows))
            assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairs), where
            shared = [a[1] - b[0] for a, b in pairs]
            assert all(count == overlap for count in shared[:-1]) and shared[-1] >= overlap, where


def test_the_papers_overlap() -> None:
    assert temporal_windows(16, 8, 2) == [(0, 8), (6, 14), (8, 16)]
    assert temporal_windows(14, 8, 2) == [(0, 8), (6, 14)]


@pytest.mark.parametrize(
    "arguments", [(0, 4, 1), (-1, 4, 1), (8, 4, 4), (8, 4, -1), (8, 0, 0), (2, 4, 5), (2, -3, -4)]
)
def test_impossible_windows_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        temporal_windows(*arguments)


def cut(video: Tensor, windows: list[tuple[int, int]]) -> list[Tensor]:
    return [video[:, :, start:end] for start, end in windows]


def some(num_frames: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, num_frames, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arguments", [(16, 8, 2), (17, 5, 3), (9, 4, 0), (3, 8, 2), (10, 3, 2)])
def test_windows_that_agree_give_the_clip_back(arguments: tuple[int, int, int]) -> None:
    video, windows = some(arguments[0]), temporal_windows(*arguments)
    torch.testing.assert_close(reconcile(cut(video, windows), windows, arguments[0]), video)


@pytest.mark.parametrize(
    "windows",
    [[(0, 8), (6, 14), (8, 16)], [(4, 16), (0, 3), (2, 9)], [(0, 16)], [(0, 16), (0, 16)]],
)
def test_reconciling_solves_the_least_squares_problem(windows: list[tuple[int, int]]) -> None:
    predictions = [some(end - start, seed) for seed, (start, end) in enumerate(windows)]
    # argmin over J' of sum_i ||J'|window_i - prediction_i||^2, one row per (window, frame) of it.
    frames = [frame for start, end in windows for frame in range(start, end)]
    selection = torch.eye(16, dtype=torch.float64)[frames]
    stacked = torch.cat(predictions, dim=2).permute(2, 0, 1, 3, 4).reshape(len(frames), -1).double()
    solution = (
        torch.linalg.lstsq(selection, stacked).solution.view(16, 2, 3, 2, 3).permute(1, 2, 0, 3, 4)
    )
    torch.testing.assert_close(reconcile(predictions, windows, 16), solution.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays_and_sums_are_float32(dtype: torch.dtype) -> None:
    # In float16, 60,000 + 60,000 overflows; in bfloat16, 256 + 257 is not 513.
    high = 60000.0 if dtype == torch.float16 else 256.0
    predictions = [torch.full((1, 1, 2, 1, 1), value, dtype=dtype) for value in (high, high, high)]
    merged = reconcile(predictions, [(0, 2), (0, 2), (1, 3)], 3)
    assert merged.dtype == dtype
    assert torch.equal(merged, torch.full((1, 1, 3, 1, 1), high, dtype=dtype))


def test_inputs_are_not_changed() -> None:
    video = some(4)
    predictions = [video.clone(), video.clone()]
    reconcile(predictions, [(0, 4), (0, 4)], 4)
    assert all(torch.equal(prediction, video) for prediction in predictions)


@pytest.mark.parametrize(
    ("shapes", "windows", "words"),
    [
        ([(1, 1, 2, 1, 1)], [(0, 2)], "frame 2 is in no window (2 uncovered of 4)"),
        ([(1, 1, 2, 1, 1)], [(0, 2), (2, 4)], "predictions has length 1; expected 2"),
        ([], [], "predictions has length 0"),
        ([(1, 1, 3, 1, 1)], [(0, 4)], "window (0, 4)"),
        ([(1, 1, 4, 1, 1)], [(1, 5)], "window (1, 5) of 4 frames"),
        ([(1, 1, 4, 1, 1)], [(-1, 3)], "window (-1, 3)"),
        ([(1, 1, 4, 2, 2), (1, 1, 4, 1, 1)], [(0, 4), (0, 4)], "shape (1, 4, 1, 1)"),
        ([(2, 1, 4, 1, 1), (1, 1, 4, 1, 1)], [(0, 4), (0, 4)], "shape (1, 1, 4, 1, 1)"),
        ([(1, 4, 2, 2)], [(0, 4)], "expected (b, c, t, h, w)"),
    ],
)
def test_what_does_not_fit_is_named(
    shapes: list[tuple[int, ...]], windows: list[tuple[int, int]], words: str
) -> None:
    with pytest.raises(ValueError) as error:
        reconcile([torch.zeros(shape) for shape in shapes], windows, 4)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "arguments", [(16, 8, 2), (17, 5, 3), (9, 4, 0), (3, 8, 2), (10, 3, 2), (19, 8, 7)]
)
def test_tapered_weights_solve_the_weighted_problem(arguments: tuple[int, int, int]) -> None:
    windows = temporal_windows(*arguments)
    weights, num_frames = tapered_weights(windows), arguments[0]
    video = some(num_frames)
    torch.testing.assert_close(reconcile(cut(video, windows), windows, num_frames, weights), video)
    predictions = [some(end - start, seed) for seed, (start, end) in enumerate(windows)]
    for frame in range(num_frames):
        here = [(w[frame - s], p[:, :, frame - s]) for w, p, (s, e) in zip(weights, predictions, windows, strict=True)
                if s <= frame < e]  # fmt: skip
        expected = torch.stack([w * p for w, p in here]).sum(0) / sum(w for w, _ in here)
        torch.testing.assert_close(
            reconcile(predictions, windows, num_frames, weights)[:, :, frame], expected
        )


def test_tapered_windows_fade_linearly_into_each_other() -> None:
    windows = temporal_windows(14, 8, 2)
    predictions = [torch.zeros(1, 1, 8, 1, 1), torch.ones(1, 1, 8, 1, 1)]
    made = reconcile(predictions, windows, 14, tapered_weights(windows)).flatten()
    torch.testing.assert_close(made, torch.tensor([0.0] * 6 + [1 / 3, 2 / 3] + [1.0] * 6))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([torch.ones(4)], "weights has length 1; expected 2"),
        ([torch.ones(4), torch.ones(3)], "expected 4 numbers above zero"),
        ([torch.ones(4), torch.tensor([1.0, 1, 1, 0])], "expected 4 numbers above zero"),
    ],
)
def test_weights_that_do_not_fit(weights: list[Tensor], words: str) -> None:
    with pytest.raises(ValueError) as error:
        reconcile([some(4)] * 2, [(0, 4), (0, 4)], 4, weights)
    assert words in str(error.value)
