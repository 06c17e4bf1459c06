"""Training in latents: Stable Diffusion's kind of model, from its folder to the pipeline that generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from lumiere.config import LaunchConfig, RuntimeConfig, TextOptimConfig
from lumiere.data.pixel_values import bytes_to_model
from lumiere.data.prepare import embed_captions
from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.data.video_io import read_video
from lumiere.diffusion.noise import draw_noise, video_generators
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.pipelines import LumierePipeline, LumierePipelineOutput
from lumiere.pipelines.assemble import assemble_pipeline
from lumiere.text import load_text_encoder
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.diffusion_task import Batch
from lumiere.training.image_task import TextToImageTask
from lumiere.training.loop import train
from lumiere.training.parallel import Parallel
from lumiere.training.preview import SamplePreview
from lumiere.training.space_time_task import SpaceTimeTask
from lumiere.training.state import trained_parameters
from lumiere.training.throughput import count_flops
from tests.models.zoo import randomise_temporal
from tests.stages.conftest import STYLE, few_validations, run_stage
from tests.text.pipelines import SD_SCHEDULERS, Sentences, clip, save_stable_diffusion, tokenizer
from tests.video_factory import numbered

FRAMES, SIZE, LATENTS = 3, 16, (4, 3, 8, 8)
CONFIG = TextOptimConfig(
    batch_size=2, steps=2, warmup_steps=1, checkpoint_every=1, log_every=1, validate_every=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5, tiny."""
    folder = tmp_path_factory.mktemp("SD")
    save_stable_diffusion(folder)
    return folder


def make_task(folder: Path, mask_kind: str = "") -> SpaceTimeTask:
    """Base training, or conditioned training with one kind of mask."""
    t2i = load_text_to_image(folder)
    clips = Sentences(load_text_encoder(t2i.text_encoder, t2i.max_text_tokens), t2i.size, FRAMES)
    torch.manual_seed(0)
    unet = SpaceTimeUNet.from_unet2d(t2i.unet, conditioning_channels=5 if mask_kind else 0)
    common: Any = ("base", unet, t2i.scheduler, clips, clips, CONFIG, t2i.vae)
    if mask_kind:
        return ConditionedTask(*common, mask_weights={mask_kind: 1.0})
    return SpaceTimeTask(*common)


def batch_of(task: Any) -> Batch:
    return default_collate([task.example(i) for i in range(CONFIG.batch_size)])


def call_with(task: SpaceTimeTask, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, C and M."""
    sample = task.noised(batch).inputs.model_input
    assert sample.shape[1:] == (9, *LATENTS[1:])
    return sample[:, :4], sample[:, 4:8], sample[:, 8:]


# --- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_kind", ["", "first_frame"])
@pytest.mark.parametrize("kind", SD_SCHEDULERS)
def test_temporal_parameters_learn_and_nothing_else(
    kind: str, mask_kind: str, tmp_path: Path
) -> None:
    save_stable_diffusion(tmp_path, kind)
    task = make_task(tmp_path, mask_kind)
    assert batch_of(task)["prompt_embeds"].shape[1] == 77
    losses = task.losses(task.network, batch_of(task))
    losses.mean().backward()
    assert losses.shape == (2,) and losses.isfinite().all() and (losses > 0).all()
    trained = trained_parameters(task.network)
    assert [name for name in trained if name.startswith("unet.")] == []
    assert any(p.grad is not None and p.grad.any() for p in trained.values())
    frozen = [*task.space.vae.parameters(), *task.network.spatial_parameters()]
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("kind", SD_SCHEDULERS)
def test_the_objective_is_stable_diffusions(kind: str, tmp_path: Path) -> None:
    """Noise and target as diffusers' own training scripts have them, on latents as its pipeline scales them."""
    save_stable_diffusion(tmp_path, kind)
    task = make_task(tmp_path)
    batch, noised = batch_of(task), task.noised(batch_of(task))
    with torch.no_grad():
        latents = (
            task.space.vae.encode(bytes_to_model(batch["video"])[:, :, 1]).latent_dist.mode()
            * 0.18215
        )
    x_0, noise, timesteps = noised.x_0, noised.noise, noised.inputs.timesteps
    torch.testing.assert_close(x_0[:, :, 1], latents)
    plain = DDPMScheduler.from_config(SD_SCHEDULERS[kind])
    torch.testing.assert_close(noised.inputs.sample, plain.add_noise(x_0, noise, timesteps))
    target = plain.get_velocity(x_0, noise, timesteps) if kind == "sd2" else noise
    assert task.objective.losses(target, x_0, noise, timesteps).max() < 1e-10


def test_a_picture_is_trained_on_as_a_clip_of_one_frame(folder: Path) -> None:
    t2i = load_text_to_image(folder)
    clips = Sentences(load_text_encoder(t2i.text_encoder), SIZE)
    task = TextToImageTask("style", t2i.unet, t2i.scheduler, clips, clips, CONFIG, t2i.vae)
    batch = batch_of(task)
    noised = task.noised(batch)
    assert noised.inputs.model_input.shape == (2, 4, 8, 8)
    torch.testing.assert_close(
        noised.x_0, task.space.encode(bytes_to_model(batch["video"]))[:, :, 0]
    )
    task.losses(t2i.unet, batch).mean().backward()
    assert all(p.grad is None for p in t2i.vae.parameters())  # type: ignore[union-attr]


# --- what is known ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask_kind", ["text_only", "first_frame", "inpainting_box", "outpainting", "cinemagraph"]
)
def test_c_and_m_tell_nothing_of_hidden_pixels(mask_kind: str, folder: Path) -> None:
    task = make_task(folder, mask_kind)
    batch = batch_of(task)
    hidden = (batch["known_mask"] == 0).expand_as(batch["video"])
    other = batch | {"video": torch.where(hidden, 255 - batch["video"], batch["video"])}
    (x_t, c, m), (other_x_t, other_c, other_m) = call_with(task, batch), call_with(task, other)
    assert (
        hidden.any()
        and torch.equal(c, other_c)
        and torch.equal(m, other_m)
        and not torch.equal(x_t, other_x_t)
    )
    assert set(m.unique().tolist()) <= {0.0, 1.0} and not (c * (1 - m)).any()
    assert bool(m.any()) == (mask_kind != "text_only")


