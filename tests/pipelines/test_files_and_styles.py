"""Pipelines on disk, styles, and errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines import pipeline_utils
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lumiere.pipelines import LumierePipeline, LumiereUpscalePipeline
from lumiere.pipelines.input_files import open_clips
from lumiere.style import blend_style
from tests.pipelines.test_modes import IMAGE, STEPS, VIDEO, box, seed


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def style_weights(pipe: LumierePipeline) -> dict[str, Tensor]:
    torch.manual_seed(3)
    weights = pipe.unet.unet.state_dict()
    return {
        name: (value + 0.1 * torch.randn_like(value)).contiguous()
        for name, value in weights.items()
    }


def test_round_trip_gives_the_same_videos_and_the_same_bytes(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.add_style("line-art", style_weights(pipe))
    options = {"style": "line-art", "alpha": 0.6, "image": IMAGE, **STEPS}
    before = pipe("a cat", generator=seed(), **options).frames
    pipe.save_pretrained(tmp_path / "one")
    assert pipe.text_encoder is not None
    loaded = LumierePipeline.from_pretrained(tmp_path / "one")
    loaded.set_progress_bar_config(disable=True)
    assert (
        list(loaded.styles) == ["line-art"] and loaded.text_encoder.name == pipe.text_encoder.name
    )
    assert torch.equal(loaded("a cat", generator=seed(), **options).frames, before)
    loaded.save_pretrained(tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert str(tmp_path).encode() not in b"".join(files_of(tmp_path / "two").values())
    loaded.save_pretrained(tmp_path / "one")  # onto itself


def test_round_trip_without_super_resolution(base_only: LumierePipeline, tmp_path: Path) -> None:
    base_only.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    output = loaded("a cat", generator=seed(), **options)
    assert loaded.ssr_unet is None and output.base_frames is None
    assert torch.equal(output.frames, base_only("a cat", generator=seed(), **options).frames)
    other = LumierePipeline(**loaded.components)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(
        output.frames, other("a cat", num_frames=5, generator=seed(), **options).frames
    )


def test_a_folder_of_before_there_was_a_vae(base_only: LumierePipeline, tmp_path: Path) -> None:
    base_only.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index.pop("vae") == [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert LumierePipeline.from_pretrained(tmp_path).vae is None


def test_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no model_index\.json; expected a folder written by LumierePipeline"
    ):
        LumierePipeline.from_pretrained(tmp_path)


def test_style_blends_the_spatial_weights_for_one_call(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    save_file(style_weights(pipe), tmp_path / "ink.safetensors")
    pipe.add_style("ink", tmp_path / "ink.safetensors")
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    parameters = [id(parameter) for parameter in pipe.unet.parameters()]
    options = {"upscale": False, **STEPS}
    unstyled = pipe("a cat", generator=seed(), **options).frames
    assert torch.equal(
        pipe("a cat", style="ink", alpha=0.0, generator=seed(), **options).frames, unstyled
    )
    half, full = (
        pipe("a cat", style="ink", alpha=a, generator=seed(), **options).frames for a in (0.5, 1.0)
    )
    assert not torch.allclose(half, unstyled) and not torch.allclose(full, half)
    assert torch.equal(
        pipe("a cat", style="ink", alpha=0.5, generator=seed(), **options).frames, half
    )

    def fails(*_: object) -> dict[str, Tensor]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        pipe("a cat", style="ink", alpha=1.0, callback_on_step_end=fails, **options)
    after = pipe.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [id(parameter) for parameter in pipe.unet.parameters()] == parameters
    assert not any(parameter.requires_grad for parameter in pipe.unet.spatial_parameters())


def test_style_is_the_blend_of_the_paper(pipe: LumierePipeline) -> None:
    style = style_weights(pipe)
    pipe.add_style("ink", style)
    styled = pipe("a cat", style="ink", alpha=0.5, upscale=False, generator=seed(), **STEPS).frames
    mean = {name: (value + style[name]) / 2 for name, value in pipe.unet.unet.state_dict().items()}
    pipe.unet.unet.load_state_dict(mean)
    by_hand = pipe("a cat", upscale=False, generator=seed(), **STEPS).frames
    torch.testing.assert_close(styled, by_hand, rtol=0, atol=1e-4)


def test_a_blend_is_of_the_weights_that_the_network_has_now(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.add_style("ink", style_weights(pipe))
    options = {"style": "ink", "upscale": False, **STEPS}

    def make() -> Tensor:
        return pipe("a cat", alpha=0.5, generator=seed(), **options).frames

    def differs_by(change: Callable[[Tensor], Tensor]) -> bool:
        before = make()
        # Past autograd, which would count it as a version.
        change(next(pipe.unet.spatial_parameters()).data)
        return not torch.equal(make(), before)

    assert differs_by(lambda weight: weight.mul_(2))
    before = make()
    trained = style_weights(pipe)
    pipe.unet.unet.load_state_dict(trained)
    assert not torch.equal(make(), before)
    save_file(trained, tmp_path / "ink.safetensors")
    pipe.add_style("ink", tmp_path / "ink.safetensors")
    before = make()
    save_file({name: value * 1.1 for name, value in trained.items()}, tmp_path / "ink.safetensors")
    assert not torch.equal(make(), before)


def test_a_finished_blend_serves_its_own_alpha_alone(pipe: LumierePipeline, tmp_path: Path) -> None:
    options = {"style": "ink", "upscale": False, **STEPS}
    style, original = style_weights(pipe), pipe.unet.unet.state_dict()

    def make(made_by: LumierePipeline, alpha: float) -> Tensor:
        return made_by("a cat", alpha=alpha, generator=seed(), **options).frames

    pipe.add_style("ink", blend_style(original, style, 0.504), alpha=0.504)
    pipe.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    for each in (pipe, loaded):
        each.set_progress_bar_config(disable=True)
        with pytest.raises(
            ValueError,
            match=r"alpha is 0\.5, but style 'ink' only has blends of alpha 0\.504; .* alpha 1\.0",
        ):
            make(each, 0.5)
    exact = make(loaded, 0.504)
    loaded.add_style("ink", style)  # from which any blend can be made
    assert list(loaded.styles) == ["ink"]
    by_hand = make(pipe, 0.504)
    assert torch.equal(exact, by_hand) and torch.equal(make(loaded, 0.504), exact)
    assert not torch.equal(make(loaded, 0.5), exact)
    del loaded.styles._styles["ink"][0.504]
    torch.testing.assert_close(make(loaded, 0.504), exact, rtol=0, atol=1e-5)


def test_a_folder_of_styles_that_is_none(pipe: LumierePipeline, tmp_path: Path) -> None:
    save_file(style_weights(pipe), tmp_path / "ink.safetensors")
    with pytest.raises(
        ValueError,
        match=r"ink\.safetensors: not a blend; expected a name such as ink/0\.5\.safetens",
    ):
        pipe.styles.load(tmp_path)
    pipe.add_style("ink", tmp_path / "ink.safetensors")
    os.remove(tmp_path / "ink.safetensors")
    with pytest.raises(ValueError, match=r"style 'ink': .*ink\.safetensors: no such file"):
        pipe("a cat", style="ink")


def test_a_pipeline_keeps_the_settings_that_suit_it(pipe: LumierePipeline, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "num_frames": 3, "fps": 8, "num_inference_steps": 3, "guidance_scale": 1.5, "guidance_rescale": 0.3,
        "guidance_interval": [0.5, 1.0], "guidance_eta": 0.5, "guidance_threshold": 0.1, "guidance_momentum": -0.5,
        "noise_correlation": 0.5, "ssr_noise_correlation": 0.7,
        "ssr_steps": 1, "ssr_window_size": 2, "ssr_overlap": 1,
    }  # fmt: skip
    tuned = LumierePipeline(**pipe.components, **settings)
    tuned.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    for each in (tuned, loaded):
        each.set_progress_bar_config(disable=True)
    settings["output_type"] = "pt"
    given = pipe("a cat", generator=seed(), **settings)
    for each in (tuned, loaded):
        output = each("a cat", generator=seed(), output_type="pt")
        assert torch.equal(output.frames, given.frames) and output.fps == given.fps == 8
    other = loaded(
        "a cat", generator=seed(), num_inference_steps=2, output_type="pt", guidance_scale=4.0
    ).frames
    by_hand = pipe(
        "a cat",
        generator=seed(),
        **{**settings, "num_inference_steps": 2, "guidance_scale": 4.0},
    ).frames
    assert torch.equal(other, by_hand) and not torch.equal(other, given.frames)


@pytest.mark.parametrize("kind", [LumierePipeline, LumiereUpscalePipeline])
def test_loading_a_pipeline_warns_of_nothing(
    kind: type[LumierePipeline | LumiereUpscalePipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers warns of each parameter whose annotation it cannot read."""
    warned: list[str] = []
    monkeypatch.setattr(pipeline_utils.logger, "warning", warned.append)
    assert kind._get_signature_types() and warned == []


