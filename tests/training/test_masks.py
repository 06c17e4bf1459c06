"""Random conditioning: C is the clip where M says so, in the mix that was asked for."""

from __future__ import annotations

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from lumiere.config import MASK_KINDS, TrainConditionedConfig
from lumiere.training.masks import (
    BLOB,
    FREE_FORM,
    Brush,
    draw_conditioning,
    draw_kind,
    random_box,
    random_region,
    random_strokes,
)
from lumiere.training.seeding import generator_for
from tests.default_dtype import same, under_each_default_dtype

FRAMES, HEIGHT, WIDTH = 6, 12, 20
# Channels, frames, height, width: pixels, latents, a picture, a strip, and the smallest frames that can be divided.
SHAPES = [(3, 6, 12, 20), (4, 5, 8, 8), (3, 1, 16, 9), (3, 4, 1, 7), (3, 3, 2, 1), (1, 2, 2, 2)]
REGIONS = (
    "inpainting_box",
    "inpainting_moving_box",
    "inpainting_free_form",
    "outpainting",
    "cinemagraph",
)


def sides(region: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width of the box in every frame (t, h, w); fails where it is no whole box."""
    found = []
    for frame in region:
        rows, columns = frame.any(dim=1).nonzero()[:, 0], frame.any(dim=0).nonzero()[:, 0]
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert (
            frame[top : top + height, left : left + width].all() and frame.sum() == height * width
        )
        found.append((top, left, height, width))
    return found


def draw_regions(kind: str, count: int, *size: int) -> torch.Tensor:
    """(n, t, h, w); without a cinemagraph's first frame, where nothing is to be generated."""
    drawn = torch.stack(
        [
            random_region(kind, *size, generator=generator_for("draws", kind, i))
            for i in range(count)
        ]
    )
    return drawn[:, 1:] if kind == "cinemagraph" else drawn


# Every kind


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_c_is_the_clip_where_m_is_one(kind: str, shape: tuple[int, ...]) -> None:
    video = torch.rand(1, *shape, generator=generator_for("video")) * 2 - 1
    before = video.clone()
    for i in range(10):
        conditioning, mask = draw_conditioning(video, kind, generator_for(kind, i))
        assert mask.shape == (1, 1, *shape[1:]) and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(conditioning, video * mask)
    assert torch.equal(video, before)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_a_draw_depends_on_its_generator_alone(kind: str) -> None:
    video = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH)
    state = torch.get_rng_state()
    drawn = [draw_conditioning(video, kind, generator_for(kind, i % 10))[1] for i in range(20)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.stack(drawn[:10]), torch.stack(drawn[10:]))
    assert (len({tuple(mask.flatten().tolist()) for mask in drawn}) > 5) == (kind in REGIONS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_c_and_m_have_the_clips_dtype(kind: str, dtype: torch.dtype) -> None:
    video = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH)
    conditioning, mask = draw_conditioning(video.to(dtype), kind, generator_for(kind))
    assert conditioning.dtype == mask.dtype == dtype
    assert torch.equal(mask.float(), draw_conditioning(video, kind, generator_for(kind))[1])


@pytest.mark.parametrize("num_frames", [1, 2, 6])
def test_which_frames_are_known_whole(num_frames: int) -> None:
    wanted: dict[str, set[int]] = {kind: set() for kind in MASK_KINDS}
    wanted |= {
        "first_frame": {0},
        "last_frame": {num_frames - 1},
        "first_and_last": {0, num_frames - 1},
    }
    wanted |= {"cinemagraph": {0}}
    for kind, i in itertools.product(MASK_KINDS, range(20)):
        mask = draw_conditioning(
            torch.ones(1, 3, num_frames, HEIGHT, WIDTH), kind, generator_for(kind, i)
        )[1][0, 0]
        assert set(mask.flatten(1).all(dim=1).nonzero()[:, 0].tolist()) == wanted[kind]
        others = mask[[frame for frame in range(num_frames) if frame not in wanted[kind]]]
        assert bool(others.any()) == (kind in REGIONS and len(others) > 0)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"'loop': unknown; allowed: text_only, .*, cinemagraph"):
        draw_conditioning(torch.zeros(1, 3, 2, 4, 4), "loop", generator_for("x"))


