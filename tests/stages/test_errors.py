"""What a user can mend ends in one line that names the file, the key or row and what is allowed; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.stages.conftest import PROMPTS, run_stage

# stage, values in its section -> what the line must hold, besides params.yaml
BAD_PARAMS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (
        "prepare_t2i",
        {"source": "nowhere/at-all"},
        ("prepare_t2i.source", "nowhere/at-all", "unet/"),
    ),
    (
        "prepare_t2i",
        {"source": "data/half"},
        (
            "prepare_t2i.source",
            "data/half: neither text_encoder/text_encoder.json",
            "name a folder",
        ),
    ),
    ("prepare_t2i", {"source": "data/no weights"}, ("prepare_t2i.source", "data/no weights/unet")),
    ("prepare_t2i", {"size": 4}, ("prepare_t2i.size", "4", "at least 8")),
    (
        "prepare_t2i",
        {"block_out_channels": [24]},
        ("prepare_t2i.block_out_channels", "24", "multiple of 16"),
    ),
    (
        "train_base",
        {"init_from": "nowhere"},
        ("train_base.init_from", "nowhere/temporal.safetensors"),
    ),
    (
        "train_base",
        {"init_from": "outputs/ssr"},
        ("train_base.init_from", "ssr/temporal.json", "in_channels 6"),
    ),
    (
        "train_base",
        {"init_from": "data/half"},
        ("train_base.init_from", "half/temporal.safetensors", "not a whole"),
    ),
    (
        "train_base",
        {"resampling_init": "zeros"},
        ("train_base.resampling_init", "zeros", "nearest, he"),
    ),
    (
        "train_conditioned",
        {"init_from": "outputs/base"},
        ("train_conditioned.init_from", "conditioning_channels 0"),
    ),
    (
        "train_conditioned",
        {"mask_weights": {"loop": 1.0}},
        ("train_conditioned.mask_weights.loop", "inpainting"),
    ),
    ("distil", {"teacher_steps": 14}, ("distil: teacher_steps is 14", "1000 timesteps")),
    ("train_ssr", {"image_model": "nowhere"}, ("train_ssr.image_model", "nowhere")),
    ("train_ssr", {"image_model": "data/half"}, ("train_ssr.image_model", "data/half")),
    (
        "train_ssr",
        {"image_model": "outputs/t2i"},
        ("train_ssr.image_model", "outputs/t2i", "channels"),
    ),
    ("train_ssr", {"image_init_from": "nowhere"}, ("train_ssr.image_init_from", "nowhere")),
    ("train_ssr", {"image_init_from": "data/half"}, ("train_ssr.image_init_from", "data/half")),
    (
        "train_ssr",
        {"image_init_from": "data/half", "image_model": "outputs/t2i"},
        ("train_ssr.image_init_from", "data/half", "image_model"),
    ),
    ("train_ssr", {"init_from": "nowhere"}, ("train_ssr.init_from", "nowhere")),
    ("train_ssr", {"window_size": 9}, ("train_ssr.window_size", "9", "decode.num_frames (8)")),
    ("train_ssr", {"crop": 64}, ("train_ssr.crop", "64", "train_ssr.size (32)")),
    ("train_style", {"style": "oil"}, ("train_style.style", "oil/captions.csv", "image,caption")),
    ("blend_style", {"alphas": [1.5]}, ("blend_style.alphas", "1.5", "0 to 1")),
    ("generate", {"overlap": 4}, ("generate.overlap", "4", "window_size")),
    ("generate", {"num_frames": 12}, ("prompts.csv", "inpaint:", "generate.num_frames", "12", "8")),
    (
        "generate",
        {"guidance_type": "auto", "guide_unet": "nowhere"},
        ("generate.guide_unet", "nowhere/temporal.safetensors"),
    ),
    (
        "generate",
        {"guide_unet": "outputs/base"},
        ("generate.guide_unet", "takes 0 conditioning channels, unet 4"),
    ),
    ("evaluate", {"judge": "nowhere"}, ("nowhere",)),
    ("evaluate", {"num_videos": 5}, ("evaluate.num_videos", "5", "generate.set_size (4)")),
]
# a row of the prompts file -> what the line must hold, besides the file
BAD_ROWS: dict[str, tuple[str, ...]] = {
    "a b,text_to_video,a cat,,,,,": ("line 2", "name", "a b"),
    "a,text-to-video,a cat,,,,,": ("line 2", "mode", "text_to_video"),
    "a,text_to_video,,,,,,": ("line 2", "prompt"),
    "a,text_to_video,a cat,dog@0,,,,": ("line 2", "takes no clip"),
    "a,image_to_video,a cat,,,,,": ("line 2", "takes image, last_image or both"),
    "a,image_to_video,a cat,lion@0,,,,": ("a:", "lion@0", "cat@0"),
    "a,inpainting,a cat,dog@0,,,,": ("line 2", "takes video and mask; given: video"),
    'a,inpainting,a cat,dog@0,"0,0,1",,,': ("line 2", "mask", "x0,y0,x1,y1"),
    'a,inpainting,a cat,dog@0,"0.5,0,0.5,1",,,': ("line 2", "mask", "x0 < x1"),
    'a,inpainting,a cat,dog@0,"0,0,0.01,1",,,': ("a:", "mask", "no pixel"),
    "a,text_to_video,a cat,,,oil,1.0,": ("a:", "oil", "ink-wash"),
    "a,text_to_video,a cat,,,ink-wash,1.5,": ("line 2", "alpha", "1.5", "0 to 1"),
    "a,video_to_video,a cat,dog@0,,,,strong": ("line 2", "strength", "strong"),
    "a,text_to_video,a cat,,,,,\na,text_to_video,a dog,,,,,": (
        "line 3",
        "two rows have the name 'a'",
    ),
    "index,text_to_video,a cat,,,,,": ("line 2", "the name 'index' is taken"),
    "a,text_to_video,a cat,,,,0.5,": ("line 2", "name a style, or leave alpha out"),
    "": ("no rows",),
}


@pytest.fixture(scope="module", autouse=True)
def unfinished_models(chain: Path) -> None:
    """Models that arrived in part."""
    (chain / "data" / "half" / "unet").mkdir(parents=True)
    (chain / "data" / "half" / "temporal.safetensors").write_bytes(b"half")
    shutil.copytree(chain / "outputs" / "t2i", chain / "data" / "no weights")
    next((chain / "data" / "no weights" / "unet").glob("*.safetensors")).unlink()


def error_of(
    capfd: pytest.CaptureFixture[str], root: Path, stage: str, *args: Any, **paths: Path
) -> str:
    """The one line in which a stage ends."""
    with pytest.raises(SystemExit) as stopped:
        run_stage(root, stage, *args, **paths)
    assert stopped.value.code == 1
    lines = [
        line
        for line in capfd.readouterr().err.splitlines()
        if line.startswith(("error:", "Traceback"))
    ]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "stage, values, expected",
    BAD_PARAMS,
    ids=lambda v: str(v) if isinstance(v, (str, dict)) else "",
)
def test_params(
    stage: str, values: dict[str, Any], expected: tuple[str, ...], chain: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = error_of(capfd, chain, stage, {stage: values}, out=tmp_path / "out")
    for part in (
        *expected,
        *(["params.yaml"] if values not in ({"judge": "nowhere"}, {"num_frames": 12}) else []),
    ):
        assert part in line, line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", BAD_ROWS)
def test_prompts(row: str, chain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(PROMPTS.splitlines()[0] + "\n" + row + "\n", encoding="utf-8")
    line = error_of(
        capfd,
        chain,
        "generate",
        prompts=prompts,
        out=tmp_path / "out",
        pipeline=tmp_path / "pipeline",
    )
    for part in (str(prompts), *BAD_ROWS[row]):
        assert part in line, line
    assert not (tmp_path / "out").exists() and not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize(
    "header, expected", [("name,mode", "no column 'prompt'"), ("name,mode,prompt,x", "'x'")]
)
def test_columns(
    header: str, expected: str, chain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(header + "\n", encoding="utf-8")
    assert expected in error_of(capfd, chain, "generate", prompts=prompts)
    assert "no such file" in error_of(capfd, chain, "generate", prompts=tmp_path / "nowhere.csv")


def test_a_text_to_image_model_of_another_text_length(
    chain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pooled text embedding sees padding, so clips of another length would train another model."""
    encoder = chain / "outputs" / "t2i" / "text_encoder" / "text_encoder.json"
    before = encoder.read_text()
    encoder.write_text(before.replace("8", "32"))
    try:
        line = error_of(capfd, chain, "prepare_t2i", {"prepare_t2i": {"source": "outputs/t2i"}})
    finally:
        encoder.write_text(before)
    assert "decode.max_text_tokens: 8; allowed: 32" in line


