"""Other people's text-to-image models: a pipeline of diffusers becomes a T2I, is inflated, trains
and samples.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate

from lumiere import hub_folders
from lumiere.config import TextOptimConfig
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import TextToImage, load_scheduler
from lumiere.pipelines import LumierePipeline
from lumiere.text import load_text_encoder
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.space_time_task import SpaceTimeTask
from tests.models.zoo import CONFIGS, TEXT_DIM
from tests.text.pipelines import (
    SD_SCHEDULERS,
    Sentences,
    clip,
    if_scheduler,
    if_unet,
    save_clip_pipeline,
    save_if,
    save_stable_diffusion,
    t5,
    tokenizer,
    vae,
)

FRAMES, SIZE = 3, 8


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("IF")
    save_if(folder)
    return folder


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("SD")
    save_stable_diffusion(folder)
    return folder


# --- what is loaded -------------------------------------------------------------------------------


def test_a_pipelines_folder_is_a_text_to_image_model(deepfloyd: Path) -> None:
    t2i = load_text_to_image(deepfloyd)
    assert (t2i.text_encoder, t2i.max_text_tokens) == (f"diffusers:{deepfloyd}", 77)
    assert t2i.unet.dtype == torch.float32 and t2i.unet.config.out_channels == 6
    weights = t2i.unet.state_dict()
    for name, value in if_unet().state_dict().items():
        assert torch.equal(weights[name], value)
    stored = if_scheduler()
    assert (
        type(t2i.scheduler) is DDPMScheduler and t2i.scheduler.config.variance_type == "fixed_small"
    )
    assert t2i.scheduler.config.thresholding and t2i.scheduler.config.sample_max_value == 1.5
    assert torch.equal(t2i.scheduler.alphas_cumprod, stored.alphas_cumprod)


def test_it_comes_back_as_a_folder_of_ours(
    deepfloyd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deepfloyd.parent)
    t2i = load_text_to_image(f"./{deepfloyd.name}/")
    t2i.save(tmp_path)
    assert [path.name for path in (tmp_path / "text_encoder").iterdir()] == ["text_encoder.json"]
    loaded = load_text_to_image(tmp_path)
    assert (loaded.text_encoder, loaded.max_text_tokens) == (f"diffusers:{deepfloyd.name}", 77)
    assert loaded.scheduler.config.variance_type == "fixed_small"
    again = loaded.unet.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in t2i.unet.state_dict().items())


def test_the_tokenizer_may_take_fewer_tokens(tmp_path: Path) -> None:
    save_clip_pipeline(tmp_path, positions=16)
    assert load_text_to_image(tmp_path).max_text_tokens == 16


def test_a_hub_name_fetches_all_its_parts(deepfloyd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert name == "someone/tiny-if" and ignore_patterns
        fetched.extend(allow_patterns)
        return str(deepfloyd)

    monkeypatch.setattr(hub_folders, "snapshot_download", download)
    t2i = load_text_to_image("someone/tiny-if")
    assert t2i.text_encoder == "diffusers:someone/tiny-if"
    assert {
        "unet/*.safetensors",
        "text_encoder/*.safetensors",
        "tokenizer/*.model",
        "scheduler/*.json",
    } <= {*fetched}
    assert {"vae/*.safetensors", "vae/*.json"} <= {*fetched}
    assert not any(pattern.endswith((".bin", "/*", ".ckpt")) for pattern in fetched)


@pytest.mark.parametrize("kind", SD_SCHEDULERS)
def test_a_latent_model_has_its_vae_frozen_and_its_size_in_pixels(
    kind: str, tmp_path: Path
) -> None:
    save_stable_diffusion(tmp_path / "model", kind)
    vae().half().save_pretrained(tmp_path / "model" / "vae")
    t2i = load_text_to_image(tmp_path / "model")
    assert (t2i.size, t2i.unet.config.sample_size, t2i.max_text_tokens) == (16, 8, 77)
    assert t2i.scheduler.alphas_cumprod[-1] > 1e-3  # no zero terminal SNR
    t2i.save(tmp_path / "ours")
    for loaded in (t2i, load_text_to_image(tmp_path / "ours")):
        assert type(loaded.scheduler).__name__ == SD_SCHEDULERS[kind]["_class_name"]
        assert (
            loaded.vae is not None and loaded.vae.dtype == torch.float32 and not loaded.vae.training
        )
        assert not any(p.requires_grad for p in loaded.vae.parameters())
        weights = loaded.vae.state_dict()
        for name, value in vae().half().state_dict().items():
            assert torch.equal(weights[name], value.float())


def test_weights_of_a_vae_may_have_the_names_of_old(stable_diffusion: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5's has: its attention was a class of its own once."""
    shutil.copytree(stable_diffusion, tmp_path / "model")
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    assert any(".query." in key for key in state)
    save_file(state, weights, {"format": "pt"})
    loaded = load_text_to_image(tmp_path / "model").vae
    assert loaded is not None
    again = loaded.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in vae().state_dict().items())