# The mix


def test_the_default_mix_has_every_kind() -> None:
    assert tuple(TrainConditionedConfig().mask_weights) == MASK_KINDS


def test_kinds_come_in_proportion_and_never_at_weight_zero() -> None:
    generator = generator_for("kinds")
    counts = Counter(draw_kind({"b": 3.0, "a": 1.0, "never": 0.0}, generator) for _ in range(2000))
    assert set(counts) == {"a", "b"} and 0.70 < counts["b"] / 2000 < 0.80


def test_the_order_in_params_changes_nothing() -> None:
    one, other = ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0})
    drawn = [
        [draw_kind(weights, generator_for("order", i)) for i in range(30)]
        for weights in (one, other)
    ]
    assert drawn[0] == drawn[1]


# Every region


@pytest.mark.parametrize(
    "size", [(4, 32, 32), (4, 4, 4), (2, 2, 2), (3, 1, 2), (3, 9, 1), (3, 5, 90)], ids=str
)
@pytest.mark.parametrize("kind", REGIONS)
def test_no_frame_is_without_region_and_none_is_all_region(
    kind: str, size: tuple[int, ...]
) -> None:
    share = draw_regions(kind, 60, *size).float().mean(dim=(-2, -1))
    assert share.min() > 0 and share.max() < 1


@pytest.mark.parametrize("kind", REGIONS)
def test_a_single_pixel_is_generated_or_with_outpainting_known(kind: str) -> None:
    assert (draw_regions(kind, 5, 3, 1, 1) == (kind != "outpainting")).all()


@pytest.mark.parametrize("size", [(4, 32, 32), (4, 24, 64)], ids=str)
@pytest.mark.parametrize("kind", REGIONS)
def test_regions_are_small_and_large(kind: str, size: tuple[int, ...]) -> None:
    share = draw_regions(kind, 200, *size).float().mean(dim=(1, 2, 3))
    low, middle, high = torch.quantile(share, torch.tensor([0.1, 0.5, 0.9])).tolist()
    assert low < 0.25 and 0.15 < middle < 0.65 and high > 0.35 and high - low > 0.2


@pytest.mark.parametrize("kind", REGIONS)
def test_every_pixel_is_generated_at_times_and_known_at_times(kind: str) -> None:
    share = draw_regions(kind, 400, 3, 8, 8).float().mean(dim=(0, 1))
    assert share.min() > 0.02 and share.max() < 0.98


@pytest.mark.parametrize("kind", REGIONS)
def test_what_moves(kind: str) -> None:
    drawn = draw_regions(kind, 100, FRAMES, 32, 32)
    moving = (drawn != drawn[:, :1]).flatten(1).any(dim=1).float().mean()
    least, most = {"inpainting_moving_box": (0.95, 1.0), "inpainting_free_form": (0.35, 0.65)}.get(
        kind, (0.0, 0.0)
    )
    assert least <= moving <= most


def test_a_cinemagraphs_region_is_at_times_a_box_and_at_times_round() -> None:
    round_ones = 0
    for region in draw_regions("cinemagraph", 120, 2, 16, 16):
        try:
            sides(region)
        except AssertionError:
            round_ones += 1
    assert 40 < round_ones < 80


# Boxes


