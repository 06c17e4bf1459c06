"""What a diffusers user writes by habit works, or says why not. `docs/diffusers.md` is the table."""

from __future__ import annotations

import copy
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoModel,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.training_utils import EMAModel
from diffusers.utils import export_to_video
from huggingface_hub import RepoUrl
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline, LumiereUpscalePipeline
from lumiere.pipelines.model_card import ModelFacts, model_card
from lumiere.pipelines.run_request import check_request
from lumiere.requests import Request
from lumiere.text import DiffusersTextEncoder
from tests.conftest import REPOSITORY
from tests.models.zoo import CONFIGS, TINY, make_inputs
from tests.pipelines.conftest import text_to_image_unet
from tests.pipelines.test_modes import VIDEO, seed
from tests.text.pipelines import clip, save_stable_diffusion

SHORT: dict[str, Any] = {"num_inference_steps": 2, "ssr_steps": 1}
BASE: dict[str, Any] = {**SHORT, "upscale": False, "output_type": "pt"}


# --- the first line ---------------------------------------------------------------------------------


def test_the_first_line_writes_a_video(pipe: LumierePipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    export_to_video(pipe("a taxi", **SHORT).frames[0], str(path), fps=8)
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and video.get(cv2.CAP_PROP_FPS) == 8
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (32, 32)


def test_frames_are_pil_pictures_by_default(pipe: LumierePipeline) -> None:
    made = pipe("a taxi", generator=seed(), **SHORT)
    assert isinstance(made.frames[0][0], Image.Image) and isinstance(
        made.base_frames[0][0], Image.Image
    )
    tensors = pipe("a taxi", generator=seed(), output_type="pt", **SHORT).frames
    shown = np.asarray(made.frames[0][2]) / 255
    expected = tensors[0, 2].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, expected, atol=0.5 / 255 + 1e-6)
    enlarged = pipe.upscaler()(VIDEO, num_inference_steps=1).frames
    assert isinstance(enlarged[0][0], Image.Image)


# --- noise and latents ------------------------------------------------------------------------------


def test_latents_are_the_noise_of_a_call(pipe: LumierePipeline) -> None:
    latents = torch.randn(2, 3, 5, 16, 16, generator=seed(3))
    given = latents.clone()
    prompts = ["a cat", "a dog"]
    once = pipe(prompts, latents=latents, generator=seed(0), **BASE).frames
    again = pipe(prompts, latents=latents, generator=seed(9), **BASE).frames
    assert torch.equal(once, again) and torch.equal(latents, given)
    one = pipe("a dog", latents=latents[1:], **BASE).frames
    torch.testing.assert_close(one, once[1:], rtol=0, atol=5e-5)
    other = pipe(prompts, latents=latents.flip(0), **BASE).frames
    assert not torch.allclose(other, once, atol=1e-3)


def test_latents_are_those_that_the_generator_would_draw(pipe: LumierePipeline) -> None:
    drawn: list[Tensor] = []
    first_noise = pipe.scheduler.scale_model_input

    def keep(sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        drawn.append(sample.clone())
        return first_noise(sample, timestep)

    pipe.scheduler.scale_model_input = keep
    by_seed = pipe("a cat", generator=seed(), **BASE).frames
    by_latents = pipe("a cat", latents=drawn[0] / pipe.scheduler.init_noise_sigma, **BASE).frames
    assert torch.equal(by_seed, by_latents)


def test_latents_are_what_a_video_is_noised_with(pipe: LumierePipeline) -> None:
    latents = torch.randn(1, 3, 5, 16, 16, generator=seed(3))
    options = {"video": VIDEO, "strength": 0.5, **BASE}
    made = [pipe("a cat", latents=noise, **options).frames for noise in (latents, -latents)]
    assert not torch.allclose(*made, atol=1e-3)


def test_latents_go_out_before_decoding_and_super_resolution(pipe: LumierePipeline) -> None:
    latents = pipe("a cat", generator=seed(), output_type="latent", **SHORT)
    pixels = pipe("a cat", generator=seed(), **BASE).frames
    assert latents.frames.shape == (1, 3, 5, 16, 16) and latents.base_frames is None
    torch.testing.assert_close(latents.frames.transpose(1, 2).clamp(-1, 1) / 2 + 0.5, pixels)
    alone = pipe("a cat", generator=seed(), output_type="latent", return_dict=False, **SHORT)
    assert torch.equal(alone[0], latents.frames)
    enlarged = pipe.upscaler()(pixels, num_inference_steps=1, output_type="latent").frames
    assert enlarged.shape == (1, 3, 5, 32, 32) and enlarged.min() >= -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latents": torch.randn(1, 3, 4, 16, 16)}, r"latents has shape .* expected \(1, 3, 5, 16"),
        ({"latents": [1.0]}, "latents is a list; expected a float tensor"),
        ({"latents": torch.full((1, 3, 5, 16, 16), torch.nan)}, "latents are not finite; pass"),
        (
            {"latents": torch.randn(1, 3, 5, 16, 16), "noise_correlation": 0.5},
            r"noise_correlation is 0\.5, but latents are the noise already; pass one of the two",
        ),
        ({"output_type": "latent", "keep_known": True}, "output_type 'latent' has none"),
        ({"output_type": "mp4"}, "output_type is 'mp4'; allowed: pil, np, pt, latent"),
    ],
)
def test_latents_that_cannot_be_used(
    pipe: LumierePipeline, arguments: dict[str, Any], message: str
) -> None:
    pipe.unet.forward = None
    with pytest.raises(ValueError, match=message):
        pipe("a cat", **arguments)


# --- callbacks --------------------------------------------------------------------------------------