@torch.no_grad()
@pytest.mark.parametrize(
    "mask_kind, frames", [("text_only", []), ("first_frame", [2]), ("outpainting", [6])]
)
def test_only_frames_that_are_known_go_through_the_vae_twice(
    mask_kind: str, frames: list[int], folder: Path
) -> None:
    task, sizes = make_task(folder, mask_kind), []
    task.space.vae.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    _, c, m = call_with(task, batch := batch_of(task))
    assert sizes == [2 * FRAMES, *frames]
    known = bytes_to_model(batch["video"]) * batch["known_mask"]
    torch.testing.assert_close(c, task.space.encode(known) * m, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_c_and_m_are_those_of_generation(folder: Path) -> None:
    task = make_task(folder, "first_frame")
    batch = batch_of(task)
    _, c, m = call_with(task, batch)
    pipe = LumierePipeline(
        task.network.eval(), load_text_to_image(folder).scheduler, vae=task.space.vae
    )
    pipe.set_progress_bar_config(disable=True)
    seen: list[torch.Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pipe(
        image=batch["video"][:, :, 0] / 255, prompt_embeds=batch["prompt_embeds"], num_frames=FRAMES,
        guidance_scale=1, num_inference_steps=1,
    )  # fmt: skip
    torch.testing.assert_close(seen[0][:, 4:], torch.cat([c, m], dim=1), atol=1e-5, rtol=1e-5)


# --- around a step ---------------------------------------------------------------------------------------------------


def test_a_vae_keeps_its_precision_and_has_its_frames_in_parts(folder: Path) -> None:
    task, sizes = make_task(folder), []
    plain = task.noised(batch_of(task)).x_0
    task.space.vae.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    task.space.frames_per_batch = 4
    with torch.autocast("cpu", torch.bfloat16):
        x_0 = task.noised(batch_of(task)).x_0
    assert sizes == [4, 2] and x_0.dtype == torch.float32 and not x_0.requires_grad
    torch.testing.assert_close(x_0, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask_kind", ["", "first_frame"])
def test_a_vae_is_neither_run_nor_counted_where_operations_are(
    mask_kind: str, folder: Path
) -> None:
    task, runs = make_task(folder, mask_kind), []
    inputs = task.noised(batch_of(task)).inputs
    task.space.vae.encoder.register_forward_pre_hook(lambda _, args: runs.append(len(args[0])))
    assert task.flops(batch_of(task)) == count_flops(task.network, *inputs.arguments()) > 0
    assert runs == []


@pytest.mark.parametrize("kind", SD_SCHEDULERS)
def test_a_preview_shows_pixels(kind: str, tmp_path: Path) -> None:
    save_stable_diffusion(tmp_path / "model", kind)
    task, shown = make_task(tmp_path / "model", "first_frame"), []
    task.validation_clips = 2
    preview = SamplePreview(task, RuntimeConfig(sample_every=1), tmp_path, shown.append, 16)
    assert not preview.scheduler.config.clip_sample
    with torch.no_grad():
        preview(task.network, Parallel(LaunchConfig()), 1)
    assert read_video(shown[0], 16).shape == (FRAMES, 96, 2 * 96, 3)


def test_state_of_a_training_holds_no_vae(folder: Path, tmp_path: Path) -> None:
    task = make_task(folder, "first_frame")
    task.validation_clips = 2
    before = {name: value.clone() for name, value in task.space.vae.state_dict().items()}
    result = train(task, tmp_path)
    assert result.losses and result.validation
    assert all(
        torch.equal(value, before[name]) for name, value in task.space.vae.state_dict().items()
    )
    stored = [name for path in tmp_path.rglob("*.safetensors") for name in load_file(path)]
    assert stored and not any("encoder." in name or "quant_conv" in name for name in stored)


# --- the stages ------------------------------------------------------------------------------------------------------


def write_clips(folder: Path, text_encoder: str) -> None:
    """Three clips of a frame size above the model's, one of them held out."""
    encoder = load_text_encoder(text_encoder, 77)
    captions = ["a cat runs", "a red dog", "a dog runs"]
    embeddings = embed_captions([*captions, ""], encoder)
    samples = []
    for i, caption in enumerate(captions):
        embeds, mask = embeddings[caption]
        info = {
            "clip_id": f"{i}@0",
            "video": f"{i}.mp4",
            "start": 0.0,
            "captions": [caption],
            "fps": 16,
        }
        frames = numbered(FRAMES, subject=i, height=32, width=96)[:, :, :32]
        samples.append(Sample(pack_frames(frames), np.stack([embeds]), np.stack([mask]), info))
    folder.mkdir(parents=True)
    splits = {"train": write_shards(folder, "train", samples[:2], 64)}
    splits["validation"] = write_shards(folder, "validation", samples[2:], 64)
    write_null_text(folder, *embeddings[""])
    settings: dict[str, Any] = {
        "fps": 16,
        "num_frames": FRAMES,
        "size": 32,
        "text_encoder": text_encoder,
    }
    write_index(folder, splits, **settings, embed_dim=encoder.embed_dim, max_text_tokens=77)


def test_from_a_pipelines_folder_to_a_generated_video(folder: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "outputs" / "clips", f"diffusers:{folder}")
    style = tmp_path / "data" / "styles" / STYLE
    style.mkdir(parents=True)
    Image.fromarray(numbered(1, subject=0)[0]).save(style / "cat.png")
    (style / "captions.csv").write_text("image,caption\ncat.png,a red cat\n")
    with few_validations():
        run_stage(tmp_path, "prepare_t2i", {"prepare_t2i": {"source": str(folder)}})
        for name in ("train_base", "train_conditioned", "train_style"):
            run_stage(tmp_path, name)
    outputs = tmp_path / "outputs"
    weights = Path("vae") / "diffusion_pytorch_model.safetensors"
    for made in ("t2i", "base", "conditioned"):
        assert (outputs / made / weights).read_bytes() == (folder / weights).read_bytes()
    pipe = assemble_pipeline(outputs / "conditioned", None, None, num_frames=FRAMES)
    pipe.save_pretrained(tmp_path / "pipeline")
    videos = []
    for each in (pipe, LumierePipeline.from_pretrained(tmp_path / "pipeline")):
        each.set_progress_bar_config(disable=True)
        options: dict[str, Any] = {
            "num_inference_steps": 2,
            "output_type": "pt",
            "generator": torch.Generator().manual_seed(0),
        }
        output = each(
            "a cat runs",
            image=torch.rand(1, 3, SIZE, SIZE, generator=options["generator"]),
            **options,
        )
        assert isinstance(output, LumierePipelineOutput) and output.frames.shape == (
            1,
            FRAMES,
            3,
            SIZE,
            SIZE,
        )
        videos.append(output.frames)
    torch.testing.assert_close(*videos, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SD_SCHEDULERS)
def test_untrained_it_paints_what_stable_diffusion_does(kind: str, tmp_path: Path) -> None:
    save_stable_diffusion(tmp_path, kind)
    t2i = load_text_to_image(tmp_path)
    unet = SpaceTimeUNet.from_unet2d(t2i.unet).eval()
    encoder = load_text_encoder(t2i.text_encoder, 77)
    pipe = LumierePipeline(unet, t2i.scheduler, encoder, vae=t2i.vae, guidance_rescale=0.0)
    own = StableDiffusionPipeline(
        t2i.vae,
        clip(),
        tokenizer(start="<s>"),
        t2i.unet,
        t2i.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    generators = video_generators(torch.Generator().manual_seed(0), 1)
    video_generators(generators, 1)  # those of super-resolution come first
    noise = draw_noise((1, 4, 1, 8, 8), generators, torch.device("cpu"))
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}
    for each in (pipe, own):
        each.set_progress_bar_config(disable=True)
    expected = own("a cat runs", latents=noise[:, :, 0], **options).images
    ours = pipe(
        "a cat runs", num_frames=1, generator=torch.Generator().manual_seed(0), **options
    ).frames[:, 0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    randomise_temporal(unet)
    moved = pipe(
        "a cat runs", num_frames=1, generator=torch.Generator().manual_seed(0), **options
    ).frames[:, 0]
    assert not torch.allclose(moved, expected, atol=1e-3)
