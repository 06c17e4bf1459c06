"""Pipelines made of the components of others, ours and those of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline, LumiereUpscalePipeline
from lumiere.text import DiffusersTextEncoder
from tests.pipelines.test_diffusers_habits import BASE
from tests.pipelines.test_modes import VIDEO, seed
from tests.text.pipelines import clip, save_stable_diffusion, t5, tokenizer


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    folder = tmp_path_factory.mktemp("sd")
    save_stable_diffusion(folder)
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder, subfolder="vae"),
        text_encoder=clip(),
        tokenizer=tokenizer(start="<s>"),
        unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet"),
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def inflated(sd: StableDiffusionPipeline, **changes: Any) -> LumierePipeline:
    unet = SpaceTimeUNet.from_unet2d(sd.unet)
    pipe = LumierePipeline.from_pipe(sd, unet=unet, **{"num_frames": 2, **changes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_frame_is_the_picture_of_the_pipeline_that_was_inflated(
    sd: StableDiffusionPipeline,
) -> None:
    pipe = inflated(sd)
    assert pipe.vae is sd.vae and pipe.scheduler is sd.scheduler
    latents = torch.randn(1, 4, 8, 8, generator=seed())
    settings: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0}
    settings["negative_prompt"] = "a red dog"
    sd.set_progress_bar_config(disable=True)
    picture = sd("a cat runs", latents=latents, output_type="np", **settings).images
    made = pipe(
        "a cat runs", latents=latents.unsqueeze(2), num_frames=1, guidance_rescale=0.0,
        output_type="np", **settings,
    ).frames  # fmt: skip
    torch.testing.assert_close(
        torch.as_tensor(made[:, 0]), torch.as_tensor(picture), rtol=0, atol=1e-4
    )


def test_a_text_encoder_in_memory_is_saved_with_the_pipeline(
    sd: StableDiffusionPipeline, tmp_path: Path, pipe: LumierePipeline
) -> None:
    pipe.save_pretrained(tmp_path)  # has a text encoder of ours
    made = inflated(sd)
    made.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.text_encoder, DiffusersTextEncoder)
    sentences = ["a cat runs", ""]
    for one, other in zip(
        made.text_encoder.encode(sentences), loaded.text_encoder.encode(sentences), strict=True
    ):
        assert torch.equal(one, other)
    LumierePipeline.from_pipe(made, text_encoder=None).save_pretrained(tmp_path)
    assert LumierePipeline.from_pretrained(tmp_path).text_encoder is None


def test_a_text_encoder_in_memory_names_the_words_that_are_lost(
    sd: StableDiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    inflated(sd).encode_prompt("a zebra runs")
    assert caplog.messages == [
        "1 sentence holds words that the text encoder does not know (zebra): 'a zebra runs'"
    ]


def test_pipelines_of_diffusers_that_lack_something(sd: StableDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match=r"unet is a UNet2DConditionModel; .*from_unet2d\(unet\)"):
        LumierePipeline.from_pipe(sd)
    unet = SpaceTimeUNet.from_unet2d(sd.unet)
    encoders = {"text_encoder": sd.text_encoder, "tokenizer": sd.tokenizer}
    try:
        sd.tokenizer = None
        with pytest.raises(ValueError, match="CLIPTextModel with a NoneType for a tokenizer"):
            LumierePipeline.from_pipe(sd, unet=unet)
        sd.text_encoder, sd.tokenizer = torch.nn.Linear(2, 2), encoders["tokenizer"]
        with pytest.raises(
            ValueError, match=r"is a Linear .* Otherwise pass text_encoder=None, and"
        ):
            LumierePipeline.from_pipe(sd, unet=unet)
        sd.text_encoder_2 = t5()
        with pytest.raises(ValueError, match="has several text encoders; pass text_encoder=None"):
            LumierePipeline.from_pipe(sd, unet=unet)
        assert LumierePipeline.from_pipe(sd, unet=unet, text_encoder=None).text_encoder is None
    finally:
        del sd.text_encoder_2
        sd.text_encoder, sd.tokenizer = encoders["text_encoder"], encoders["tokenizer"]


def test_components_are_shared_and_keep_their_dtype(pipe: LumierePipeline) -> None:
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    pipe.to(dtype=torch.bfloat16)
    copied = LumierePipeline.from_pipe(pipe, num_frames=3)
    upscaler = LumiereUpscalePipeline.from_pipe(pipe)
    for name, component in pipe.components.items():
        assert getattr(copied, name) is component
    assert upscaler.unet is pipe.ssr_unet and upscaler.scheduler is pipe.ssr_scheduler
    assert pipe.unet.dtype == pipe.ssr_unet.dtype == torch.bfloat16
    assert list(copied.styles) == ["ink"]
    assert (copied.config.num_frames, pipe.config.num_frames) == (3, 5)
    copied.add_style("oil", pipe.unet.unet.state_dict())
    assert list(pipe.styles) == ["ink"]
    LumierePipeline.from_pipe(pipe, dtype=torch.float32)
    assert pipe.unet.dtype == torch.float32


def test_super_resolution_takes_its_own_place(pipe: LumierePipeline) -> None:
    upscaler = LumiereUpscalePipeline(
        pipe.ssr_unet, pipe.ssr_scheduler, window_size=3, noise_correlation=0.5
    )
    made = LumierePipeline.from_pipe(
        upscaler, unet=pipe.unet, scheduler=pipe.scheduler, text_encoder=pipe.text_encoder
    )
    assert made.ssr_unet is upscaler.unet and made.ssr_scheduler is upscaler.scheduler
    assert (made.config.ssr_window_size, made.config.ssr_noise_correlation) == (3, 0.5)
    assert made.config.noise_correlation == 0.0
    made.set_progress_bar_config(disable=True)
    assert (
        made(
            "a cat", num_inference_steps=1, ssr_steps=1, output_type="pt", num_frames=3
        ).frames.shape[-1]
        == 32
    )
    with pytest.raises(ValueError, match="unet is None; expected a SpaceTimeUNet"):
        LumierePipeline.from_pipe(upscaler)
    with pytest.raises(ValueError, match="scheduler is None; pass a scheduler of the network's"):
        LumierePipeline.from_pipe(upscaler, unet=pipe.unet)
    with pytest.raises(ValueError, match=r"unet takes 6 channels and predicts 3, .* as ssr_unet"):
        LumierePipeline(pipe.ssr_unet, pipe.scheduler)


def test_what_a_pipeline_was_made_of_is_saved_without_trace(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    LumiereUpscalePipeline.from_pipe(pipe).save_pretrained(tmp_path)
    loaded = LumiereUpscalePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "pt"}
    made = loaded(VIDEO, generator=seed(), **options).frames
    expected = pipe.upscaler()(VIDEO, generator=seed(), **options).frames
    assert torch.equal(made, expected)
    copied = LumierePipeline.from_pipe(pipe)
    by_copy = copied("a cat", generator=seed(), **BASE).frames
    assert torch.equal(by_copy, pipe("a cat", generator=seed(), **BASE).frames)
