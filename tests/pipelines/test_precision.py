"""The network alone may work in half precision; known pixels and the sampler's state stay float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumiere.pipelines import LumierePipeline
from tests.default_dtype import same, under_each_default_dtype
from tests.pipelines.test_modes import INPUTS, STEPS, seed

HALF = [torch.bfloat16, torch.float16]
FULL = {
    "num_inference_steps": 5,
    "output_type": "pt",
    "upscale": False,
}  # at so many steps DDIM ends without noise


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("mode", ["image_to_video", "inpainting", "outpainting", "cinemagraph"])
def test_known_pixels_come_back_as_well_as_in_float32(
    pipe: LumierePipeline, mode: str, dtype: torch.dtype
) -> None:
    plain = pipe("a cat", generator=seed(), **INPUTS[mode], **FULL)
    half = pipe.to(dtype)("a cat", generator=seed(), **INPUTS[mode], **FULL)
    where = half.known_mask.bool().expand_as(half.known)
    assert torch.equal(half.known, plain.known) and torch.equal(half.known_mask, plain.known_mask)
    torch.testing.assert_close(half.frames[where], plain.frames[where], rtol=0, atol=1e-5)
    assert half.known_psnr.min() > 100 and plain.known_psnr.min() > 100


@pytest.mark.parametrize("dtype", HALF)
def test_the_networks_alone_are_in_half_precision(
    pipe: LumierePipeline, dtype: torch.dtype
) -> None:
    seen: list[torch.dtype] = []
    shown: list[tuple[torch.dtype, ...]] = []

    def callback(_: object, __: int, ___: Tensor, tensors: dict[str, Tensor]) -> None:
        shown.append(tuple(tensor.dtype for tensor in tensors.values()))

    pipe.to(dtype)
    for unet in (pipe.unet, pipe.ssr_unet):
        unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    options: dict[str, Any] = {**INPUTS["inpainting"], **STEPS, "callback_on_step_end": callback}
    options["callback_on_step_end_tensor_inputs"] = ["latents", "conditioning", "known_mask"]
    output = pipe("a cat", generator=seed(), **options)
    assert seen == [dtype] * 4
    assert shown == [(torch.float32,) * 3] * 2
    for frames in (output.frames, output.base_frames, output.known, output.known_mask):
        assert frames.dtype == torch.float32 and frames.isfinite().all()


SMOOTH = {
    "motion_scale": 1.5, "temporal_smoothing": 0.5, "spatial_smoothing": 9.0,
    "noise_correlation": 0.4,
}  # fmt: skip
LONG = {"num_frames": 9, "window_size": 5, "overlap": 2, "long_noise": "rescheduled"}
CALLS: dict[str, dict[str, Any]] = {
    "text": SMOOTH | {"guidance_eta": 0.5, "guidance_threshold": 2.0, "guidance_momentum": -0.3},
    "pictures": {"image": torch.zeros(1, 3, 16, 16), "last_image": torch.ones(1, 3, 16, 16)}
    | {"image_strength": 0.7},
    "inpainting": INPUTS["inpainting"] | {"keep_known": True},
    "long": LONG | {"window_weights": "tapered", "ssr_window_weights": "tapered"},
}


@pytest.mark.parametrize("call", CALLS)
def test_videos_do_not_depend_on_the_default_dtype(pipe: LumierePipeline, call: str) -> None:
    def make() -> list[Tensor]:
        made = pipe("a cat", generator=seed(), **CALLS[call], **STEPS)
        return [value for value in (made.frames, made.known_psnr) if value is not None]

    assert all(map(same, *under_each_default_dtype(make)))