def test_a_callback_gets_latents_and_may_replace_them(pipe: LumierePipeline) -> None:
    shapes: list[tuple[int, ...]] = []

    def blank(_: Any, __: int, ___: Tensor, callback_kwargs: dict[str, Tensor]) -> dict[str, Any]:
        shapes.append(tuple(callback_kwargs["latents"].shape))
        callback_kwargs["latents"] = torch.zeros_like(callback_kwargs["latents"])
        return callback_kwargs

    made = pipe("a cat", callback_on_step_end=blank, **{**SHORT, "output_type": "pt"})
    assert shapes == [(1, 3, 5, 16, 16)] * 2 + [(1, 3, 5, 32, 32)]
    assert torch.equal(made.base_frames, torch.full_like(made.base_frames, 0.5))


def test_a_callback_that_forgets_to_return_its_dict_is_told(pipe: LumierePipeline) -> None:
    def forgets(_: Any, __: int, ___: Tensor, callback_kwargs: dict[str, Tensor]) -> None:
        callback_kwargs["latents"] = torch.zeros_like(callback_kwargs["latents"])

    with pytest.raises(ValueError, match="replaced latents in its dict but returned None"):
        pipe("a cat", callback_on_step_end=forgets, **BASE)

    def forgets_one(_: Any, __: int, ___: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        given["prompt_embeds"] = torch.zeros_like(given["prompt_embeds"])
        return {"latents": given["latents"]}

    names = ["latents", "prompt_embeds"]
    with pytest.raises(ValueError, match="replaced prompt_embeds in its dict but returned a dict"):
        pipe(
            "a cat",
            callback_on_step_end=forgets_one,
            callback_on_step_end_tensor_inputs=names,
            **BASE,
        )

    def notes(_: Any, __: int, ___: Tensor, given: dict[str, Any]) -> None:
        given["mine"] = 1

    pipe("a cat", callback_on_step_end=notes, **BASE)


@pytest.mark.parametrize("name", ["scheduler", "unet", "ssr_unet", "vae", "text_encoder"])
def test_a_callback_may_not_set_a_component(pipe: LumierePipeline, name: str) -> None:
    whole, before = pipe("a cat", generator=seed(), **BASE).frames, getattr(pipe, name)

    def replace(pipe: Any, *_: Any) -> None:
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))

    with pytest.raises(ValueError, match=f"a callback sets pipe.{name}, but the call that runs"):
        pipe("a cat", callback_on_step_end=replace, **BASE)
    assert getattr(pipe, name) is before
    replace(pipe)  # after the call
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, whole)


def test_a_callback_may_not_change_the_timesteps(pipe: LumierePipeline) -> None:
    with pytest.raises(ValueError, match="a callback changed the timesteps of the scheduler"):
        pipe("a cat", callback_on_step_end=lambda p, *_: p.scheduler.set_timesteps(5), **BASE)

    def write(pipe: Any, *_: Any) -> None:
        pipe.scheduler.timesteps[1:] = 5

    with pytest.raises(ValueError, match="a callback changed the timesteps of the scheduler"):
        pipe("a cat", callback_on_step_end=write, **BASE)

    def enlarge(pipe: Any, *_: Any) -> None:  # of super-resolution, too
        if pipe.unet.in_channels == 6:
            pipe.scheduler.set_timesteps(5)

    with pytest.raises(ValueError, match="a callback changed the timesteps of the scheduler"):
        pipe("a cat", callback_on_step_end=enlarge, **SHORT)


def batches_in_network(pipe: LumierePipeline) -> list[int]:
    """A list that grows by the batch of each call of the base network."""
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def test_diffusers_cutoff_ends_guidance(pipe: LumierePipeline) -> None:
    options: dict[str, Any] = {**BASE, "num_inference_steps": 4, "guidance_scale": 4.0}
    whole = pipe("a cat", generator=seed(), **options).frames
    seen = batches_in_network(pipe)
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    cut = pipe("a cat", generator=seed(), callback_on_step_end=cutoff, **options).frames
    assert seen == [2, 2, 1, 1] and not torch.allclose(cut, whole, atol=1e-3)
    assert torch.equal(pipe("a cat", generator=seed(), **options).frames, whole)


def test_callbacks_of_diffusers_that_need_other_tensors_are_refused(pipe: LumierePipeline) -> None:
    with pytest.raises(ValueError, match="allowed: a list of latents, prompt_embeds"):
        pipe("a cat", callback_on_step_end=SDXLCFGCutoffCallback(), **BASE)
    # It takes the last row of a batch for the conditional half.
    with pytest.raises(ValueError, match=r"prompt_embeds came back as \(1, 6, 8\)"):
        cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
        pipe(["a cat", "a dog"], callback_on_step_end=cutoff, **BASE)


def test_a_callback_may_change_the_guidance(pipe: LumierePipeline) -> None:
    def raise_it(pipe: Any, *_: Any) -> None:
        assert pipe.guidance_scale in (1.0, 3.0) and pipe.num_timesteps == 2
        pipe._guidance_scale = 3.0

    seen = batches_in_network(pipe)
    pipe("a cat", guidance_scale=1.0, callback_on_step_end=raise_it, **BASE)
    assert seen == [1, 2]
    states, _ = pipe.encode_prompt("a cat")
    with pytest.raises(ValueError, match="encoded nothing to avoid; pass negative_prompt_embeds"):
        pipe(prompt_embeds=states, guidance_scale=1.0, callback_on_step_end=raise_it, **BASE)


@pytest.mark.parametrize("name", ["_guidance_rescale", "_cross_attention_kwargs", "_clip_skip"])
def test_a_setting_that_nothing_reads_is_refused(pipe: LumierePipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"pipe.{name} has no effect here; "):
        pipe("a cat", callback_on_step_end=lambda pipe, *_: setattr(pipe, name, None), **BASE)


