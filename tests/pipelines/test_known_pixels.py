"""First and last frames, masks of every kind, and how well given pixels are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.known_pixels import KnownPixels
from tests.pipelines.test_modes import IMAGE, STEPS, VIDEO, box, seed
from tests.pipelines.test_schedulers import SOLVERS, made_by

LAST = torch.rand(1, 3, 16, 16, generator=seed(11))


@pytest.mark.parametrize(
    ("pictures", "frames"),
    [
        ({"image": IMAGE}, [0]),
        ({"last_image": LAST}, [4]),
        ({"image": IMAGE, "last_image": LAST}, [0, 4]),
    ],
)
@pytest.mark.parametrize("mode", [None, "image_to_video"])
def test_first_and_last_frames(
    pipe: LumierePipeline, pictures: dict[str, Tensor], frames: list[int], mode: str | None
) -> None:
    output = pipe("a cat", **pictures, mode=mode, keep_known=True, generator=seed(), **STEPS)
    assert output.mode == "image_to_video"
    assert [i for i in range(5) if output.known_mask[0, i].any()] == frames
    for frame, picture in zip(frames, pictures.values(), strict=True):
        assert output.known_mask[0, frame].all()
        torch.testing.assert_close(output.base_frames[0, frame], picture[0])


def test_the_network_is_told_of_the_last_frame(pipe: LumierePipeline) -> None:
    options: dict[str, Any] = {"upscale": False, "generator": None, **STEPS}

    def make(**pictures: Tensor) -> Tensor:
        return pipe("a cat", **pictures, **{**options, "generator": seed()}).frames

    both, first, last = make(image=IMAGE, last_image=LAST), make(image=IMAGE), make(last_image=LAST)
    assert (
        not torch.equal(both, first)
        and not torch.equal(both, last)
        and not torch.equal(first, last)
    )


def test_pictures_of_both_ends_belong_to_their_prompt(pipe: LumierePipeline) -> None:
    firsts, large = (
        torch.rand(2, 3, 16, 16, generator=seed(3)),
        torch.rand(2, 3, 24, 24, generator=seed(4)),
    )
    output = pipe(
        ["a cat", "a dog"], image=firsts, last_image=large, keep_known=True, upscale=False, **STEPS
    )
    lasts = torch.nn.functional.interpolate(large, size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(output.frames[:, 0], firsts)
    torch.testing.assert_close(output.frames[:, -1], lasts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"last_image": LAST, "mask": box(16, 16)},
            "no mode is made from last_image and mask; allowed",
        ),
        (
            {"last_image": LAST, "video": VIDEO},
            "no mode is made from last_image and video; allowed",
        ),
        (
            {"mode": "cinemagraph", "last_image": LAST, "mask": box(16, 16)},
            "takes image and mask; given: last_image",
        ),
        ({"mode": "image_to_video"}, "takes image, last_image or both; given: the prompt alone"),
        (
            {"image": IMAGE, "last_image": LAST, "num_frames": 1},
            "num_frames 1; allowed: at least 2 for a first and a",
        ),
        ({"last_image": LAST * 255}, "last_image has values from"),
        ({"last_image": Image.new("RGBA", (16, 16))}, "last_image has transparency"),
        ({"last_image": "cat.png"}, "last_image is a str"),
        ({"last_image": LAST.expand(3, -1, -1, -1)}, "last_image has length 3 for 1 prompt"),
        ({"image": IMAGE, "mask": Image.new("RGBA", (16, 16))}, "mask has transparency"),
        ({"video": VIDEO, "mask": []}, "mask has shape"),
        ({"video": VIDEO, "mask": [box(16, 16)] * 4}, "mask has 4 frames, video 5"),
        ({"video": VIDEO, "mask": [box(16, 16), box(8, 8)]}, "mask: pictures of different sizes"),
    ],
)
def test_bad_pictures_and_masks(
    pipe: LumierePipeline, arguments: dict[str, Any], message: str
) -> None:
    pipe.unet.forward = None
    with pytest.raises(ValueError, match=message):
        pipe("a cat", num_inference_steps=1, output_type="pt", **arguments)


def test_a_moving_mask_of_every_kind(pipe: LumierePipeline) -> None:
    moving = torch.zeros(5, 16, 16)
    for i in range(5):
        moving[i, 2 * i : 2 * i + 4, 4:12] = 1
    pictures = [Image.fromarray((frame.numpy() * 255).astype(np.uint8)) for frame in moving]
    kinds: list[Any] = [
        moving,
        moving[None],
        moving[None, :, None],
        moving.numpy(),
        list(moving),
        pictures,
    ]
    kinds += [[frame.numpy().astype(bool) for frame in moving]]
    outputs = [
        pipe("a cat", video=VIDEO, mask=mask, upscale=False, generator=seed(), **STEPS)
        for mask in kinds
    ]
    for output in outputs:
        assert torch.equal(output.known_mask[0, :, 0], 1 - moving)
        assert torch.equal(output.frames, outputs[0].frames)


def test_kept_pixels_are_measured_before_they_are_put_back(pipe: LumierePipeline) -> None:
    options: dict[str, Any] = {
        "video": VIDEO,
        "mask": box(16, 16),
        "upscale": False,
        "guide_known": False,
        **STEPS,
    }
    free, kept = (
        pipe("a cat", generator=seed(), keep_known=keep, **options) for keep in (False, True)
    )
    known = box(16, 16) == 0
    error = (free.frames[0] - VIDEO[0])[..., known].square().mean()
    torch.testing.assert_close(free.known_psnr, -10 * error.log10().view(1), rtol=1e-4, atol=1e-3)
    assert torch.equal(free.known_psnr, kept.known_psnr)
    torch.testing.assert_close(kept.frames[0][..., ~known], free.frames[0][..., ~known])
    assert pipe("a cat", upscale=False, **STEPS).known_psnr is None


@pytest.mark.parametrize("in_place", [False, True])
def test_what_a_callback_makes_of_known_pixels_is_measured_against_what_was_given(
    pipe: LumierePipeline, in_place: bool
) -> None:
    def callback(
        _: object, __: int, ___: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor] | None:
        if not in_place:
            return {
                "conditioning": torch.ones_like(tensors["conditioning"]),
                "known_mask": tensors["known_mask"],
            }
        tensors["conditioning"].fill_(1)
        return None

    names = ["conditioning", "known_mask"]
    options: dict[str, Any] = {
        "video": VIDEO,
        "mask": box(16, 16),
        "num_inference_steps": 5,
        "output_type": "pt",
        "upscale": False,
    }
    options |= {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
    made, kept = (
        pipe("a cat", generator=seed(), keep_known=keep, **options) for keep in (False, True)
    )
    known = box(16, 16) == 0
    torch.testing.assert_close(
        made.frames[..., known], torch.ones_like(VIDEO)[..., known], rtol=0, atol=1e-4
    )
    error = (1 - VIDEO[0][..., known]).square().mean()
    for output in (made, kept):
        torch.testing.assert_close(
            output.known_psnr, -10 * error.log10().view(1), rtol=1e-3, atol=0
        )
        torch.testing.assert_close(output.known[0][..., known], VIDEO[0][..., known])
    torch.testing.assert_close(kept.frames[0][..., known], VIDEO[0][..., known])


def test_psnr_is_of_each_video_and_of_given_pixels_alone() -> None:
    known, mask = torch.zeros(3, 3, 2, 4, 4), torch.zeros(3, 1, 2, 4, 4)
    mask[:2, :, 0] = 1
    video = torch.ones_like(known)
    video[0] = 0.2
    psnr = KnownPixels(known, mask).psnr(video)
    torch.testing.assert_close(psnr[:2], torch.tensor([20.0, 6.0206]))
    assert psnr[2].isnan()


@pytest.mark.parametrize("name", SOLVERS)
def test_known_pixels_are_held_at_every_step(pipe: LumierePipeline, name: str) -> None:
    """With every scheduler, so that what the rest is painted to fit is the given pixels."""
    pipe.scheduler = made_by(name, pipe.scheduler)
    seen: list[Tensor] = []
    plain = pipe.unet.forward

    def forward(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(sample.clone())
        return plain(sample, *args, **kwargs)

    pipe.unet.forward = forward
    try:
        options: dict[str, Any] = {
            "video": VIDEO,
            "mask": box(16, 16),
            "num_inference_steps": 5,
            "output_type": "pt",
            "upscale": False,
        }
        output = pipe("a cat", guidance_scale=1, generator=seed(), **options)
    finally:
        pipe.unet.forward = plain
    known = box(16, 16) == 0
    torch.testing.assert_close(
        output.frames[0][..., known], VIDEO[0][..., known], atol=1e-4, rtol=0
    )
    assert output.known_psnr.item() > 60
    clean = (VIDEO[0].transpose(0, 1) * 2 - 1)[..., known].flatten()
    likeness = [
        torch.corrcoef(torch.stack([s[0, :3][..., known].flatten(), clean]))[0, 1].item()
        for s in seen
    ]
    # Heun looks at every step twice, the second time a level further; its last look is at a noisier level.
    seen_once, least = (likeness[::2], 0.7) if name == "HeunDiscreteScheduler" else (likeness, 0.8)
    assert seen_once == sorted(seen_once) and seen_once[0] < 0.2 and seen_once[-1] > least


def test_a_video_can_start_from_its_picture(pipe: LumierePipeline) -> None:
    def distance(strength: float) -> float:
        options: dict[str, Any] = {
            "upscale": False,
            "num_inference_steps": 4,
            "output_type": "pt",
            "generator": seed(),
        }
        frames = pipe("a cat", image=IMAGE, image_strength=strength, **options).frames[0, 1:]
        return (frames - IMAGE).square().mean().item()

    assert distance(0.0) < 1e-9 < distance(0.5) < distance(1.0)
    both = pipe(
        "a cat",
        image=IMAGE,
        last_image=LAST,
        image_strength=0.0,
        num_frames=3,
        upscale=False,
        **STEPS,
    )
    torch.testing.assert_close(both.frames[0, 1], (IMAGE[0] + LAST[0]) / 2)
    with pytest.raises(ValueError, match=r"image_strength is 1\.5; allowed: 0 to 1"):
        pipe("a cat", image=IMAGE, image_strength=1.5)


@pytest.mark.parametrize("name", SOLVERS)
def test_super_resolution_keeps_known_pixels_too(pipe: LumierePipeline, name: str) -> None:
    """In windows, at its own size, where the user gave more than the base model can hold."""
    pipe.ssr_scheduler = made_by(name, pipe.ssr_scheduler)
    large = torch.rand(1, 5, 3, 32, 32, generator=seed(5))
    options: dict[str, Any] = {
        "video": large,
        "mask": box(32, 32),
        "num_inference_steps": 2,
        "output_type": "pt",
        "ssr_steps": 5,
    }
    held, free = (
        pipe("a cat", generator=seed(), guide_known=guide, **options) for guide in (True, False)
    )
    known = box(32, 32) == 0
    torch.testing.assert_close(held.frames[..., known], large[..., known], rtol=0, atol=1e-3)
    assert held.known_psnr.item() > 60 > free.known_psnr.item()
    assert not torch.allclose(held.frames[..., ~known], large[..., ~known], atol=0.1)
