"""The stages from the text-to-image model to the evaluation, one after the other on tiny networks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from lumiere import sample_files
from lumiere.cli.app import app
from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.pixel_values import from_unit_range
from lumiere.data.video_io import read_video, write_video
from lumiere.diffusion.objective import make_scheduler
from lumiere.distilled import DistilledSettings, read_distilled
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import load_scheduler
from lumiere.models.unet_builders import build_ssr_unet
from lumiere.pipelines import LumierePipeline, LumierePipelineOutput
from lumiere.pipelines.evaluation_sets import make_clips, write_sets
from lumiere.pipelines.input_files import Clips
from lumiere.pipelines.run_request import check_request, complete_request, run_request
from lumiere.pipelines.sample_videos import read_videos
from lumiere.tracking import Run
from lumiere.training.diffusion_task import Batch, DiffusionTask
from lumiere.training.distillation_task import DistillationTask
from lumiere.training.space_time_task import SpaceTimeTask
from lumiere.training.ssr_task import SuperResolutionTask
from tests.stages.conftest import (
    FPS,
    FRAMES,
    LARGE,
    PARAMS,
    SIZE,
    STYLE,
    TOKENS,
    run_stage,
    write_clips,
)
from tests.video_factory import numbered

GIVEN = {"image", "inpaint", "outpaint", "cinemagraph"}  # rows that were given pixels to keep


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


def generate(root: Path, name: str) -> LumierePipelineOutput:
    """A row of the prompts file, with the pipeline that the generate stage saved."""
    pipe = LumierePipeline.from_pretrained(root / "outputs" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    config = GenerateConfig(**PARAMS["generate"])
    _, request = read_videos(root / "data" / "prompts.csv", config.seed)[name]
    pixels = check_request(pipe, request, Clips(root / "outputs" / "clips"))
    request = complete_request(pipe, request, pixels.num_frames, config.seed)
    return run_request(pipe, request, pixels.arguments)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_only_temporal_weights_are_trained(chain: Path) -> None:
    t2i = load_text_to_image(chain / "outputs" / "t2i")
    base, conditioned = (
        SpaceTimeUNet.from_pretrained(chain / "outputs" / n) for n in ("base", "conditioned")
    )
    spatial = t2i.unet.state_dict()
    assert equal(base.unet.state_dict(), spatial) and equal(conditioned.unet.state_dict(), spatial)
    fresh = SpaceTimeUNet.from_unet2d(t2i.unet)
    temporal = base.temporal_state_dict()
    # Zero at the start, and so moved by training alone, whatever the seed.
    started_at_zero = {n for n, value in fresh.temporal_state_dict().items() if not value.any()}
    assert started_at_zero and any(temporal[name].any() for name in started_at_zero)
    further = conditioned.temporal_state_dict()
    assert any(not torch.equal(value, further[name]) for name, value in temporal.items())
    assert further["conv_in_conditioning.weight"].any()  # zero at the start


def test_a_distilled_network_learns_with_all_its_weights_and_keeps_its_steps(chain: Path) -> None:
    teacher, student = (
        SpaceTimeUNet.from_pretrained(chain / "outputs" / n) for n in ("conditioned", "distilled")
    )
    assert teacher.config == student.config
    after = student.state_dict()
    moved = {n for n, value in teacher.state_dict().items() if not torch.equal(value, after[n])}
    assert any(n.startswith("unet.") for n in moved) and any("inflation" in n for n in moved)
    settings = read_distilled(chain / "outputs" / "distilled")
    assert settings == DistilledSettings(num_inference_steps=2, noise_correlation=0.0)
    scheduler = load_scheduler(chain / "outputs" / "distilled" / "scheduler")
    assert scheduler.config.timestep_spacing == "trailing"


def test_nothing_is_distilled_in_no_steps(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "distilled"
    out.mkdir()
    (out / "old").touch()
    run_stage(chain, "distil", {"distil": {"optim": {"steps": 0}}}, out=out)
    assert list(out.iterdir()) == []


def test_networks_keep_the_length_of_text_that_they_were_trained_with(chain: Path) -> None:
    for name in ("t2i", "base", "conditioned", "distilled", "pipeline"):
        config = json.loads(
            (chain / "outputs" / name / "text_encoder" / "text_encoder.json").read_text()
        )
        assert config == {"name": "minilm", "max_tokens": TOKENS}, name


def test_a_blend_is_a_straight_line_between_weights(chain: Path) -> None:
    original = load_text_to_image(chain / "outputs" / "t2i").unet.state_dict()
    style = load_file(chain / "outputs" / "style" / f"{STYLE}.safetensors")
    half, whole = (
        load_file(chain / "outputs" / "blended" / STYLE / f"{alpha}.safetensors")
        for alpha in (0.5, 1.0)
    )
    assert equal(whole, style) and not equal(style, original)
    for name, value in half.items():
        torch.testing.assert_close(value, (style[name] + original[name]) / 2)


def test_losses_are_kept_beside_the_weights(chain: Path) -> None:
    names = {
        "t2i": "t2i",
        "base": "train_base",
        "conditioned": "train_conditioned",
        "distilled": "distil",
        "style": "train_style",
    }
    for folder, name in {**names, "ssr": "train_ssr"}.items():
        record = json.loads((chain / "outputs" / folder / f"{name}.json").read_text())
        assert [step for step, _ in record["loss"]] == [2, 3]
        assert [step for step, _ in record["validation_loss"]] == (
            [] if folder == "style" else [2, 3]
        )
        assert (chain / "outputs" / folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (chain / "outputs" / "ssr" / "ssr_image.json").is_file()


def test_no_training_state_is_left(chain: Path) -> None:
    left = {path.name for path in (chain / ".lumiere" / "scratch").glob("*/*")}
    assert left <= {"features", "changes.html"}  # of the evaluation


# --- the same bytes --------------------------------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, task: type, name: str, step: int) -> None:
    plain = task.example  # type: ignore[attr-defined]

    def example(self: DiffusionTask[Any], position: int) -> Batch:
        if position == step * self.config.batch_size and self.name == name:
            raise KeyboardInterrupt
        return plain(self, position)

    monkeypatch.setattr(task, "example", example)


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("stage, folder, task", [
    ("train_base", "base", SpaceTimeTask), ("train_ssr", "ssr", SuperResolutionTask),
    ("distil", "distilled", DistillationTask),
])  # fmt: skip
def test_a_stage_writes_the_same_bytes_again_and_after_an_interruption(
    stage: str, folder: str, task: type, interrupted: bool, chain: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    paths = {"out": tmp_path / folder, "scratch": tmp_path / "scratch"}
    if interrupted:
        with monkeypatch.context() as patch:
            stop_at(patch, task, stage, 2)
            with pytest.raises(KeyboardInterrupt):
                run_stage(chain, stage, **paths)
        assert list((tmp_path / "scratch").glob(f"*/{stage}/step-0000002"))
    run_stage(chain, stage, **paths)
    assert (f"{stage}: resuming at step 2 of 3" in capfd.readouterr().out) == interrupted
    assert contents(tmp_path / folder) == contents(chain / "outputs" / folder)


def test_other_params_do_not_resume(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = {"out": tmp_path / "base", "scratch": tmp_path / "scratch"}
    with monkeypatch.context() as patch:
        stop_at(patch, SpaceTimeTask, "train_base", 2)
        with pytest.raises(KeyboardInterrupt):
            run_stage(chain, "train_base", **paths)
    run_stage(chain, "train_base", {"train_base": {"resampling_init": "he"}}, **paths)
    assert "resuming at" not in capfd.readouterr().out


def test_generate_writes_the_same_bytes_again(chain: Path, tmp_path: Path) -> None:
    run_stage(chain, "generate", out=tmp_path / "videos", pipeline=tmp_path / "pipeline")
    for name in ("videos", "pipeline"):
        assert contents(tmp_path / name) == contents(chain / "outputs" / name)


# --- starting from what is given -------------------------------------------------------------------------------------


def test_a_text_to_image_model_is_taken_from_a_folder(chain: Path, tmp_path: Path) -> None:
    source = str(chain / "outputs" / "t2i")
    run_stage(chain, "prepare_t2i", {"prepare_t2i": {"source": source}}, out=tmp_path / "t2i")
    weights = (
        load_text_to_image(folder).unet.state_dict() for folder in (source, tmp_path / "t2i")
    )
    assert equal(*weights)


def test_temporal_weights_are_taken_from_a_folder(chain: Path, tmp_path: Path) -> None:
    for stage, folder in (
        ("train_base", "base"),
        ("train_conditioned", "conditioned"),
        ("train_ssr", "ssr"),
    ):
        given, section = str(chain / "outputs" / folder), {"optim": {"steps": 0}}
        if stage == "train_ssr":
            section["image_optim"] = {"steps": 0}
        run_stage(chain, stage, {stage: {**section, "init_from": given}}, out=tmp_path / folder)
        wanted, made = (
            load_file(path / "temporal.safetensors") for path in (Path(given), tmp_path / folder)
        )
        if stage == "train_conditioned":  # all else comes from the base network
            wanted = load_file(chain / "outputs" / "base" / "temporal.safetensors") | {
                name: value
                for name, value in wanted.items()
                if name.startswith("conv_in_conditioning.")
            }
        assert equal(wanted, made), stage


def test_the_training_of_an_image_network_goes_on_from_a_folder(
    chain: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    build_ssr_unet(2 * LARGE, (16, 32), 2).save_pretrained(tmp_path / "given" / "unet")
    make_scheduler().save_pretrained(tmp_path / "given" / "scheduler")
    none = {"steps": 0}
    section = {"image_init_from": str(tmp_path / "given"), "image_optim": none, "optim": none}
    run_stage(chain, "train_ssr", {"train_ssr": section}, out=tmp_path / "ssr")
    given = load_file(tmp_path / "given" / "unet" / "diffusion_pytorch_model.safetensors")
    made = SpaceTimeUNet.from_pretrained(tmp_path / "ssr").unet
    weights = made.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in given.items())
    assert made.config.sample_size == LARGE  # as in the params, not as in the folder


def test_nothing_need_be_held_out(chain: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", held_out=0)
    for stage, folder in (("prepare_t2i", "t2i"), ("train_base", "base"), ("train_ssr", "ssr")):
        run_stage(chain, stage, clips=tmp_path / "clips", out=tmp_path / folder)
        record = json.loads(
            next((tmp_path / folder).glob(f"{stage.replace('prepare_', '')}.json")).read_text()
        )
        assert record["loss"] and not record["validation_loss"]


def test_a_style_of_ten_pictures_holds_one_out(chain: Path, tmp_path: Path) -> None:
    style = tmp_path / "styles" / STYLE
    style.mkdir(parents=True)
    for i in range(10):
        Image.fromarray(numbered(1, subject=i)[0]).save(style / f"{i}.png")
    rows = [f"{i}.png,an ink drawing of {i}" for i in range(10)]
    (style / "captions.csv").write_text(
        "\n".join(["image,caption", *rows]) + "\n", encoding="utf-8"
    )
    run_stage(chain, "train_style", styles=tmp_path / "styles", out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "train_style.json").read_text())
    assert [step for step, _ in record["validation_loss"]] == [2, 3]


@pytest.mark.parametrize("stage, names", [
    ("prepare_t2i", ["t2i-0000002.png", "t2i-0000003.png"]),
    ("train_style", ["train_style-0000002.png", "train_style-0000003.png"]),
    ("train_ssr", [
        "ssr_image-0000002.png", "ssr_image-0000003.png", "train_ssr-0000002.mp4", "train_ssr-0000003.mp4",
    ]),
])  # fmt: skip
def test_stages_show_samples_and_write_the_same_bytes(
    stage: str, names: list[str], chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(
        Run, "log_artifact", lambda run, path, folder="": shown.append((folder, path.name))
    )
    run_stage(chain, stage, {"runtime": {"sample_every": 2}}, out=tmp_path / "out")
    assert [name for folder, name in shown if folder == "samples"] == names
    folder = {"prepare_t2i": "t2i", "train_style": "style", "train_ssr": "ssr"}[stage]
    assert contents(tmp_path / "out") == contents(chain / "outputs" / folder)


# --- videos ----------------------------------------------------------------------------------------------------------


def test_every_video_plays(chain: Path) -> None:
    videos = chain / "outputs" / "videos"
    names = json.loads((videos / "index.json").read_text())
    assert names == ["text", "image", "inpaint", "outpaint", "cinemagraph", "edit"]
    for name in names:
        with av.open(str(videos / f"{name}.mp4")) as container:
            (stream,) = container.streams
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate == FPS
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert np.stack(frames).shape == (FRAMES, LARGE, LARGE, 3)
        info = json.loads((videos / f"{name}.json").read_text())
        assert info["name"] == name and info["frames"] == FRAMES and info["fps"] == FPS
        assert (info["base_size"], info["size"]) == ([SIZE, SIZE], [LARGE, LARGE])
        assert (videos / f"{name}.sheet.png").is_file() and (videos / f"{name}.xt.png").is_file()


def test_the_known_pixels_are_the_clips_own(chain: Path) -> None:
    videos, clips = chain / "outputs" / "videos", chain / "outputs" / "clips"
    assert {path.name.split(".")[0] for path in videos.glob("*.known.npz")} == GIVEN
    stores = ClipStore(clips), ClipStore(clips, "validation")
    real = {
        entry["clip_id"]: store[i].frames
        for store in stores
        for i, entry in enumerate(store.entries)
    }
    for name in GIVEN:
        with np.load(videos / f"{name}.known.npz") as arrays:
            generated, known, mask = (arrays[key] for key in ("generated", "known", "known_mask"))
        assert generated.shape == known.shape == (FRAMES, LARGE, LARGE, 3) and mask.shape == (
            FRAMES,
            LARGE,
            LARGE,
        )
        assert set(np.unique(mask)) == {0, 1}
        clip = real[json.loads((videos / f"{name}.json").read_text())["clip"]]
        if name == "cinemagraph":
            clip = np.repeat(clip[:1], FRAMES, axis=0)
        if name != "outpaint":  # which makes the clip smaller still
            assert np.abs(known.astype(int) - clip)[mask == 1].max() <= 1
    masks = {name: np.load(videos / f"{name}.known.npz")["known_mask"] for name in GIVEN}
    assert masks["image"][0].all() and not masks["image"][1:].any()
    assert (
        not masks["inpaint"][:, :, : LARGE // 2].any()
        and masks["inpaint"][:, :, LARGE // 2 :].all()
    )
    assert (
        masks["outpaint"][:, 4:-4, 4:-4].all()
        and masks["outpaint"].sum() == FRAMES * (LARGE - 8) ** 2
    )
    assert masks["cinemagraph"][0].all() and masks["cinemagraph"][1:].sum() == (FRAMES - 1) * (
        LARGE**2 - (LARGE // 2) ** 2
    )


@pytest.mark.parametrize("name", ["text", "inpaint", "edit"])
def test_the_saved_pipeline_makes_the_same_video(name: str, chain: Path, tmp_path: Path) -> None:
    output = generate(chain, name)
    videos = chain / "outputs" / "videos"
    frames = from_unit_range(output.frames[0])
    luma = [
        made @ np.array([0.299, 0.587, 0.114])
        for made in (read_video(videos / f"{name}.mp4", fps=FPS), frames)
    ]
    # Of 255; the colour of single pixels is lost in yuv420p.
    assert np.abs(luma[0] - luma[1]).mean() < 10
    write_video(tmp_path / "again.mp4", frames, FPS)
    assert (tmp_path / "again.mp4").read_bytes() == (videos / f"{name}.mp4").read_bytes()
    if name in GIVEN:
        with np.load(videos / f"{name}.known.npz") as arrays:
            assert np.array_equal(arrays["generated"], frames)


@pytest.mark.parametrize("name", ["text", "image", "inpaint", "outpaint", "cinemagraph", "edit"])
def test_the_command_line_makes_a_video_again_from_its_sidecar(
    name: str, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar has the same form as those of the command line; pixels come from the project's clips."""
    monkeypatch.chdir(chain)
    source = chain / "outputs" / "videos" / name
    result = CliRunner().invoke(
        app, ["generate", "--from-json", f"{source}.json", "-o", str(tmp_path / f"{name}.mp4")]
    )
    assert result.exit_code == 0 and "note:" not in result.stderr, result.output
    assert (tmp_path / f"{name}.mp4").read_bytes() == source.with_suffix(".mp4").read_bytes()
    stages_own, again = (
        json.loads(path.with_suffix(".json").read_text()) for path in (source, tmp_path / name)
    )
    assert again.items() >= stages_own.items()
    if stages_own["clip"]:
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["generate", "--from-json", f"{source}.json", "-o", "a/"])
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert f"clip {stages_own['clip']} is not available" in result.stderr