CLEAR = Image.new("RGBA", (16, 16), (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "prompt is empty; describe"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": None}, "prompt or prompt_embeds: neither is given; pass one of the two"),
        ({"prompt": [None]}, "prompt has None in it; expected a sentence"),
        ({"prompt": ["a", 3]}, "prompt has 3 in it; expected a sentence"),
        ({"negative_prompt": [None]}, "negative_prompt has None in it; expected a sentence"),
        ({"negative_prompt": 3}, "negative_prompt has 3 in it; expected a sentence"),
        ({"negative_prompt": []}, "negative_prompt has length 0 for 1 prompt"),
        ({"num_frames": 2.5}, r"num_frames is 2\.5; allowed: at least 1, whole numbers"),
        (
            {"num_inference_steps": 2.5},
            r"num_inference_steps is 2\.5; allowed: at least 1, whole numbers",
        ),
        ({"num_videos_per_prompt": None}, "num_videos_per_prompt is None; allowed: at least 1"),
        ({"height": 16.5}, r"height is 16\.5; allowed: at least 1, whole numbers"),
        ({"window_size": 2.5}, r"window_size is 2\.5; allowed"),
        (
            {"overlap": 0.5, "window_size": 2},
            r"overlap is 0\.5; allowed: at least 0, whole numbers",
        ),
        ({"batch_size": 1.5}, r"batch_size is 1\.5; allowed"),
        ({"ssr_window_size": "4"}, "ssr_window_size is '4'; allowed"),
        ({"ssr_overlap": 1.5}, r"ssr_overlap is 1\.5; allowed"),
        ({"ssr_steps": 1.5}, r"ssr_steps is 1\.5; allowed"),
        ({"noise_level": 2.5}, r"noise_level is 2\.5; allowed: 0 to 999, whole numbers"),
        ({"guidance_scale": "high"}, "guidance_scale is 'high'; allowed: at least 0"),
        ({"guidance_rescale": [1]}, r"guidance_rescale is \[1\]; allowed: 0 to 1"),
        (
            {"guidance_interval": [0.9, 0.2]},
            r"guidance_interval is \[0\.9, 0\.2\]; allowed: two numbers, 0 <= low <= high <= 1",
        ),
        ({"guidance_interval": 0.5}, r"guidance_interval is 0\.5; allowed: two numbers"),
        ({"guidance_interval": ["a", "b"]}, "guidance_interval is .*; allowed: two numbers"),
        ({"guidance_interval": [0.2, 900]}, r"guidance_interval is \[0\.2, 900\]; allowed"),
        ({"guidance_type": "apg"}, "guidance_type is 'apg'; allowed: cfg, auto"),
        ({"guidance_type": ["cfg"]}, r"guidance_type is \['cfg'\]; allowed: cfg, auto"),
        ({"guidance_eta": 1.5}, r"guidance_eta is 1\.5; allowed: 0 to 1"),
        ({"guidance_eta": float("nan")}, "guidance_eta is nan; allowed: 0 to 1"),
        ({"guidance_threshold": -1}, "guidance_threshold is -1; allowed: at least 0"),
        ({"guidance_momentum": 0.5}, r"guidance_momentum is 0\.5; allowed: -1 to 0"),
        ({"guidance_momentum": "-0.5"}, r"guidance_momentum is '-0\.5'; allowed: -1 to 0"),
        ({"long_noise": "shuffled"}, "long_noise is 'shuffled'; allowed: independent, rescheduled"),
        ({"noise_correlation": 1.5}, r"noise_correlation is 1\.5; allowed: 0 to 1"),
        ({"ssr_noise_correlation": "a"}, "ssr_noise_correlation is 'a'; allowed: 0 to 1"),
        (
            {"strength": 0.5},
            r"strength is 0\.5, but mode .text_to_video. does not .*; leave strength out",
        ),
        ({"image": IMAGE, "strength": 0.5}, r"strength is 0\.5, but mode .* set image_strength"),
        ({"video": VIDEO, "image_strength": 0.5}, r"image_strength is 0\.5, .* set strength"),
        ({"outpaint_scale": 0.5}, r"outpaint_scale is 0\.5, but mode .*; leave outpaint_scale out"),
        ({"fps": "fast"}, "fps is 'fast'; allowed"),
        ({"mode": []}, r"mode is \[\]; allowed"),
        ({"style": []}, r"style is \[\]; this pipeline has: none"),
        (
            {"generator": 5},
            r"generator is 5; allowed: torch\.Generator\(\)\.manual_seed\(n\), or one per video",
        ),
        ({"generator": [5]}, r"generator is \[5\]; allowed"),
        ({"callback_on_step_end": 5}, "callback_on_step_end is 5; allowed: a function"),
        ({"video": [VIDEO[0, 0], VIDEO[0, 0, :, :8]]}, "video: pictures of different sizes"),
        ({"video": [5]}, "video is a int; expected a tensor"),
        (
            {"prompt": ["a", "b"], "negative_prompt": ["c"] * 3},
            "negative_prompt has length 3 for 2 prompts",
        ),
        ({"mode": "dream"}, "mode is 'dream'; allowed: text_to_video"),
        ({"mode": "inpainting", "video": VIDEO}, "takes video and mask; given: video"),
        (
            {"image": IMAGE, "video": VIDEO},
            "no mode is made from image and video; allowed: text_to_video from the prompt alone",
        ),
        ({"mask": box(16, 16)}, "no mode is made from mask; allowed"),
        (
            {"image": IMAGE, "mask": box(8, 8)},
            "mask is 8 x 8 pixels, image 16 x 16; make them the same size",
        ),
        ({"image": IMAGE, "mask": torch.zeros(16, 16)}, "mask has no region; mark 1"),
        ({"image": IMAGE, "mask": box(16, 16).expand(3, -1, -1)}, "mask has 3 frames, image 1"),
        ({"video": VIDEO, "mask": box(16, 16).expand(4, -1, -1)}, "mask has 4 frames, video 5"),
        (
            {"video": VIDEO, "mask": box(8, 8)},
            "mask is 8 x 8 pixels, video 16 x 16; make them the same size",
        ),
        ({"video": VIDEO, "mask": torch.zeros(5, 16, 16)}, "mask has no region; mark 1"),
        ({"video": VIDEO[:, :0]}, "video has no frames"),
        ({"video": []}, "video has no frames"),
        ({"video": VIDEO, "num_frames": 3}, "num_frames is 3, but video has 5 frames; cut it"),
        ({"video": VIDEO, "strength": 1.5}, r"strength is 1\.5; allowed: 0"),
        ({"image": CLEAR}, "image has transparency; paste it on a background"),
        ({"image": "cat.png"}, "image is a str; expected a tensor"),
        ({"image": IMAGE * 255}, "image has values from .* expected uint8, or numbers in"),
        (
            {"image": IMAGE.expand(3, -1, -1, -1)},
            "image has length 3 for 1 prompt; pass one for all",
        ),
        ({"style": "ink"}, "style is 'ink'; this pipeline has: none"),
        (
            {"generator": [seed(), seed()]},
            "generator is a list of 2; pass one per video, 1 in all",
        ),
        ({"guidance_scale": -0.5}, r"guidance_scale is -0\.5; allowed: at least 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf; allowed: at least 0 and finite"),
        ({"guidance_scale": np.float32(-0.5)}, "guidance_scale is .*; allowed: at least 0"),
        ({"guidance_scale": np.zeros(2)}, "guidance_scale is .*; allowed: at least 0"),
        ({"num_frames": 0}, "num_frames is 0; allowed: at least 1"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; allowed: at least 1"),
        ({"window_size": 2, "overlap": 2}, "overlap 2 with window_size 2"),
        ({"batch_size": 0}, "batch_size is 0; allowed: at least 1"),
        ({"output_type": "mp4"}, "output_type is 'mp4'; allowed: pil, np, pt, latent"),
        ({"noise_level": 1000}, "noise_level is 1000; allowed: 0 to 999"),
        ({"ssr_steps": 0}, "ssr_steps is 0; allowed: at least 1"),
        ({"ssr_overlap": 4}, "overlap 4 with window_size 4"),
    ],
)
def test_bad_input_is_named_with_its_cure(
    pipe: LumierePipeline, arguments: dict, message: str
) -> None:
    pipe.unet.forward = None  # a mistake shows before any work
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "a cat", "num_inference_steps": 1, "output_type": "pt", **arguments})


