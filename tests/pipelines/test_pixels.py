"""Pictures and masks of every kind as tensors of one kind; what cannot be read is named with its cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumiere.data.pictures import DEEP_MODES
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.pixels import read_image, read_mask, read_video
from tests.pipelines.test_modes import STEPS, box, seed

PIXELS = (torch.rand(2, 16, 16, 3, generator=seed(1)) * 255).to(torch.uint8).numpy()
PICTURES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
MASKS = torch.stack([box(16, 16), box(16, 16).flip(0)])


@pytest.mark.parametrize("mode", DEEP_MODES)
@pytest.mark.parametrize("in_a_list", [False, True])
def test_pictures_of_more_than_8_bits_are_refused(mode: str, in_a_list: bool) -> None:
    picture: Any = Image.new(mode, (16, 16))
    picture = [picture] if in_a_list else picture
    cure = (
        rf"more than 8 bits a pixel \({mode}\); scale it to 0-255 and convert it to L or RGB first"
    )
    for name in ("image", "last_image"):
        with pytest.raises(ValueError, match=f"^{name} has {cure}"):
            read_image(picture, name)
    with pytest.raises(ValueError, match=f"^video has {cure}"):
        read_video([picture])
    with pytest.raises(ValueError, match=f"^mask has {cure}"):
        read_mask(picture, PICTURES[:1], "image")


def test_a_list_of_pictures_of_any_kind_is_a_batch() -> None:
    wanted = read_image(PICTURES)
    kinds: list[list[Any]] = [
        list(PIXELS), list(PICTURES), [Image.fromarray(PIXELS[0]), PICTURES[1:]], [PICTURES[0] / 255, PIXELS[1] / 255],
    ]  # fmt: skip
    for kind in kinds:
        torch.testing.assert_close(read_image(kind), wanted)
    with pytest.raises(
        ValueError, match="last_image: pictures of different sizes; make them the same size"
    ):
        read_image([PIXELS[0], PIXELS[1, :8]], "last_image")
    with pytest.raises(ValueError, match=r"image is a str; expected a tensor"):
        read_image([PIXELS[0], "cat.png"])


@pytest.mark.parametrize(
    "masks",
    [MASKS, MASKS.numpy(), list(MASKS), [Image.fromarray((m * 255).byte().numpy()) for m in MASKS]],
)
def test_as_many_masks_as_pictures_are_one_each(masks: Any) -> None:
    assert torch.equal(read_mask(masks, PICTURES, "image"), MASKS[:, None, None])
    assert torch.equal(
        read_mask(masks, PICTURES[:, :, None].expand(-1, -1, 2, -1, -1), "video")[0, 0], MASKS
    )


def test_rows_belong_to_their_mask(pipe: LumierePipeline) -> None:
    def known(prompt: list[str], image: Any, mask: Any) -> Tensor:
        return pipe(
            prompt, image=image, mask=mask, upscale=False, num_frames=2, generator=seed(), **STEPS
        ).known_mask

    assert torch.equal(known(["a", "b"], list(PIXELS), list(MASKS))[:, 1, 0], 1 - MASKS)
    assert torch.equal(known(["a", "b"], PIXELS[0], MASKS[:, None])[:, 1, 0], 1 - MASKS)


@pytest.mark.parametrize(
    ("like", "name", "message"),
    [
        (PICTURES[:1], "image", "mask has 3 frames, image 1; pass one still mask, or one per picture"),
        (PICTURES, "image", "mask has 3 frames, image 1; pass one still mask, or one per picture"),
        (
            PICTURES[:1, :, None].expand(-1, -1, 5, -1, -1), "video",
            r"mask has 3 frames, video 5; pass one still mask, one per frame, or one per video as \(b, 1, h, w\)",
        ),
    ],
)  # fmt: skip
def test_another_number_of_masks_is_named_with_its_cure(
    like: Tensor, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_mask(np.repeat(MASKS[:1].numpy(), 3, axis=0), like, name)