def test_a_style_changes_the_video(chain: Path) -> None:
    """The row's own style and none, all else alike."""
    pipe = LumierePipeline.from_pretrained(chain / "outputs" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert list(pipe.styles) == [STYLE]
    made = [
        pipe(
            "a cat",
            num_inference_steps=2,
            upscale=False,
            output_type="pt",
            style=style,
            alpha=alpha,
            generator=torch.Generator().manual_seed(0),
        )
        for style, alpha in ((None, None), (STYLE, 0.5), (STYLE, 1.0), (STYLE, 0.504))
    ]
    distances = [float((entry.frames - made[0].frames).abs().mean()) for entry in made[1:]]
    assert all(distance > 0 for distance in distances) and not torch.equal(
        made[1].frames, made[3].frames
    )


def test_the_evaluations_sets_are_complete(chain: Path) -> None:
    videos, store = chain / "outputs" / "videos", ClipStore(chain / "outputs" / "clips")
    sets = {name: sample_files.read_set(videos, name) for name in sample_files.SETS}
    sizes = {name: len(clips) for name, clips in sets.items()}
    # two prompts at alpha 0, 0.5 and 1; two videos with and without MultiDiffusion
    assert sizes == {
        "text_to_video": 4, "held_out": 2, "image_to_video": 3, "styles": 6, "seams": 4,
    }  # fmt: skip
    training = {entry["clip_id"] for entry in store.entries}
    for name, clips in sets.items():
        side = SIZE if name != "seams" else LARGE // 2  # of the middle 8 of 16 pixels
        for entry, frames in clips:
            assert frames.shape == (FRAMES, side, side, 3) and entry.fps == FPS
            assert entry.held_out == (name == "held_out") == (entry.clip_id not in training)
            animal = entry.clip_id.removesuffix("@0")
            assert (entry.prompt, entry.subject) == (f"a {animal}", f"{animal}.mp4")


def test_one_prompt_has_the_same_seed_at_every_alpha(chain: Path) -> None:
    clips = sample_files.read_set(chain / "outputs" / "videos", "styles")
    alphas = [(entry.style, entry.alpha) for entry in clips.entries[::2]]
    assert alphas == [(STYLE, 0.0), (STYLE, 0.5), (STYLE, 1.0)]
    for first in (0, 1):
        entries = clips.entries[first::2]
        assert len({(entry.prompt, entry.seed) for entry in entries}) == 1
        made = [clips.frames(first + 2 * i).astype(int) for i in range(3)]
        assert np.abs(made[1] - made[0]).mean() > 0 and np.abs(made[2] - made[0]).mean() > 0


def test_seams_are_the_same_clips_with_and_without_multidiffusion(chain: Path) -> None:
    clips = sample_files.read_set(chain / "outputs" / "videos", "seams")
    low = sample_files.read_set(chain / "outputs" / "videos", "text_to_video")
    for number in range(2):
        reconciled, apart = clips.entries[2 * number : 2 * number + 2]
        assert (reconciled.multidiffusion, reconciled.overlap) == (True, 1)
        assert (apart.multidiffusion, apart.overlap) == (False, 0)
        assert reconciled.clip_id == apart.clip_id == low.entries[number].clip_id
        assert not np.array_equal(clips.frames(2 * number), clips.frames(2 * number + 1))


def test_an_entry_makes_the_same_clip_alone(chain: Path) -> None:
    """A clip does not depend on the clips that are made beside it."""
    videos = chain / "outputs" / "videos"
    clips = Clips(chain / "outputs" / "clips")
    pipe = LumierePipeline.from_pretrained(chain / "outputs" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    for name, index in (
        ("text_to_video", 2),
        ("held_out", 1),
        ("styles", 5),
        ("image_to_video", 1),
    ):
        made = sample_files.read_set(videos, name)
        entry = made.entries[index]
        image = (lambda entry: clips.frames(entry.clip_id)[0]) if "image" in name else None
        [(_, alone)] = make_clips(pipe, [entry], 1, name, image)
        assert np.abs(alone.astype(int) - made.frames(index)).max() <= 1, name


def test_sets_may_be_empty(chain: Path, tmp_path: Path) -> None:
    pipe = LumierePipeline.from_pretrained(chain / "outputs" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    none = {"held_out_set_size": 0, "image_set_size": 0, "style_prompts": 0, "seam_videos": 1}
    config = GenerateConfig(**{**PARAMS["generate"], **none})
    sizes = write_sets(pipe, Clips(chain / "outputs" / "clips"), config, tmp_path)
    assert sizes == {
        "text_to_video": 4, "held_out": 0, "image_to_video": 0, "styles": 0, "seams": 2,
    }  # fmt: skip
    for name, size in sizes.items():
        assert len(sample_files.read_set(tmp_path, name)) == size


def test_every_metric_is_a_number(chain: Path) -> None:
    metrics = json.loads((chain / "outputs" / "metrics" / "evaluate.json").read_text())
    assert all(math.isfinite(value) for value in metrics.values())
    assert {
        f"known_psnr_{mode}"
        for mode in ("image_to_video", "inpainting", "outpainting", "cinemagraph")
    } <= set(metrics)
    assert metrics["num_generated"] == 4
    assert metrics["independent_frechet"] > metrics["independent_frechet_floor"] >= 0
    assert (chain / "outputs" / "evaluation" / "report.html").is_file()
