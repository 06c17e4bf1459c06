"""Random conditioning: C is the clip where M says so, in the mix that was asked for."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from lumiere.training.masks import draw_conditioning, draw_kind, random_box
from lumiere.training.seeding import generator_for

KINDS = ("text_only", "first_frame", "inpainting", "outpainting", "cinemagraph")
FRAMES, HEIGHT, WIDTH = 6, 12, 20


def sides(region: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width of the box in every frame; fails where it is no whole box."""
    found = []
    for frame in region[0, 0]:
        rows, columns = frame.any(dim=1).nonzero()[:, 0], frame.any(dim=0).nonzero()[:, 0]
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert frame[top : top + height, left : left + width].all() and frame.sum() == height * width
        found.append((top, left, height, width))
    return found


@pytest.mark.parametrize("moving", [False, True])
def test_a_box_takes_a_quarter_of_each_side_to_the_whole(moving: bool) -> None:
    moved = whole = 0
    for i in range(50):
        boxes = sides(random_box(FRAMES, HEIGHT, WIDTH, moving, generator_for("box", i)))
        assert len({box[2:] for box in boxes}) == 1  # its size stays
        assert HEIGHT // 4 <= boxes[0][2] <= HEIGHT and WIDTH // 4 <= boxes[0][3] <= WIDTH
        whole += boxes[0][2:] == (HEIGHT, WIDTH) or boxes[0][2] == HEIGHT or boxes[0][3] == WIDTH
        moved += len(set(boxes)) > 1
        steps = [abs(b[1] - a[1]) for a, b in itertools.pairwise(boxes)]
        assert max(steps) <= WIDTH * 3 / 4 / (FRAMES - 1) + 1  # it drifts and does not jump
    assert (moved > 35) if moving else not moved
    assert 10 < whole < 35  # 44 % of boxes span one side or both


def test_a_box_in_a_single_pixel_and_frame() -> None:
    assert random_box(1, 1, 1, True, generator_for("box")).tolist() == [[[[[1.0]]]]]


def test_boxes_reach_every_pixel() -> None:
    regions = torch.cat([random_box(1, 8, 8, False, generator_for("box", i)) for i in range(400)])
    share = regions.mean(dim=0)
    assert share.min() > 0 and share.max() < 1


def test_kinds_come_in_proportion_and_never_at_weight_zero() -> None:
    generator = generator_for("kinds")
    counts = Counter(draw_kind({"b": 3.0, "a": 1.0, "never": 0.0}, generator) for _ in range(2000))
    assert set(counts) == {"a", "b"} and 0.70 < counts["b"] / 2000 < 0.80


def test_the_order_in_params_changes_nothing() -> None:
    one, other = ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0})
    drawn = [[draw_kind(weights, generator_for("order", i)) for i in range(30)] for weights in (one, other)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("kind", KINDS)
def test_c_is_the_clip_where_m_is_one(kind: str) -> None:
    video = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH) * 2 - 1
    before = video.clone()
    for i in range(20):
        conditioning, mask = draw_conditioning(video, kind, generator_for(kind, i))
        assert mask.shape == (1, 1, FRAMES, HEIGHT, WIDTH) and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(conditioning, video * mask)
        again = draw_conditioning(video, kind, generator_for(kind, i))
        assert torch.equal(conditioning, again[0]) and torch.equal(mask, again[1])
        if kind == "text_only":
            assert not mask.any()
        elif kind == "first_frame":
            assert mask[:, :, 0].all() and not mask[:, :, 1:].any()
        elif kind == "inpainting":
            sides(1 - mask)  # a box is to be generated, still or moving
        elif kind == "outpainting":
            assert len(set(sides(mask))) == 1  # a still box is known
        else:
            assert mask[:, :, 0].all() and len(set(sides(1 - mask[:, :, 1:]))) == 1
    assert torch.equal(video, before)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'loop'"):
        draw_conditioning(torch.zeros(1, 3, 2, 4, 4), "loop", generator_for("x"))
