"""Other people's text-to-image models: a pipeline of diffusers becomes a T2I, is inflated, trains and samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lumiere.compat  # noqa: F401  before diffusers

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from lumiere.config import OptimConfig
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import TextToImage, load_scheduler, load_text_to_image
from lumiere.pipelines import LumierePipeline
from lumiere.text import hub as hub_module
from lumiere.text import load_text_encoder
from lumiere.training.captioned import CaptionedClips
from lumiere.training.video import SpaceTimeTask
from tests.models.zoo import TEXT_DIM
from tests.text.pipelines import clip, if_scheduler, if_unet, save_clip_pipeline, save_if, t5, tokenizer

FRAMES, SIZE = 3, 8


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("IF")
    save_if(folder)
    return folder


# --- what is loaded --------------------------------------------------------------------------------------------------


def test_a_pipelines_folder_is_a_text_to_image_model(deepfloyd: Path) -> None:
    t2i = load_text_to_image(deepfloyd)
    assert (t2i.text_encoder, t2i.max_text_tokens) == (f"diffusers:{deepfloyd}", 77)
    assert t2i.unet.dtype == torch.float32 and t2i.unet.config.out_channels == 6
    for name, value in if_unet().state_dict().items():
        assert torch.equal(t2i.unet.state_dict()[name], value)
    stored = if_scheduler()
    assert type(t2i.scheduler) is DDPMScheduler and t2i.scheduler.config.variance_type == "fixed_small"
    assert t2i.scheduler.config.thresholding and t2i.scheduler.config.sample_max_value == 1.5
    assert torch.equal(t2i.scheduler.alphas_cumprod, stored.alphas_cumprod)


def test_it_comes_back_as_a_folder_of_ours(deepfloyd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(deepfloyd.parent)
    t2i = load_text_to_image(f"./{deepfloyd.name}/")
    t2i.save(tmp_path)
    assert [path.name for path in (tmp_path / "text_encoder").iterdir()] == ["text_encoder.json"]
    loaded = load_text_to_image(tmp_path)
    assert (loaded.text_encoder, loaded.max_text_tokens) == (f"diffusers:{deepfloyd.name}", 77)
    assert loaded.scheduler.config.variance_type == "fixed_small"
    assert all(torch.equal(v, loaded.unet.state_dict()[k]) for k, v in t2i.unet.state_dict().items())


def test_the_tokenizer_may_take_fewer_tokens(tmp_path: Path) -> None:
    save_clip_pipeline(tmp_path, positions=16)
    assert load_text_to_image(tmp_path).max_text_tokens == 16


def test_a_hub_name_fetches_all_its_parts(deepfloyd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert name == "someone/tiny-if" and ignore_patterns
        fetched.extend(allow_patterns)
        return str(deepfloyd)

    monkeypatch.setattr(hub_module, "snapshot_download", download)
    t2i = load_text_to_image("someone/tiny-if")
    assert t2i.text_encoder == "diffusers:someone/tiny-if"
    assert {"unet/*.safetensors", "text_encoder/*.safetensors", "tokenizer/*.model", "scheduler/*.json"} <= {*fetched}
    assert not any(pattern.endswith((".bin", "/*", ".ckpt")) for pattern in fetched)


# --- what it is used for ---------------------------------------------------------------------------------------------


def folders(kind: str, folder: Path) -> TextToImage:
    (save_if if kind == "if" else save_clip_pipeline)(folder)
    return load_text_to_image(folder)


@torch.no_grad()
def test_inflated_it_equals_the_model_as_its_own_pipeline_calls_it(tmp_path: Path) -> None:
    pipe = save_if(tmp_path)
    t2i = load_text_to_image(tmp_path)
    embeds, mask = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens).encode(["a cat runs"])
    own_embeds, _ = pipe.encode_prompt("a cat runs", do_classifier_free_guidance=False, device="cpu")
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
    embeds, masks = encoder.encode(["a cat runs", "a red dog"])
    videos = torch.randint(0, 256, (2, 3, FRAMES, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    clips = CaptionedClips(videos.byte(), list(embeds[:, None]), list(masks[:, None]), *encoder.encode([""]))
    unet = SpaceTimeUNet.from_unet2d(t2i.unet, conditioning_channels=4 if conditioned else 0)
    mix = {"first_frame": 1.0} if conditioned else None
    task = SpaceTimeTask("base", unet, t2i.scheduler, clips, clips, OptimConfig(batch_size=2), mix)
    loss = task.loss(0)
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in unet.temporal_parameters())
    assert all(p.grad is None for p in unet.spatial_parameters())


@pytest.mark.parametrize("solver", [None, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("kind", ["if", "clip"])
def test_it_samples_with_and_without_guidance_and_comes_back(
    kind: str, solver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t2i = folders(kind, tmp_path / "model")
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    scheduler = t2i.scheduler if solver is None else solver.from_config(t2i.scheduler.config)
    pipe = LumierePipeline(SpaceTimeUNet.from_unet2d(t2i.unet).eval(), scheduler, encoder, num_frames=FRAMES)
    pipe.save_pretrained(tmp_path / "pipeline")
    for scale in (1.0, 3.0):
        settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": scale, "window_size": 2, "overlap": 1}
        made = []
        for each in (pipe, LumierePipeline.from_pretrained(tmp_path / "pipeline")):
            each.set_progress_bar_config(disable=True)
            made.append(each(["a cat", "a dog"], generator=torch.Generator().manual_seed(0), **settings).frames)
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
        pipe = LumierePipeline(SpaceTimeUNet.from_unet2d(t2i.unet).eval(), t2i.scheduler, encoder, num_frames=FRAMES)
        pipe.set_progress_bar_config(disable=True)
        made.append(pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).frames)
    assert torch.equal(*made)


def test_a_scheduler_that_wants_the_learned_variance_is_told(deepfloyd: Path) -> None:
    t2i = load_text_to_image(deepfloyd)
    encoder = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens)
    pipe = LumierePipeline(SpaceTimeUNet.from_unet2d(t2i.unet).eval(), if_scheduler(), encoder)
    with pytest.raises(ValueError, match=r"variance_type 'learned_range', but .* variance_type='fixed_small'\)"):
        pipe("a cat", num_inference_steps=2)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("changes, expected", [
    ({"in_channels": 4}, "a latent model, which the stages do not take yet; allowed: one in pixel space, such as Deep"),
    ({"in_channels": 6}, "takes 6 channels and gives 6; allowed: 3, and 3 or"),
    ({"out_channels": 8}, "takes 3 channels and gives 8; allowed: 3, and 3 or"),
    ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'; allowed: none, as the stages"),
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


def test_a_latent_model_is_told_by_its_vae(deepfloyd: Path, tmp_path: Path) -> None:
    shutil.copytree(deepfloyd, tmp_path / "model")
    (tmp_path / "model" / "vae").mkdir()
    with pytest.raises(ValueError, match="a latent model"):
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
    save_file({name: value for name, value in state.items() if name != "conv_out.bias"}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"'conv_out\.bias'"):
        load_text_to_image(tmp_path / "model")
    weights.unlink()
    torch.save(state, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="unet: no U-Net can be read") as error:
        load_text_to_image(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_scheduler_without_a_discrete_schedule_is_told(tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod; allowed"):
        load_scheduler(tmp_path)


def test_a_text_encoder_of_another_width_is_told(tmp_path: Path) -> None:
    save_if(tmp_path, text_encoder=t5(width=16), tokenizer=tokenizer())
    with pytest.raises(ValueError, match=f"takes text {TEXT_DIM} wide, but its text encoder gives 16"):
        load_text_to_image(tmp_path)
    clip().save_pretrained(tmp_path / "text_encoder")
    assert load_text_to_image(tmp_path).max_text_tokens == 77