# input, what is done to it -> the stage that reads it and what the line must hold
BAD_INPUTS = {
    "clips without an index": ("train_base", "clips", "index.json", None, "index.json"),
    "a shard cut short": (
        "train_ssr",
        "clips",
        "train-00000.tar",
        "half",
        "train-00000.tar: 4 bytes; by index.json",
    ),
    "a shard that is missing": (
        "train_base",
        "clips",
        "validation-00000.tar",
        None,
        "no such file; by index.json",
    ),
    "clips of another form": (
        "train_base",
        "clips",
        "index.json",
        "{}",
        "index.json: clips in another format",
    ),
    "half a text-to-image model": ("train_base", "t2i", "unet/config.json", "{", "unet"),
    "half a base": (
        "train_conditioned",
        "base",
        "temporal.safetensors",
        "half",
        "temporal.safetensors",
    ),
    "half a conditioned network": (
        "generate",
        "conditioned",
        "temporal.safetensors",
        "half",
        "temporal.safetensors",
    ),
    "half a style": (
        "blend_style",
        "style",
        "ink-wash.safetensors",
        "half",
        "ink-wash.safetensors",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_inputs(name: str, chain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage, argument, file, content, expected = BAD_INPUTS[name]
    damaged = tmp_path / argument
    shutil.copytree(chain / "outputs" / argument, damaged)
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_text(content)
    paths = {argument: damaged, "out": tmp_path / "out"}
    line = error_of(capfd, chain, stage, **paths)
    assert str(damaged) in line and expected in line
    # One cure, and no other: a stage makes the input again.
    assert line.endswith("; `dvc repro` makes what a stage needs")
    assert "copy it again" not in line and "decode stage" not in line
    assert not (tmp_path / "out").exists()
    shutil.rmtree(damaged)
    assert f"--{argument} {damaged}: no such file or folder" in error_of(
        capfd, chain, stage, **paths
    )