@pytest.mark.parametrize("moving", [False, True])
def test_a_box_keeps_its_size_and_drifts_without_jumps(moving: bool) -> None:
    whole = 0
    for i in range(100):
        boxes = sides(random_box(FRAMES, HEIGHT, WIDTH, moving, generator_for("box", i)))
        assert len({box[2:] for box in boxes}) == 1
        height, width = boxes[0][2:]
        assert height >= HEIGHT // 4 and width >= WIDTH // 4 and (height, width) != (HEIGHT, WIDTH)
        whole += height == HEIGHT or width == WIDTH
        steps = [abs(b[1] - a[1]) for a, b in itertools.pairwise(boxes)]
        assert max(steps) <= WIDTH * 3 / 4 / (FRAMES - 1) + 1 if moving else not any(steps)
    assert not whole if moving else 25 < whole < 65  # 44 % and some by rounding span one side


# Strokes


def test_a_stroke_without_length_is_a_disc() -> None:
    dot = Brush(strokes=(1, 1), segments=(1, 1), step=(0.0, 0.0), thickness=(0.5, 0.5))
    for i in range(20):
        region = random_strokes(1, 16, 16, False, dot, generator_for("disc", i))[0]
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        discs = [
            ((y - row) ** 2 + (x - column) ** 2 <= 4**2)
            for row in range(16)
            for column in range(16)
        ]
        assert any(torch.equal(region, disc) for disc in discs)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 24), (9, 9)])
@pytest.mark.parametrize("thickness", [(0.0, 0.0), FREE_FORM.thickness, BLOB.thickness])
def test_a_stroke_has_no_gaps(thickness: tuple[float, float], height: int, width: int) -> None:
    brush = Brush((1, 1), FREE_FORM.segments, FREE_FORM.step, thickness)
    for i in range(30):
        frame = random_strokes(1, height, width, False, brush, generator_for("gaps", i))[0]
        # Background and stroke.
        assert cv2.connectedComponents(frame.numpy().astype(np.uint8), connectivity=8)[0] == 2


def test_strokes_drift_evenly_by_up_to_half_a_side() -> None:
    dot = Brush(strokes=(1, 1), segments=(1, 1), step=(0.0, 0.0), thickness=(0.0, 0.0))
    travelled = []
    for i in range(60):
        region = random_strokes(FRAMES, HEIGHT, WIDTH, True, dot, generator_for("drift", i))
        places = region.nonzero()
        assert places[:, 0].tolist() == list(range(FRAMES))  # one pixel in each frame
        path = places[:, 1:] - places[0, 1:]
        even = torch.linspace(0, 1, FRAMES)[:, None] * path[-1]
        assert (path - even).abs().max() <= 0.5
        travelled.append(path[-1])
    distance = torch.stack(travelled)
    most = torch.tensor([HEIGHT // 2, WIDTH // 2])
    assert (distance.abs() <= most).all() and (distance.amax(dim=0) > most / 2).all()
    assert (distance.amin(dim=0) < -most / 2).all()


def test_drifting_strokes_keep_their_shape() -> None:
    for i in range(20):
        region = random_strokes(FRAMES, HEIGHT, WIDTH, True, FREE_FORM, generator_for("shape", i))
        for before, after in itertools.pairwise(region):
            assert any(
                same_where_both_see(before, after, y, x) for y in range(-2, 3) for x in range(-2, 3)
            )


def same_where_both_see(before: torch.Tensor, after: torch.Tensor, y: int, x: int) -> bool:
    """Whether `after` is `before` moved by (y, x)."""
    ends = [
        slice(max(0, -shift), side - max(0, shift))
        for shift, side in zip((y, x), before.shape, strict=True)
    ]
    moved = [
        slice(max(0, shift), side - max(0, -shift))
        for shift, side in zip((y, x), before.shape, strict=True)
    ]
    return torch.equal(before[tuple(ends)], after[tuple(moved)])


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_do_not_depend_on_the_default_dtype(kind: str) -> None:
    video = torch.zeros(1, 3, FRAMES, HEIGHT, WIDTH)

    def draw() -> list[torch.Tensor]:
        drawn = [draw_conditioning(video, kind, generator_for("dtype", i)) for i in range(8)]
        return [tensor for pair in drawn for tensor in pair]

    assert all(map(same, *under_each_default_dtype(draw)))