def test_callbacks_read_the_properties_of_diffusers(pipe: LumierePipeline) -> None:
    seen: list[Any] = []

    def read(pipe: Any, _: int, timestep: Tensor, __: Any) -> None:
        assert pipe.current_timestep is timestep and pipe.clip_skip is None
        seen.append(pipe.cross_attention_kwargs)

    pipe("a cat", callback_on_step_end=read, cross_attention_kwargs={}, **BASE)
    assert seen == [{}, {}] and pipe.current_timestep is None


@pytest.mark.parametrize(
    "setting",
    [
        {"guidance_rescale": 0.5}, {"guidance_interval": [0.2, 0.9]}, {"guidance_eta": 0.0},
        {"guidance_threshold": 1.0}, {"guidance_momentum": -0.5},
    ],
)  # fmt: skip
def test_settings_of_guidance_without_guidance_are_refused(
    pipe: LumierePipeline, setting: dict[str, Any]
) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} is .*, but this call has no guidance .*; leave"):
        pipe("a cat", guidance_scale=1.0, **setting, **BASE)
    pipe("a cat", guidance_scale=2.0, **setting, **BASE)


def test_settings_that_may_act_or_change_nothing_are_taken(pipe: LumierePipeline) -> None:
    neutral = {"guidance_rescale": 0.0, "guidance_interval": [0, 1], "guidance_eta": 1.0}
    pipe("a cat", guidance_scale=1.0, guidance_threshold=0, guidance_momentum=0, **neutral, **BASE)
    # A callback may switch guidance on.
    options: dict[str, Any] = {"guidance_rescale": 0.5, "guidance_scale": 1.0, **BASE}
    pipe("a cat", callback_on_step_end=lambda *_: None, **options)


@pytest.mark.parametrize(
    "setting",
    [
        {"ssr_steps": 2}, {"ssr_window_size": 3}, {"ssr_overlap": 1}, {"ssr_noise_correlation": 0.5},
    ],
)  # fmt: skip
def test_settings_of_a_super_resolution_that_is_not_there_are_refused(
    base_only: LumierePipeline, setting: dict[str, Any]
) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} is .*, but this pipeline has no super-resol"):
        base_only("a cat", num_inference_steps=1, **setting)


def test_a_removed_component_is_none(pipe: LumierePipeline) -> None:
    del pipe.text_encoder
    with pytest.raises(ValueError, match="text_encoder"):
        pipe("a cat", **BASE)
    assert pipe.text_encoder is None
    states = torch.ones(1, 6, 8)
    pipe(prompt_embeds=states, negative_prompt_embeds=states, **BASE)
    for name, expected in (
        ("ssr_scheduler", "^ssr_scheduler is None; pass a scheduler"),
        ("scheduler", "^scheduler is None; pass a scheduler"),
        ("unet", "^unet is None; expected"),
    ):
        delattr(pipe, name)
        with pytest.raises(ValueError, match=expected):
            pipe(prompt_embeds=states, negative_prompt_embeds=states, **SHORT)
    with pytest.raises(ValueError, match="scheduler is None; pass a scheduler"):
        LumiereUpscalePipeline(pipe.ssr_unet, None)


# --- guidance and text ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 0.0, 0.5, 1])
def test_a_guidance_scale_of_one_or_less_is_off(pipe: LumierePipeline, scale: float) -> None:
    seen = batches_in_network(pipe)
    made = pipe("a cat", guidance_scale=scale, generator=seed(), **BASE).frames
    assert seen == [1, 1] and pipe.do_classifier_free_guidance is False
    assert torch.equal(made, pipe("a cat", guidance_scale=1.0, generator=seed(), **BASE).frames)


def test_states_without_a_mask_give_the_video_of_their_sentence(pipe: LumierePipeline) -> None:
    options: dict[str, Any] = {"guidance_scale": 3.0, **BASE}
    by_text = pipe(
        ["a cat", "a red dog runs"], negative_prompt="a fish", generator=seed(), **options
    ).frames
    positive, negative = pipe.encode_prompt(
        ["a cat", "a red dog runs"], "cpu", 1, True, negative_prompt="a fish"
    )
    by_states = pipe(
        prompt_embeds=positive, negative_prompt_embeds=negative, generator=seed(), **options
    ).frames
    torch.testing.assert_close(by_states, by_text, rtol=0, atol=1e-5)


def test_encode_prompt_repeats_and_leaves_the_negative_out(pipe: LumierePipeline) -> None:
    positive, negative = pipe.encode_prompt(["a cat", "a dog"], num_images_per_prompt=2)
    assert positive.shape == negative.shape == (4, 6, 8)
    assert torch.equal(positive[0], positive[1]) and not torch.equal(positive[1], positive[2])
    assert pipe.encode_prompt("a cat", do_classifier_free_guidance=False)[1] is None
    same, _ = pipe.encode_prompt(None, prompt_embeds=positive)
    assert torch.equal(same, positive)


def test_encode_prompt_takes_no_options_of_clip(pipe: LumierePipeline) -> None:
    assert pipe.encode_prompt("a cat", lora_scale=None, clip_skip=None)[0].shape == (1, 6, 8)
    with pytest.raises(
        ValueError, match="clip_skip is 1, but our text encoders do not take it; leave it"
    ):
        pipe.encode_prompt("a cat", clip_skip=1)


