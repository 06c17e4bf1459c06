"""Flicker, motion, known pixels, retrieval, seams: properties on videos made for the purpose."""

import math

import numpy as np
import pytest

from lumiere.evaluation import (
    consecutive_mse,
    known_region_psnr,
    motion_magnitude,
    retrieval,
    seam_ratio,
    temporal_flicker,
    text_alignment,
    window_borders,
)


def moving_square(step, num_frames=8, size=64):
    """A textured square that moves `step` pixels a frame to the right (negative: to the left)."""
    texture = np.random.default_rng(0).integers(80, 255, size=(20, 20, 3), dtype=np.uint8)
    frames = np.full((num_frames, size, size, 3), 30, np.uint8)
    for k in range(num_frames):
        left = 22 + step * (k - num_frames // 2)
        frames[k, 22:42, left : left + 20] = texture
    return frames


def test_flicker_is_vbenchs_formula():
    frames = np.stack(
        [
            np.zeros((4, 4, 3), np.uint8),
            np.full((4, 4, 3), 255, np.uint8),
            np.zeros((4, 4, 3), np.uint8),
        ]
    )
    assert temporal_flicker(frames) == 0.0
    assert temporal_flicker(frames[:1].repeat(3, axis=0)) == 1.0
    ramp = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    assert temporal_flicker(ramp) == pytest.approx(1 - 1 / 255)
    # Unsigned arithmetic would wrap around.
    assert temporal_flicker(ramp[::-1]) == pytest.approx(1 - 1 / 255)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 4, 4, 3), np.uint8), ((3, 4, 4, 3), float), ((4, 4, 3), np.uint8)]
)
def test_flicker_refuses_one_frame_and_other_types(shape, dtype):
    with pytest.raises(ValueError):
        temporal_flicker(np.zeros(shape, dtype))


def test_motion_has_no_sign_and_grows_with_speed():
    still, slow, fast = (motion_magnitude(moving_square(step)) for step in (0, 1, 3))
    assert still == pytest.approx(0, abs=1e-3)
    assert 0 < slow < fast
    assert motion_magnitude(moving_square(3)[:, :, ::-1].copy()) == pytest.approx(fast, rel=0.2)


def test_psnr_looks_at_known_pixels_only():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 255, size=(2, 8, 8, 3), dtype=np.uint8)
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[:, :4] = 1
    frames = known.copy()
    frames[:, 4:] = 255 - frames[:, 4:]
    assert known_region_psnr(frames, known, mask) == math.inf
    frames[:, :4] = np.where(known[:, :4] < 128, known[:, :4] + 1, known[:, :4] - 1)
    assert known_region_psnr(frames, known, mask) == pytest.approx(20 * math.log10(255))
    with pytest.raises(ValueError, match="no known pixel"):
        known_region_psnr(frames, known, np.zeros_like(mask))
    with pytest.raises(ValueError):
        known_region_psnr(frames, known[:1], mask)


def test_retrieval_follows_a_permutation():
    candidates = np.eye(10)
    order = np.random.default_rng(0).permutation(10)
    perfect = retrieval(candidates[order], candidates, order)
    assert (perfect.recall_1, perfect.recall_5, perfect.median_rank) == (1.0, 1.0, 1.0)
    wrong = retrieval(candidates, candidates, np.roll(np.arange(10), 1))
    # All the other zeros tie, and ties count against.
    assert wrong.recall_1 == 0.0 and wrong.median_rank == 10
    assert (wrong.num_queries, wrong.num_candidates) == (10, 10)


def test_retrieval_of_a_constant_embedding_scores_nothing():
    assert retrieval(np.ones((6, 3)), np.ones((6, 3))).recall_5 == 0.0


def test_retrieval_ranks_count_from_one():
    queries = np.array([[1.0, 0.0]])
    candidates = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert [retrieval(queries, candidates, np.array([i])).median_rank for i in range(3)] == [
        1,
        2,
        3,
    ]


def test_retrieval_and_alignment_refuse_what_does_not_fit():
    with pytest.raises(ValueError):
        retrieval(np.eye(3), np.eye(4))
    with pytest.raises(ValueError):
        retrieval(np.eye(3), np.eye(3), np.array([0, 1, 3]))
    with pytest.raises(ValueError):
        retrieval(np.zeros((3, 3)), np.eye(3))
    with pytest.raises(ValueError):
        text_alignment(np.eye(3), np.eye(3)[:2])
    assert text_alignment(np.eye(3), 7 * np.eye(3)) == pytest.approx(1)


def jumping_video(borders, jump, num_frames=20, noise=0.02):
    """Noise around a level that jumps at the borders."""
    rng = np.random.default_rng(0)
    level = np.cumsum([0.0, *(jump if i in borders else 0.0 for i in range(num_frames - 1))])
    return 0.5 + level[:, None, None, None] + noise * rng.standard_normal((num_frames, 8, 8, 3))


def test_seam_ratio_is_one_without_seams_and_known_with_them():
    borders = [5, 11, 17]
    assert seam_ratio(consecutive_mse(jumping_video(borders, 0.0)), borders) == pytest.approx(
        1, abs=0.1
    )
    # Two independent noises: 2 · 0.02²; at a border the squared jump comes on top.
    expected = (2 * 0.02**2 + 0.05**2) / (2 * 0.02**2)
    assert seam_ratio(consecutive_mse(jumping_video(borders, 0.05)), borders) == pytest.approx(
        expected, rel=0.15
    )


def test_seam_ratio_pools_videos_before_dividing():
    errors = np.array([[1.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
    assert seam_ratio(errors, [2]) == pytest.approx(4)
    assert seam_ratio(errors[1:], [2]) == 1.0
    for borders in ([], [0, 1, 2], [3], [-1]):
        with pytest.raises(ValueError):
            seam_ratio(errors, borders)


def test_consecutive_mse_reads_bytes_and_floats_on_one_scale():
    frames = np.random.default_rng(0).integers(0, 255, size=(4, 5, 6, 3), dtype=np.uint8)
    np.testing.assert_allclose(consecutive_mse(frames), consecutive_mse(frames / 255.0))
    with pytest.raises(ValueError):
        consecutive_mse(frames[:1])


def test_borders_are_where_other_windows_cover():
    assert window_borders([(0, 4), (4, 8)], 8) == [3]
    assert window_borders([(0, 8), (6, 14)], 14) == [5, 7]
    assert window_borders([(0, 8)], 8) == []
