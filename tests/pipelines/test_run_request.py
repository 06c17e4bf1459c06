"""A request is checked against the model before any video is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.run_request import check_request
from lumiere.requests import make_request


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """40 x 20 pixels, of which a square model uses the middle 20 x 20."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upscale": True}, "upscale is yes, but the model has no super-resolution"),
        ({"mode": "image_to_video"}, "mode 'image_to_video' needs a network with conditioning"),
        ({"style": "ink"}, "style is 'ink'; this pipeline has: none"),
    ],
)
def test_a_model_that_cannot_do_it(
    base_only: LumierePipeline, picture: str, values: dict[str, object], message: str
) -> None:
    image = picture if "mode" in values else None
    request = make_request({"prompt": "a fox", "image": image, **values})
    with pytest.raises(ValueError, match=message):
        check_request(base_only, request)


def test_pixels_of_which_the_model_uses_nothing(pipe: LumierePipeline, picture: str) -> None:
    for box, is_used in (("0,0,0.24,1", False), ("0,0,0.28,1", True), ("0.76,0,1,1", False)):
        request = make_request({"prompt": "a fox", "image": picture, "mask": box})
        if is_used:
            assert check_request(pipe, request).arguments["mask"].any()
        else:
            with pytest.raises(ValueError, match="none of it lies in the middle that is used"):
                check_request(pipe, request)


def test_two_pictures_need_two_frames(pipe: LumierePipeline, picture: str) -> None:
    values = {"prompt": "a fox", "image": picture, "last_image": picture}
    with pytest.raises(ValueError, match="use at least 2 frames"):
        check_request(pipe, make_request({**values, "frames": 1}))
    assert check_request(pipe, make_request({**values, "frames": 2})).num_frames == 2