def test_a_latent_model_is_used_at_another_size(stable_diffusion: Path, tmp_path: Path) -> None:
    t2i = load_text_to_image(stable_diffusion)
    t2i.use_at(16)
    assert t2i.trained_size is None
    for size in (20, 33):  # latents of 10 cannot be halved twice; 33 pixels are no whole latents
        with pytest.raises(
            ValueError, match=rf"size {size}; allowed: 16, .* of 8, since it halves latents of 2"
        ):
            t2i.use_at(size)
    t2i.use_at(24)
    t2i.save(tmp_path)
    assert json.loads((tmp_path / "size.json").read_text()) == {"trained": 16, "used": 24}
    again = load_text_to_image(tmp_path)
    assert (again.size, again.unet.config.sample_size, again.trained_size) == (24, 12, 16)


# --- what it is used for --------------------------------------------------------------------------


def folders(kind: str, folder: Path) -> TextToImage:
    (save_if if kind == "if" else save_clip_pipeline)(folder)
    return load_text_to_image(folder)


@torch.no_grad()
def test_inflated_it_equals_the_model_as_its_own_pipeline_calls_it(tmp_path: Path) -> None:
    pipe = save_if(tmp_path)
    t2i = load_text_to_image(tmp_path)
    embeds, mask = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens).encode(["a cat runs"])
    own_embeds, _ = pipe.encode_prompt(
        "a cat runs", do_classifier_free_guidance=False, device="cpu"
    )
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = pipe.unet(image, 500, encoder_hidden_states=own_embeds).sample
    unet = SpaceTimeUNet.from_unet2d(t2i.unet).eval()
    ours = unet(image.unsqueeze(2).expand(-1, -1, FRAMES, -1, -1), 500, embeds, mask).sample
    torch.testing.assert_close(ours, expected.unsqueeze(2).expand_as(ours), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("kind", ["if", "clip"])
def test_it_trains(kind: str, conditioned: bool, tmp_path: Path) -> None:
    t2i = folders(kind, tmp_path)
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    clips = Sentences(encoder, SIZE, FRAMES)
    unet = SpaceTimeUNet.from_unet2d(t2i.unet, conditioning_channels=4 if conditioned else 0)
    common: Any = ("base", unet, t2i.scheduler, clips, clips, TextOptimConfig(batch_size=2))
    if conditioned:
        task: SpaceTimeTask = ConditionedTask(*common, mask_weights={"first_frame": 1.0})
    else:
        task = SpaceTimeTask(*common)
    loss = task.losses(unet, default_collate([task.example(i) for i in range(2)])).mean()
    loss.backward()
    assert loss.isfinite() and any(
        p.grad is not None and p.grad.any() for p in unet.temporal_parameters()
    )
    assert all(p.grad is None for p in unet.spatial_parameters())


@pytest.mark.parametrize("solver", [None, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("kind", ["if", "clip"])
def test_it_samples_with_and_without_guidance_and_comes_back(
    kind: str, solver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t2i = folders(kind, tmp_path / "model")
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    scheduler = t2i.scheduler if solver is None else solver.from_config(t2i.scheduler.config)
    pipe = LumierePipeline(
        SpaceTimeUNet.from_unet2d(t2i.unet).eval(), scheduler, encoder, num_frames=FRAMES
    )
    pipe.save_pretrained(tmp_path / "pipeline")
    for scale in (1.0, 3.0):
        settings: dict[str, Any] = {
            "num_inference_steps": 2,
            "output_type": "pt",
            "guidance_scale": scale,
            "window_size": 2,
            "overlap": 1,
        }
        made = []
        for each in (pipe, LumierePipeline.from_pretrained(tmp_path / "pipeline")):
            each.set_progress_bar_config(disable=True)
            made.append(
                each(
                    ["a cat", "a dog"], generator=torch.Generator().manual_seed(0), **settings
                ).frames
            )
        assert made[0].shape == (2, FRAMES, 3, SIZE, SIZE) and made[0].isfinite().all()
        assert torch.equal(*made)


@torch.no_grad()
def test_a_learned_variance_changes_no_sample(deepfloyd: Path) -> None:
    """The channels behind the mean may hold anything, in guidance's rescaling too."""
    t2i = load_text_to_image(deepfloyd)
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    made = []
    for offset in (0.0, 100.0):
        t2i.unet.conv_out.bias[3:] += offset
        pipe = LumierePipeline(
            SpaceTimeUNet.from_unet2d(t2i.unet).eval(), t2i.scheduler, encoder, num_frames=FRAMES
        )
        pipe.set_progress_bar_config(disable=True)
        made.append(
            pipe(
                "a cat",
                num_inference_steps=2,
                output_type="pt",
                generator=torch.Generator().manual_seed(0),
            ).frames
        )
    assert torch.equal(*made)


def test_a_scheduler_that_wants_the_learned_variance_is_told(deepfloyd: Path) -> None:
    t2i = load_text_to_image(deepfloyd)
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    pipe = LumierePipeline(SpaceTimeUNet.from_unet2d(t2i.unet).eval(), if_scheduler(), encoder)
    with pytest.raises(
        ValueError, match=r"variance_type 'learned_range', but .* variance_type='fixed_small'\)"
    ):
        pipe("a cat", num_inference_steps=2)


# --- what cannot be used --------------------------------------------------------------------------


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("changes, expected", [
    ({"in_channels": 4}, "of a latent model, without its VAE; allowed: a pipeline's folder that has vae/, or"),
    ({"in_channels": 6}, "takes 6 channels and gives 6; allowed: 3, and 3 or"),
    ({"out_channels": 8}, "takes 3 channels and gives 8; allowed: 3, and 3 or"),
    ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'; allowed: none, because the stages"),
    ({"addition_embed_type": "text_time"}, "addition_embed_type 'text_time'; allowed: none or 'text'"),
    ({"encoder_hid_dim": 48}, f"takes text 48 wide, but its text encoder gives {TEXT_DIM}"),
    ({"encoder_hid_dim": None, "cross_attention_dim": [32, 64]}, r"takes text \[32, 64\] wide, but"),
    ({"_class_name": "UNet2DModel"}, "a UNet2DModel; allowed: UNet2DConditionModel"),
])  # fmt: skip
def test_a_network_that_the_stages_cannot_train_is_told(
    changes: dict[str, Any], expected: str, deepfloyd: Path, tmp_path: Path
) -> None:
    shutil.copytree(deepfloyd, tmp_path / "model")
    change_config(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=expected) as error:
        load_text_to_image(tmp_path / "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes, expected", [
    (CONFIGS["sd_inpainting"], "takes 9 channels and gives 4; allowed: 4, and 4 or, .*: a text-to-image model, not"),
    (CONFIGS["sdxl"], r"addition_embed_type 'text_time'; allowed: .* the text of one encoder \(SDXL takes more\)"),
    ({"in_channels": 3, "out_channels": 3}, "takes 3 channels and gives 3; allowed: 4, and 4 or"),
])  # fmt: skip
def test_a_latent_network_that_the_stages_cannot_train_is_told(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    save_stable_diffusion(tmp_path, **changes)
    with pytest.raises(ValueError, match=expected) as error:
        load_text_to_image(tmp_path)
    assert "\n" not in str(error.value)


def test_a_vae_that_cannot_be_read_is_told(stable_diffusion: Path, tmp_path: Path) -> None:
    shutil.copytree(stable_diffusion, tmp_path / "model")
    folder = tmp_path / "model" / "vae"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="vae: no VAE can be read"):
        load_text_to_image(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(
        ValueError, match=f"vae: a AutoencoderTiny; allowed: {AutoencoderKL.__name__}"
    ):
        load_text_to_image(tmp_path / "model")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"vae/config\.json: no such file; expected a VAE"):
        load_text_to_image(tmp_path / "model")


def test_what_a_pipeline_lacks_is_told(deepfloyd: Path, tmp_path: Path) -> None:
    for part in ("unet/config.json", "scheduler/scheduler_config.json", "text_encoder/config.json"):
        folder = tmp_path / part.split("/")[0]
        shutil.copytree(deepfloyd, folder)
        (folder / part).unlink()
        with pytest.raises(ValueError, match=part.split("/")[0]) as error:
            load_text_to_image(folder)
        assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "unet" / "tokenizer")
    shutil.copy(deepfloyd / "unet" / "config.json", tmp_path / "unet" / "unet")
    with pytest.raises(ValueError, match="tokenizer: no such folder"):
        load_text_to_image(tmp_path / "unet")


def test_weights_are_neither_pickles_nor_made_up(deepfloyd: Path, tmp_path: Path) -> None:
    shutil.copytree(deepfloyd, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file(
        {name: value for name, value in state.items() if name != "conv_out.bias"},
        weights,
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"'conv_out\.bias'"):
        load_text_to_image(tmp_path / "model")
    weights.unlink()
    torch.save(state, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="unet: no U-Net can be read") as error:
        load_text_to_image(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_scheduler_without_a_discrete_schedule_is_told(tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod; allowed"
    ):
        load_scheduler(tmp_path)


def test_a_text_encoder_of_another_width_is_told(tmp_path: Path) -> None:
    save_if(tmp_path, text_encoder=t5(width=16), tokenizer=tokenizer())
    with pytest.raises(
        ValueError, match=f"takes text {TEXT_DIM} wide, but its text encoder gives 16"
    ):
        load_text_to_image(tmp_path)
    clip().save_pretrained(tmp_path / "text_encoder")
    assert load_text_to_image(tmp_path).max_text_tokens == 77