def test_states_of_zeros_alone_are_attended_to(pipe: LumierePipeline) -> None:
    """As SDXL's empty prompt: nothing of it is padding."""
    zeros, masks = torch.zeros(1, 6, 8), []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, given: masks.append(given["encoder_attention_mask"]), with_kwargs=True
    )
    states, _ = pipe.encode_prompt("a cat")
    pipe(prompt_embeds=states, negative_prompt_embeds=zeros, **BASE)
    assert masks[0].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_a_negative_prompt_that_would_not_be_read_is_refused(pipe: LumierePipeline) -> None:
    message = "a negative prompt is given, but guidance_scale is 1, where it is not read; leave"
    states, negative = pipe.encode_prompt("a cat")
    for given in ({"negative_prompt": "blurry"}, {"negative_prompt_embeds": negative}):
        prompt = "a cat" if "negative_prompt" in given else None
        embeds = None if prompt else states
        with pytest.raises(ValueError, match=message):
            pipe(prompt, prompt_embeds=embeds, guidance_scale=1.0, **given, **BASE)
    pipe("a cat", negative_prompt="", guidance_scale=1.0, **BASE)  # names nothing to avoid
    request = Request(name="a", prompt="a cat", negative_prompt="blurry", guidance=1.0)
    with pytest.raises(ValueError, match=message):
        check_request(pipe, request)


# --- switches ---------------------------------------------------------------------------------------


def test_a_progress_bar_keeps_its_title(
    pipe: LumierePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.set_progress_bar_config(desc="my title")
    pipe("a cat", **SHORT)
    titled = capsys.readouterr().err
    assert "my title" in titled and "base model" not in titled
    pipe.set_progress_bar_config()
    pipe("a cat", **SHORT)
    assert "base model" in capsys.readouterr().err


def test_attention_slicing_slices_and_gives_the_same_video(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **BASE).frames
    pipe.enable_attention_slicing("max")
    kinds = {type(processor).__name__ for processor in pipe.unet.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    sliced = pipe("a cat", generator=seed(), **BASE).frames
    torch.testing.assert_close(sliced, plain, rtol=0, atol=1e-5)
    pipe.disable_attention_slicing()
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, plain)


def test_networks_offloaded_to_one_folder_keep_their_own_weights(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    other = SpaceTimeUNet.from_config(pipe.unet.config).eval()
    other.load_state_dict({key: -value for key, value in pipe.unet.state_dict().items()})
    second = LumierePipeline.from_pipe(pipe, unet=other, ssr_unet=None, ssr_scheduler=None)
    second.set_progress_bar_config(disable=True)
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    for each in (pipe, second):
        options = {**BASE, "upscale": each is pipe}
        plain = each("a cat", generator=seed(), **options).frames
        each.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_type="leaf_level",
            offload_to_disk_path=str(tmp_path / "weights"),
        )
        made = each("a cat", generator=seed(), **options).frames
        torch.testing.assert_close(made, plain, rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"the weights are in .* after enable_group_offload\(\); save"
    ):
        pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="moves weights that a style would replace; use enable_mo"):
        pipe("a cat", style="ink", **BASE)


FREEU = {"s1": 0.6, "s2": 0.4, "b1": 1.3, "b2": 1.5}


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd1", "if_stage_1"])
def test_freeu_is_that_of_the_image_network(name: str) -> None:
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(**{**TINY, **CONFIGS[name]}).eval()
    plain = SpaceTimeUNet.from_unet2d(unet2d)
    image, given = make_inputs(unet2d)
    frame = image.unsqueeze(2)
    without = plain(frame, **given).sample
    unet2d.enable_freeu(**FREEU)
    expected = unet2d(image, **given).sample
    inflated = SpaceTimeUNet.from_unet2d(unet2d)
    plain.enable_freeu(**FREEU)
    for network in (inflated, plain):
        torch.testing.assert_close(network(frame, **given).sample[:, :, 0], expected)
    # DeepFloyd IF's blocks have no FreeU in diffusers either.
    same = torch.allclose(without[:, :, 0], expected, atol=1e-4)
    assert same is (name == "if_stage_1")
    plain.disable_freeu()
    assert torch.equal(plain(frame, **given).sample, without)


def test_freeu_of_a_pipeline(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **BASE).frames
    pipe.enable_freeu(**FREEU)
    assert not torch.allclose(pipe("a cat", generator=seed(), **BASE).frames, plain, atol=1e-3)
    pipe.disable_freeu()
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, plain)


@torch.no_grad()
def test_attention_processors_survive_inflation() -> None:
    unet2d = text_to_image_unet()
    unet2d.set_attention_slice("max")
    inflated = SpaceTimeUNet.from_unet2d(unet2d)
    kinds = {type(processor).__name__ for processor in inflated.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}


# --- latent consistency models ----------------------------------------------------------------------


def consistency_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {**TINY, **CONFIGS["sd1"], "time_cond_proj_dim": 8, "in_channels": 3}
    return UNet2DConditionModel(**config, out_channels=3).eval()


@torch.no_grad()
def test_timestep_cond_reaches_the_network() -> None:
    unet2d = consistency_unet()
    image, given = make_inputs(unet2d)
    condition = torch.randn(2, 8, generator=seed())
    inflated = SpaceTimeUNet.from_unet2d(unet2d)
    made = inflated(image.unsqueeze(2), timestep_cond=condition, **given).sample[:, :, 0]
    expected = unet2d(image, timestep_cond=condition, **given).sample
    torch.testing.assert_close(made, expected)
    assert not torch.allclose(expected, unet2d(image, **given).sample, atol=1e-3)
    with pytest.raises(ValueError, match=r"timestep_cond has shape \(2, 7\); expected \(2, 8\)"):
        inflated(image.unsqueeze(2), timestep_cond=condition[:, :7], **given)
    plain = SpaceTimeUNet.from_unet2d(text_to_image_unet())
    with pytest.raises(ValueError, match="no time_cond_proj_dim and takes none"):
        plain(
            torch.randn(1, 3, 2, 16, 16), 3, torch.randn(1, 6, 8), timestep_cond=torch.randn(1, 8)
        )