def test_alpha_outside_its_range(pipe: LumierePipeline) -> None:
    pipe.add_style("ink", style_weights(pipe))
    with pytest.raises(ValueError, match=r"alpha is 1\.2; allowed: 0"):
        pipe("a cat", style="ink", alpha=1.2)
    with pytest.raises(ValueError, match=r"alpha is 0\.5, but no style is named; pass style too"):
        pipe("a cat", alpha=0.5)
    with pytest.raises(ValueError, match="alpha is 2; allowed: 0"):
        pipe.add_style("ink", {}, alpha=2)
    pipe.add_style("other", {"conv_in.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="style 'other' does not fit"):
        pipe("a cat", style="other", alpha=0.5)
    with pytest.raises(ValueError, match="letters, digits"):
        pipe.add_style("../ink", {})


def test_scheduler_of_another_prediction_type(pipe: LumierePipeline) -> None:
    pipe.scheduler = DDIMScheduler(prediction_type="epsilon")
    with pytest.raises(
        ValueError, match="prediction_type 'epsilon', but the model predicts 'v_prediction'"
    ):
        pipe("a cat")


def test_conditioned_modes_need_a_conditioned_network(base_only: LumierePipeline) -> None:
    with pytest.raises(
        ValueError, match="mode 'image_to_video' needs a network with conditioning channels"
    ):
        base_only("a cat", image=IMAGE)


def test_clips_that_are_absent_are_one_error_with_one_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index\.json: no such file\); run this in a project"):
        open_clips(tmp_path, "fox@0")
