"""C and M of every mode: C is the clean video times M, and nothing that was passed in changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lumiere import conditioning

B, T, H, W = 2, 5, 6, 4


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


VIDEO, IMAGE = some(B, 3, T, H, W), some(B, 3, H, W, seed=1)
REGION = (some(B, 1, T, H, W, seed=2) > 0).float()
STILL_REGION = REGION[:, :, 0]
PADDED = torch.zeros(B, 3, T, 9, 7)
PADDED[..., 1:7, 1:5] = VIDEO

# mode -> (what makes it, the clean video that C is cut from)
MODES: dict[str, tuple[Callable[[], tuple[Tensor, Tensor]], Tensor]] = {
    "text_only": (lambda: conditioning.text_only(VIDEO.shape), VIDEO),
    "image_to_video": (
        lambda: conditioning.image_to_video(IMAGE, T),
        IMAGE.unsqueeze(2).expand(-1, -1, T, -1, -1),
    ),
    "inpainting": (lambda: conditioning.inpainting(VIDEO, REGION), VIDEO),
    "outpainting": (lambda: conditioning.outpainting(VIDEO, 9, 7), PADDED),
    "cinemagraph": (
        lambda: conditioning.cinemagraph(IMAGE, STILL_REGION, T),
        IMAGE.unsqueeze(2).expand(-1, -1, T, -1, -1),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_c_is_the_clean_video_times_m(mode: str) -> None:
    make, clean = MODES[mode]
    c, m = make()
    assert c.shape == clean.shape and m.shape == (B, 1, *clean.shape[2:])
    assert c.dtype == m.dtype == torch.float32
    assert set(m.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(c, clean * m)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_not_changed_and_not_shared(mode: str) -> None:
    before = [entry.clone() for entry in (VIDEO, IMAGE, REGION)]
    c, m = MODES[mode][0]()
    c.add_(1)
    m.add_(1)
    assert all(torch.equal(a, b) for a, b in zip((VIDEO, IMAGE, REGION), before, strict=True))


def test_nothing_is_known_with_text_alone() -> None:
    c, m = conditioning.text_only((1, 3, 2, 4, 4))
    assert not c.any() and not m.any()


def test_the_first_frame_alone_is_known_in_image_to_video() -> None:
    c, m = conditioning.image_to_video(IMAGE, T)
    assert m[:, :, 0].all() and not m[:, :, 1:].any()
    assert torch.equal(c[:, :, 0], IMAGE)
    assert conditioning.image_to_video(IMAGE, 1)[1].all()


def test_the_last_frame_is_known_alone_or_beside_the_first() -> None:
    last = some(B, 3, H, W, seed=7)
    c, m = conditioning.image_to_video(None, T, last_image=last)
    assert m[:, :, -1].all() and not m[:, :, :-1].any() and torch.equal(c[:, :, -1], last)
    c, m = conditioning.image_to_video(IMAGE, T, last_image=last)
    assert torch.equal(c[:, :, 0], IMAGE) and torch.equal(c[:, :, -1], last)
    assert m[:, :, [0, -1]].all() and not m[:, :, 1:-1].any() and not c[:, :, 1:-1].any()


def test_a_region_that_stands_still() -> None:
    c, m = conditioning.inpainting(VIDEO, STILL_REGION)
    still = STILL_REGION.unsqueeze(2).expand(-1, -1, T, -1, -1)
    assert torch.equal(m, 1 - still) and torch.equal(c, VIDEO * (1 - still))


def test_all_but_the_region_is_known_in_inpainting() -> None:
    assert torch.equal(conditioning.inpainting(VIDEO, REGION)[1], 1 - REGION)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_a_region_of_any_dtype(dtype: torch.dtype) -> None:
    c, m = conditioning.inpainting(VIDEO, REGION.to(dtype))
    assert c.dtype == m.dtype == torch.float32 and torch.equal(m, 1 - REGION)


@pytest.mark.parametrize(("height", "width"), [(H, W), (H + 1, W), (H + 5, W + 4), (H, W + 3)])
def test_outpainting_keeps_the_video_in_the_middle(height: int, width: int) -> None:
    c, m = conditioning.outpainting(VIDEO, height, width)
    assert c.shape == (B, 3, T, height, width) and m.shape == (B, 1, T, height, width)
    top, left = (height - H) // 2, (width - W) // 2
    assert torch.equal(c[..., top : top + H, left : left + W], VIDEO)
    assert m[..., top : top + H, left : left + W].all() and m.sum() == B * T * H * W


def test_a_cinemagraph_knows_its_first_frame_whole_and_later_ones_outside_the_region() -> None:
    c, m = conditioning.cinemagraph(IMAGE, STILL_REGION, T)
    assert m[:, :, 0].all() and torch.equal(c[:, :, 0], IMAGE)
    for frame in range(1, T):
        assert torch.equal(m[:, :, frame], 1 - STILL_REGION)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_the_videos(dtype: torch.dtype) -> None:
    for c, m in (
        conditioning.image_to_video(IMAGE.to(dtype), T),
        conditioning.inpainting(VIDEO.to(dtype), REGION),
        conditioning.outpainting(VIDEO.to(dtype), 9, 7),
        conditioning.cinemagraph(IMAGE.to(dtype), STILL_REGION, T),
    ):
        assert c.dtype == m.dtype == dtype


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: conditioning.text_only((1, 3, 4, 4)), "video_shape (1, 3, 4, 4)"),
        (lambda: conditioning.image_to_video(VIDEO, T), "expected (b, 3, h, w)"),
        (lambda: conditioning.image_to_video(IMAGE, 0), "num_frames 0"),
        (lambda: conditioning.image_to_video(None, T), "image and last_image are both None"),
        (lambda: conditioning.image_to_video(IMAGE, 1, IMAGE), "num_frames 1; allowed: at least 2"),
        (
            lambda: conditioning.image_to_video(IMAGE, T, IMAGE[..., :2]),
            "last_image has shape (2, 3, 6, 2)",
        ),
        (lambda: conditioning.image_to_video(None, T, VIDEO), "last_image has shape"),
        (lambda: conditioning.image_to_video((IMAGE * 100).byte(), 2), "torch.uint8"),
        (lambda: conditioning.inpainting(IMAGE, REGION), "expected (b, 3, t, h, w)"),
        (lambda: conditioning.inpainting(VIDEO, REGION[:, :, :1]), f"expected {(B, 1, T, H, W)}"),
        (lambda: conditioning.inpainting(VIDEO, REGION * 0.5), "other than 0 and 1"),
        (lambda: conditioning.inpainting(VIDEO, REGION * float("nan")), "other than 0 and 1"),
        (lambda: conditioning.outpainting(VIDEO, H - 1, W), f"at least the video's {(H, W)}"),
        (lambda: conditioning.cinemagraph(IMAGE, REGION, T), f"expected {(B, 1, H, W)}"),
        (lambda: conditioning.cinemagraph(IMAGE, STILL_REGION, 0), "num_frames 0"),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)