def test_a_consistency_pipeline_embeds_the_guidance_scale() -> None:
    pipe = LumierePipeline(
        SpaceTimeUNet.from_unet2d(consistency_unet()), LCMScheduler(), num_frames=2
    )
    pipe.set_progress_bar_config(disable=True)
    seen: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["timestep_cond"]), with_kwargs=True
    )
    states = torch.randn(1, 5, 32, generator=seed())
    options = {"prompt_embeds": states, "num_inference_steps": 2, "output_type": "pt"}
    made = [pipe(guidance_scale=scale, generator=seed(), **options).frames for scale in (8.5, 1.5)]
    assert not torch.allclose(*made, atol=1e-4)
    expected = get_timestep_embedding(torch.tensor([7500.0]), 8, downscale_freq_shift=1)
    assert len(seen) == 4 and torch.equal(seen[0], expected)
    with pytest.raises(ValueError, match="takes the guidance scale as an input"):
        pipe(guidance_scale=2.0, negative_prompt_embeds=states, **options)


# --- saving and loading -----------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same_weights(one: SpaceTimeUNet, other: SpaceTimeUNet) -> bool:
    weights = other.state_dict()
    return all(torch.equal(value, weights[key]) for key, value in one.state_dict().items())


def test_variants_lie_beside_the_plain_weights(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert {"temporal.safetensors", "temporal.fp16.safetensors"} <= names(tmp_path / "unet")
    half = LumierePipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert half.unet.dtype == half.ssr_unet.dtype == torch.float16
    assert same_weights(half.unet, pipe.unet)
    assert LumierePipeline.from_pretrained(tmp_path).unet.dtype == torch.float32
    with pytest.raises(ValueError, match=r"text_to_image\.bf16\.safetensors: no such file"):
        SpaceTimeUNet.from_pretrained(tmp_path / "unet", variant="bf16")
    with pytest.raises(ValueError, match=r"variant is '\.\./x'; allowed: letters"):
        SpaceTimeUNet.from_pretrained(tmp_path / "unet", variant="../x")


def test_large_weights_are_split_and_joined(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, max_shard_size="20KB")
    parts = [name for name in names(tmp_path / "unet") if "-of-" in name]
    assert len(parts) > 2 and "temporal.safetensors" not in names(tmp_path / "unet")
    assert all((tmp_path / "unet" / part).stat().st_size < 40_000 for part in parts)
    assert same_weights(LumierePipeline.from_pretrained(tmp_path).unet, pipe.unet)
    pipe.unet.save_pretrained(tmp_path / "unet")  # whole again: no part is left
    assert not any("-of-" in name or "index" in name for name in names(tmp_path / "unet"))
    assert same_weights(SpaceTimeUNet.from_pretrained(tmp_path / "unet"), pipe.unet)


def test_only_the_main_process_writes(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    pipe.unet.save_pretrained(tmp_path / "one", is_main_process=True, save_function=torch.save)
    assert same_weights(SpaceTimeUNet.from_pretrained(tmp_path / "one"), pipe.unet)
    with pytest.raises(ValueError, match="safe_serialization is False; weights are stored as"):
        pipe.unet.save_pretrained(tmp_path / "pickle", safe_serialization=False)


def test_loading_info_and_devices(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.save_pretrained(tmp_path)
    unet, info = SpaceTimeUNet.from_pretrained(tmp_path, output_loading_info=True)
    assert same_weights(unet, pipe.unet) and not any(info.values())
    assert set(info) == {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}
    for device_map in ("meta", {"": "meta"}):
        assert SpaceTimeUNet.from_pretrained(tmp_path, device_map=device_map).device.type == "meta"
    with pytest.raises(ValueError, match="device_map is 'auto'; allowed: a device for the whole"):
        SpaceTimeUNet.from_pretrained(tmp_path, device_map="auto")
    with pytest.raises(TypeError, match="unexpected keyword 'revison'; allowed"):
        SpaceTimeUNet.from_pretrained(tmp_path, revison="main")


def in_hub_cache(cache: Path, name: str, revision: str) -> Path:
    """The folder of a hub's model in a cache, as huggingface_hub lays it out."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    commit = f"{revision:0<40}".encode().hex()[:40]
    (home / "refs" / revision).write_text(commit)
    return home / "snapshots" / commit


def test_names_of_a_hub_with_revision_and_cache(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(in_hub_cache(tmp_path, "us/taxis", "main"))
    pipe.unet.requires_grad_(False)
    next(pipe.unet.temporal_parameters()).add_(1)
    pipe.save_pretrained(in_hub_cache(tmp_path, "us/taxis", "v2"))
    places: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    loaded = LumierePipeline.from_pretrained("us/taxis", revision="v2", **places)
    assert same_weights(loaded.unet, pipe.unet) and loaded.text_encoder is not None
    main = SpaceTimeUNet.from_pretrained("us/taxis", subfolder="unet", **places)
    assert not same_weights(main, pipe.unet)
    with pytest.raises(ValueError, match=r"us/buses: neither a folder .* nor a hub name"):
        LumierePipeline.from_pretrained("us/buses", **places)


def test_unknown_keys_of_a_config_are_kept(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.register_to_config(made_by="me")
    pipe.unet.save_pretrained(tmp_path)
    loaded = SpaceTimeUNet.from_pretrained(tmp_path)
    assert loaded.config.made_by == "me"
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()


def test_diffusers_average_of_weights_saves_and_loads(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    unet = pipe.unet
    average = EMAModel(
        unet.parameters(), decay=0.5, model_cls=SpaceTimeUNet, model_config=unet.config
    )
    average.step(unet.parameters())
    average.save_pretrained(tmp_path)
    again = EMAModel.from_pretrained(tmp_path, SpaceTimeUNet)
    assert (again.decay, again.optimization_step) == (0.5, 1)
    for shadow, parameter in zip(again.shadow_params, unet.parameters(), strict=True):
        torch.testing.assert_close(shadow, parameter)


def test_auto_model_loads_the_networks_of_a_pipeline(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    unet = AutoModel.from_pretrained(str(tmp_path), subfolder="unet")
    assert isinstance(unet, SpaceTimeUNet) and same_weights(unet, pipe.unet)


def test_a_custom_pipeline_has_text_encoder_and_styles(
    pipe: LumierePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/pipeline.py").write_text(
        "import lumiere.pipelines\n\n\n"
        "class MyPipeline(lumiere.pipelines.LumierePipeline):\n    pass\n"
    )
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    # DiffusionPipeline prefers a pipeline.py in the folder.
    pipe.save_pretrained(tmp_path / "saved", remote_code=False)
    options = {"custom_pipeline": str(tmp_path / "mine"), "trust_remote_code": True}
    for kind in (DiffusionPipeline, LumierePipeline):
        loaded = kind.from_pretrained(str(tmp_path / "saved"), **options)
        assert type(loaded).__name__ == "MyPipeline"
        assert loaded.text_encoder.name == "word-hash" and list(loaded.styles) == ["ink"]
    copied = type(loaded).from_pipe(loaded, text_encoder=None)
    assert copied.text_encoder is None


# --- components of others ---------------------------------------------------------------------------


def test_components_of_diffusers_are_refused_with_the_cure(pipe: LumierePipeline) -> None:
    message = r"unet is a UNet2DConditionModel; expected a SpaceTimeUNet: inflate .*from_unet2d"
    with pytest.raises(ValueError, match=message):
        LumierePipeline(text_to_image_unet(), pipe.scheduler)
    with pytest.raises(ValueError, match=message):
        LumiereUpscalePipeline(text_to_image_unet(), pipe.scheduler)
    message = r"text_encoder is a CLIPTextModel; expected one of lumiere\.text, such as load_text"
    with pytest.raises(ValueError, match=message):
        LumierePipeline(pipe.unet, pipe.scheduler, clip())
    pipe.text_encoder = clip()
    with pytest.raises(ValueError, match=message):
        pipe("a cat", **BASE)
    pipe.unet = text_to_image_unet()
    with pytest.raises(ValueError, match=r"unet is a UNet2DConditionModel; expected a SpaceTime"):
        pipe("a cat", **BASE)


def test_a_folder_of_stable_diffusion_needs_its_network_inflated(tmp_path: Path) -> None:
    save_stable_diffusion(tmp_path)
    components = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    index = {"_class_name": "StableDiffusionPipeline", **components}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"a StableDiffusionPipeline, whose unet is UNet2DCondi"):
        LumierePipeline.from_pretrained(tmp_path)
    unet2d = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    unet = SpaceTimeUNet.from_unet2d(unet2d)
    pipe = LumierePipeline.from_pretrained(tmp_path, unet=unet, num_frames=2)
    assert isinstance(pipe.text_encoder, DiffusersTextEncoder) and pipe.vae is not None
    pipe.set_progress_bar_config(disable=True)
    made = pipe("a cat", num_inference_steps=1, generator=seed()).frames[0]
    assert len(made) == 2 and isinstance(made[0], Image.Image)


NO_TEXT: dict[str, dict[str, Any]] = {
    "kandinsky": {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "addition_embed_type": "image",
        "encoder_hid_dim": 32,
        "encoder_hid_dim_type": "image_proj",
        "cross_attention_dim": 16,
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": None,
    },
    "audioldm": {
        **CONFIGS["sd1"],
        "cross_attention_dim": (16, 32, 32),
        "class_embed_type": "simple_projection",
        "class_embeddings_concat": True,
        "projection_class_embeddings_input_dim": 12,
    },
}
OWN_CALL: dict[str, dict[str, Any]] = {
    "kandinsky": {"added_cond_kwargs": {"image_embeds": torch.randn(2, 32, generator=seed(4))}},
    "audioldm": {"class_labels": torch.randn(2, 12, generator=seed(4))},
}


@torch.no_grad()
@pytest.mark.parametrize("name", NO_TEXT)
def test_networks_without_text_take_their_own_call(name: str) -> None:
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(**{**TINY, **NO_TEXT[name]}).eval()
    image = torch.randn(2, 4, 8, 8, generator=seed())
    call = {"encoder_hidden_states": None, **OWN_CALL[name]}
    made = SpaceTimeUNet.from_unet2d(unet2d)(image.unsqueeze(2), 500, **call).sample
    torch.testing.assert_close(
        made[:, :, 0], unet2d(image, 500, **call).sample, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["CogVideoXDPMScheduler", "HeliosScheduler"])
def test_schedulers_of_other_models_are_refused(pipe: LumierePipeline, name: str) -> None:
    pipe.scheduler = getattr(diffusers, name)(prediction_type="v_prediction")
    with pytest.raises(ValueError, match=f"scheduler is a {name}, which .*; take another, such as"):
        pipe("a cat", **BASE)


def test_continuous_timesteps_are_refused(pipe: LumierePipeline) -> None:
    kind, config = EulerDiscreteScheduler, pipe.scheduler.config
    good = pipe.ssr_scheduler
    pipe.ssr_scheduler = kind.from_config(config, timestep_type="continuous")
    with pytest.raises(ValueError, match=r"ssr_scheduler is a Euler.* with continuous timesteps"):
        pipe("a cat", **SHORT)
    pipe.scheduler, pipe.ssr_scheduler = pipe.ssr_scheduler, good
    with pytest.raises(ValueError, match=r"^scheduler is .*config, timestep_type='discrete'\)"):
        pipe("a cat", **BASE)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, timestep_type="discrete")
    assert pipe("a cat", **BASE).frames.isfinite().all()


def test_compiled_blocks_give_the_same_video(pipe: LumierePipeline) -> None:
    options: dict[str, Any] = {**BASE, "num_inference_steps": 1, "guidance_scale": 1.0}
    whole, graphs = pipe("a cat", generator=seed(), **options).frames, []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    pipe.unet.compile_repeated_blocks(backend=backend)
    made = pipe("a cat", generator=seed(), **options).frames
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-5)
    assert graphs


# --- threads, compilers and plain state dicts -------------------------------------------------------


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_noise_of_flow_matching_is_refused(pipe: LumierePipeline, name: str) -> None:
    kind, config = getattr(diffusers, name), pipe.scheduler.config
    pipe.scheduler = kind.from_config(config, use_flow_sigmas=True)
    with pytest.raises(
        ValueError, match=f"{name} with use_flow_sigmas, but .* use_flow_sigmas=False"
    ):
        pipe("a cat", **BASE)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, use_flow_sigmas=False)
    pipe.ssr_scheduler = kind.from_config(config, use_flow_sigmas=True)
    with pytest.raises(ValueError, match=f"{name} with use_flow_sigmas"):
        pipe("a cat", **SHORT)
    assert pipe("a cat", **BASE).frames.isfinite().all()


def test_threads_that_share_a_pipeline_take_turns(pipe: LumierePipeline) -> None:
    pipe.add_style("ink", {key: -value for key, value in pipe.unet.unet.state_dict().items()})
    calls: list[dict[str, Any]] = [
        {"num_inference_steps": 3},
        {"num_inference_steps": 2, "style": "ink"},
        {"num_inference_steps": 4, "guidance_scale": 1.0},
        {"num_inference_steps": 2},
    ]
    calls = [{**BASE, **call} for call in calls]
    expected = [pipe("a cat", generator=seed(), **call).frames for call in calls]
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(pipe, "a cat", generator=seed(), **call) for call in calls]
    for made, alone in zip(running, expected, strict=True):
        assert torch.equal(made.result().frames, alone)


def test_a_callback_may_not_call_its_own_pipeline(pipe: LumierePipeline) -> None:
    def nested(pipe: Any, *_: Any) -> None:
        pipe("a dog", **BASE)

    with pytest.raises(ValueError, match="a callback calls the pipeline that called it"):
        pipe("a cat", callback_on_step_end=nested, **BASE)
    enlarged = []

    def show(pipe: Any, _: int, __: Tensor, given: dict[str, Tensor]) -> None:
        frames = given["latents"].clamp(-1, 1).transpose(1, 2) / 2 + 0.5
        enlarged.append(pipe.upscaler()(frames, num_inference_steps=1, output_type="pt").frames)

    pipe("a cat", callback_on_step_end=show, **BASE)  # and the pipeline is free again
    assert enlarged[0].shape == (1, 5, 3, 32, 32)
    pipe.ssr_scheduler = pipe.scheduler  # one object for both
    pipe("a cat", **SHORT)


def test_callbacks_read_the_guidance_of_both_networks(pipe: LumierePipeline) -> None:
    seen: list[tuple[float, bool]] = []

    def read(pipe: Any, *_: Any) -> None:
        seen.append((pipe.guidance_scale, pipe.do_classifier_free_guidance))

    pipe("a cat", guidance_scale=2.0, callback_on_step_end=read, **SHORT)
    assert seen == [(2.0, True), (2.0, True), (1.0, False)]


def test_a_state_dict_is_ready_for_safetensors(pipe: LumierePipeline, tmp_path: Path) -> None:
    save_file(pipe.unet.state_dict(), tmp_path / "all.safetensors")
    loaded = load_file(tmp_path / "all.safetensors")
    own = dict(pipe.unet.named_parameters())
    assert all(torch.equal(loaded[name], value) for name, value in own.items())
    kept = pipe.unet.state_dict(keep_vars=True)
    assert all(kept[name] is value for name, value in own.items())
    assert not pipe.unet.unet.conv_in.weight.is_contiguous()  # the fast layout stays


# --- folders and values that cannot be used ---------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at-all", r"^/nowhere/at-all: no such folder; expected a folder .*, or a hub"),
        ("outputs/my/pipeline", r"^outputs/my/pipeline: no such folder"),
        ("", "a folder or a hub name is needed, not ''"),
        (None, "a folder or a hub name is needed, not None"),
        (__file__, r"test_diffusers_habits\.py: a file; expected a folder written by"),
    ],
)
@pytest.mark.parametrize("kind", [LumierePipeline, LumiereUpscalePipeline, SpaceTimeUNet])
def test_what_is_no_folder_is_called_that(kind: Any, source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind.from_pretrained(source)
    assert "repo" not in str(caught.value).lower()


@pytest.mark.parametrize("dtype", ["float16", "auto", {"unet": "float16"}])
def test_a_dtype_by_name_is_refused(pipe: LumierePipeline, tmp_path: Path, dtype: Any) -> None:
    pipe.save_pretrained(tmp_path)
    for name in ("dtype", "torch_dtype"):
        with pytest.raises(ValueError, match=rf"^{name} is .*; allowed: a torch\.dtype, such as"):
            LumierePipeline.from_pretrained(tmp_path, **{name: dtype})
    by_component = {"unet": torch.float16, "default": torch.float32}
    loaded = LumierePipeline.from_pretrained(tmp_path, dtype=by_component)
    assert (loaded.unet.dtype, loaded.ssr_unet.dtype) == (torch.float16, torch.float32)


def test_folders_of_the_other_kind(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "both")
    pipe.upscaler().save_pretrained(tmp_path / "ssr")
    with pytest.raises(ValueError, match="a pipeline's folder; add subfolder='unet'"):
        SpaceTimeUNet.from_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match=r"a LumierePipeline; .*LumierePipeline.*upscaler\(\)"):
        LumiereUpscalePipeline.from_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match=r"a LumiereUpscalePipeline; load it with that class"):
        LumierePipeline.from_pretrained(tmp_path / "ssr")
    with pytest.raises(ValueError, match=r"dtype is 'float16'; allowed: a torch\.dtype"):
        SpaceTimeUNet.from_pretrained(tmp_path / "both/unet", torch_dtype="float16")
    pipe.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()


def test_freeu_with_a_weight_of_nothing_is_refused(pipe: LumierePipeline) -> None:
    with pytest.raises(ValueError, match="s1 is 0; allowed: a number above 0"):
        pipe.enable_freeu(s1=0, s2=0.4, b1=1.3, b2=1.5)


# --- diffusers' own loaders, and hubs ---------------------------------------------------------------


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where diffusers copies the Python files of a folder before it runs them."""
    folder = tmp_path / "modules"
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_diffusers_own_loader_loads_a_folder(
    pipe: LumierePipeline, tmp_path: Path, modules: Path
) -> None:
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(str(tmp_path / "saved"))
    loaded = DiffusionPipeline.from_pretrained(str(tmp_path / "saved"), trust_remote_code=True)
    assert type(loaded) is LumierePipeline and type(loaded.ssr_unet) is SpaceTimeUNet
    assert loaded.text_encoder.name == "word-hash" and list(loaded.styles) == ["ink"]
    assert same_weights(loaded.unet, pipe.unet)
    assert modules.is_dir()
    # Our own loader runs none of the folder's code, and what it saves is the same.
    (tmp_path / "saved/pipeline.py").write_text("1 / 0\n")
    again = LumierePipeline.from_pretrained(tmp_path / "saved")
    again.save_pretrained(tmp_path / "again")
    index = "model_index.json"
    assert (tmp_path / "again" / index).read_text() == (tmp_path / "saved" / index).read_text()


def test_a_folder_without_python_files_is_the_plain_one(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path, remote_code=False)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LumierePipeline" and not list(tmp_path.rglob("*.py"))
    assert index["unet"] == ["lumiere.models.stunet", "SpaceTimeUNet"]


def test_a_network_registered_for_auto_model(
    pipe: LumierePipeline, tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpaceTimeUNet, "_auto_class", None)
    SpaceTimeUNet.register_for_auto_class()
    pipe.unet.save_pretrained(tmp_path / "net")
    loaded = AutoModel.from_pretrained(str(tmp_path / "net"), trust_remote_code=True)
    assert type(loaded) is SpaceTimeUNet and same_weights(loaded, pipe.unet)
    assert same_weights(SpaceTimeUNet.from_pretrained(tmp_path / "net"), pipe.unet)


def test_push_to_a_hub_and_load_from_it(
    pipe: LumierePipeline, tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("lumiere.pipelines.base.create_repo", lambda name, **_: RepoUrl(name))

    def upload(repo_id: str, folder_path: Path, **_: Any) -> str:
        shutil.copytree(folder_path, in_hub_cache(cache, repo_id, "main"))
        return "commit"

    monkeypatch.setattr("lumiere.pipelines.base.upload_folder", upload)
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    facts = ModelFacts(
        data="Taxis, CC0.", steps={"train_base": 60}, metrics={"flicker": 0.98}, license="mit"
    )
    assert pipe.push_to_hub("us/taxis", facts=facts) == "commit"
    places: dict[str, Any] = {"cache_dir": cache, "local_files_only": True}
    for kind in (DiffusionPipeline, LumierePipeline):
        trust = {"trust_remote_code": True} if kind is DiffusionPipeline else {}
        loaded = kind.from_pretrained("us/taxis", **places, **trust)
        assert type(loaded) is LumierePipeline and same_weights(loaded.unet, pipe.unet)
        assert loaded.text_encoder.name == "word-hash" and list(loaded.styles) == ["ink"]
    card = next(cache.rglob("README.md")).read_text()
    assert card.startswith("---\n") and "license: mit\n" in card.split("---")[1]
    for known in ("Taxis, CC0.", "- train_base: 60 steps", "| flicker | 0.98 |", "styles: ink"):
        assert known in card
    assert card.split("## Use and limits\n\n")[1].startswith("Not recorded.")
    pipe.save_pretrained(tmp_path / "buses", push_to_hub=True, repo_id="us/buses")
    assert (in_hub_cache(cache, "us/buses", "main") / "pipeline.py").is_file()


def test_a_card_knows_what_a_project_knows(pipe: LumierePipeline) -> None:
    facts = ModelFacts.of_project(REPOSITORY, license="apache-2.0")
    assert "Fluent Emoji" in facts.data and facts.steps["train_base"] > 0
    assert 0 < facts.metrics["flicker"] <= 1
    nothing = model_card(pipe, ModelFacts.of_project(REPOSITORY / "docs"))
    assert nothing.count("Not recorded.") == 5 and "license:" not in nothing
