"""Whatever is wrong: one sentence with the cure, exit code 2, and no file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lumiere.cli.app import app
from lumiere.cli.model import Model
from lumiere.pipelines import LumierePipeline
from tests.cli.conftest import Generate, names_in


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no prompt; describe the video"),
        ((" ",), "the prompt is empty; describe"),
        (("fox.GIF",), "the prompt fox.GIF looks like a file; describe the video in a sentence"),
        (("a", "--image", "@gone.png"), "gone.png: no such file; check the path"),
        (("a", "--image", "."), "is a folder; name a file in it"),
        (("a", "--image", "@text.png"), "text.png: not a picture; give a whole PNG or JPEG"),
        (("a", "--image", "@cut.png"), "cut.png: cannot be read ("),
        (("a", "--image", "@alpha.png"), "alpha.png: has transparency; put it on a background"),
        (("a", "--image", "@animated.gif"), "animated.gif: an animated picture; give one frame"),
        (
            ("a", "--image", "@deep.png"),
            "deep.png: more than 8 bits a pixel (I;16); save it as an 8-bit PNG",
        ),
        (("a", "--last-image", "@alpha.png"), "last_image"),
        (("a", "--video", "@empty.mp4"), "empty.mp4: cannot be opened"),
        (("a", "--video", "@text.png"), "give a video with pictures in it, such as an mp4"),
        (("a", "--video", "@image.png"), "image.png: a still picture; give it as image"),
        (
            ("a", "--video", "."),
            "is a folder; a folder of PNGs is not read as a video, make an mp4 of it",
        ),
        (("a", "--image", "@video.mp4"), "video.mp4: a video; give it as video"),
        (
            ("a", "--video", "@animated.webp"),
            "animated WebP is written, but not read; convert it to mp4",
        ),
        (("a", "--video", "@short.mp4", "--frames", "4"), "use at most 3, or leave frames out"),
        (
            ("a", "--image", "@image.png", "--mask", "@small.png"),
            "10 x 10 pixels, but the image has 20 x 20; make them",
        ),
        (
            ("a", "--image", "@image.png", "--mask", "@black.png"),
            "black.png: no region; paint white where to generate",
        ),
        (("a", "--image", "@image.png", "--mask", "@alpha.png"), "has transparency"),
        (
            ("a", "--image", "@image.png", "--mask", "gone.png"),
            "name a picture, a video, or a box x0,y0,x1,y1",
        ),
        (
            ("a", "--image", "@image.png", "--mask", "3,3,9,9"),
            "a box is x0,y0,x1,y1 in shares of the frame",
        ),
        (("a", "--image", "@image.png", "--mask", "0.5,0,0.5,1"), "with 0 <= x0 < x1 <= 1"),
        (
            ("a", "--image", "@image.png", "--mask", "0.5,0.5,0.51,0.51"),
            "no pixel of 20 x 20 lies in it; make the box",
        ),
        (
            ("a", "--image", "@wide.png", "--mask", "0,0,0.1,1"),
            "mask 0.0,0.0,0.1,1.0: none of it lies in the middle that is used",
        ),
        (
            ("a", "--image", "@image.png", "--last-image", "@last.jpg", "--frames", "1"),
            "frames is 1, but image and last_image are two; use at least 2 frames",
        ),
        (
            ("a", "--image", "@image.png", "--mask", "@moving.mp4"),
            "a cinemagraph takes a still mask; give a picture",
        ),
        (
            ("a", "--video", "@video.mp4", "--mask", "@short.mp4"),
            "3 frames, but the video has 5; give a still mask",
        ),
        (
            ("a", "--mask", "@mask.png"),
            "no mode is made from mask; allowed: text_to_video from the prompt alone; image_to_video from "
            "image, last_image or both; inpainting from video and mask; ",
        ),
        (
            ("a", "--cinemagraph", "--image", "@image.png"),
            "mode 'cinemagraph' takes image and mask; given: image",
        ),
        (("a", "--outpaint"), "mode 'outpainting' takes video; given: the prompt alone"),
        (
            ("a", "--image", "@image.png", "--video", "@video.mp4"),
            "no mode is made from image and video; allowed: ",
        ),
        (
            ("a", "--image", "@image.png", "--mask", "0,0,1,1", "--last-image", "@last.jpg"),
            "no mode is made from image and last_image and mask; allowed: ",
        ),
        (("a", "--style", "oil"), "has no such style; it has ink"),
        (("a", "--style", "ink", "--alpha", "1.5"), "alpha is 1.5; allowed: 0 to 1"),
        (("a", "--style", "ink", "--alpha", "nan"), "alpha is nan; allowed: 0 to 1"),
        (("a", "--alpha", "0.5"), "name a style, or leave alpha out"),
        (("a", "--strength", "0.5"), "strength has no meaning in mode text_to_video"),
        (("a", "--frames", "0"), "frames is 0; allowed: whole numbers, 1 to 10000"),
        (("a", "--frames", "2.5"), "frames is 2.5; allowed: whole numbers, 1 to 10000"),
        (("a", "--guidance", "much"), "guidance is much; allowed: 1 to 100"),
        (
            ("a", "--frames", "1000000000000"),
            "frames is 1000000000000; allowed: whole numbers, 1 to 10000",
        ),
        (
            ("a", "--num-videos", "1000000000"),
            "num_videos is 1000000000; allowed: whole numbers, 1 to 1000",
        ),
        (("a", "--steps", "1001"), "steps is 1001; allowed: whole numbers, 1 to 1000"),
        (("a", "--guidance", "inf"), "guidance is inf; allowed: 1 to 100"),
        (("a", "--motion", "-1"), "motion is -1; allowed: 0 to 100"),
        (("a", "--smoothing", "1.5"), "smoothing is 1.5; allowed: 0 to 1"),
        (("a", "--seed", "9" * 5000), "9...; allowed: whole numbers, 0 to"),
        (("a", "--seed", "-1"), "seed is -1; allowed: whole numbers, 0 to"),
        (
            ("a", "--seed", str(2**64 - 1)),
            "seed is 18446744073709551615; allowed: whole numbers, 0 to",
        ),
        (
            ("a", "--seed", str(2**63 - 2), "--num-videos", "3"),
            "the last seed would be above 9223372036854775807; use a",
        ),
        (("a", "red", "fox"), 'more than one prompt; put the sentence in quotes: "a red fox"'),
        (("a\udcff",), "which is not in UTF-8"),
        (("a", "-o", "fox.avi"), "suffix '.avi' is not written; allowed: .mp4, .webm, .gif, .webp"),
        (("a", "-o", "fox.png"), "one PNG holds one frame; name a sequence, such as fox-%03d.png"),
        (("a", "-o", "fox-%0999d.png"), "one PNG holds one frame; name a sequence, such as"),
        (("a", "-o", ".mp4"), "-o .mp4: a name is missing; name a file, such as"),
        (("a", "-o", "x" * 300 + ".mp4"), "a name of 304 bytes; use at most 200"),
        (
            ("a", "-o", "bad/x"),
            "-o bad/x: name a file, such as bad/x.mp4, or a folder for PNGs, bad/x/",
        ),
        (("a", "-o", "@folder.mp4"), "folder.mp4: is a folder; choose another name"),
        (("a", "-o", ""), "no output; name the file to write, such as -o fox.mp4"),
        (("a", "-o", "/proc/fox.mp4"), "/proc: cannot be written"),
        (("a", "-o", "@image.png/fox.mp4"), "image.png is a file, not a folder"),
        (
            ("a", "--video", "@video.mp4", "-o", "@video.mp4"),
            "video.mp4 is also --video; choose another name",
        ),
        (("a", "--device", "gpu"), "--device gpu: no such device; allowed: cpu, cuda, cuda:1, ..."),
        (
            ("a", "--from-json", "@image.png"),
            "not JSON; expected the JSON file that lumiere writes",
        ),
        (("a", "--from-file", "gone.csv"), "leave out the prompt and --from-json"),
        (("--from-file", "gone.csv"), "name a folder, or out/{name}.mp4"),
        (("--from-file", "gone.csv", "-o", ""), "no output; name the folder, such as -o videos/"),
        (
            ("--from-file", "gone.csv", "-o", "{nam}.mp4"),
            "-o {nam}.mp4: {nam} is unknown; allowed: {name}",
        ),
        (
            ("--from-file", "gone.csv", "-o", "out/{name}"),
            "name a file, such as out/{name}.mp4, or a folder",
        ),
        (("--nonsense",), "no such option: --nonsense"),
        (
            ("--from-file", "gone.csv", "-o", "videos"),
            "gone.csv: no such file; expected a CSV file",
        ),
    ],
)
def test_one_sentence_with_the_cure(
    generate: Generate, tmp_path: Path, inputs: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()}
    result = generate("-o", "new/fox.mp4", *arguments)  # the last -o counts
    assert result.exit_code == 2, result.output
    errors = [
        line for line in result.stderr.splitlines() if not line.startswith(("model: ", "note: "))
    ]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], (
        result.stderr
    )
    assert result.stdout == "" and list(tmp_path.iterdir()) == []
    assert {path: path.read_bytes() for path in inputs.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a yellow taxi", "-o", "x.mp4"),
            'no command; did you mean: lumiere generate "a yellow taxi"; see',
        ),
        (
            ("inspects",),
            "no command 'inspects'; allowed: generate, evaluate, inspect, reproduce; see",
        ),
        (("inspect", "--processes", "0"), "--help"),
        (("--colour",), "no such option: --colour; see"),
        (("generate", "a", "-o"), "-o"),
    ],
)
def test_a_call_that_is_none_is_told_in_one_sentence_too(
    arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ") and message in result.stderr


def test_no_output_and_no_model(generate: Generate, tmp_path: Path) -> None:
    assert "no output; name the file to write, such as -o fox.mp4" in generate("a fox").stderr
    result = generate("a fox", "-o", "a.mp4", "--model", str(tmp_path), with_model=False)
    assert result.exit_code == 2 and "no model_index.json; expected a folder" in result.stderr


@pytest.mark.parametrize("index", ["{}", "[]", "{"])
def test_a_model_that_is_another_program_s(generate: Generate, index: str) -> None:
    Path("model").mkdir()
    Path("model/model_index.json").write_text(index)
    result = generate("a fox", "-o", "a.mp4", "--model", "model", with_model=False)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 2, result.stderr


def test_what_is_not_ours_is_not_replaced(generate: Generate, tmp_path: Path) -> None:
    Path("fox.json").write_text('{"prompt": "mine"}')
    result = generate("a fox", "-o", "fox.mp4")
    assert (
        result.exit_code == 2
        and "fox.json is in the way, and was not written by lumiere" in result.stderr
    )
    assert names_in(tmp_path) == ["fox.json"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_out_of_memory(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(LumierePipeline, "__call__", fails)
    result = generate("a fox", "-o", "fox.mp4")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        "error: out of memory; ask for less with --frames or --num-videos"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fox.mp4", "fox.webm", "fox.gif", "fox.webp", "fox/"])
def test_a_full_disk_leaves_nothing_of_a_new_video_and_all_of_an_old_one(
    generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert generate("a fox", "-o", name).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for output in (name, f"new-{name}"):
        result = generate("a cat", "-o", output)
        assert (
            result.exit_code == 2
            and "cannot be written (No space left on device); choose another" in result.stderr
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_error_that_is_no_ones_input_is_shown_whole(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(LumierePipeline, "__call__", fails)
    result = generate("a fox", "-o", "fox.mp4")
    assert result.exit_code == 1 and isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": [5]}, "frames is [5]; allowed: whole numbers, 1 to 10000"),
        ({"frames": 2.5}, "frames is 2.5; allowed: whole numbers"),
        ({"frames": True}, "frames is True; allowed: whole numbers"),
        ({"seed": float("inf")}, "seed is inf; allowed: whole numbers"),
        ({"seed": {}}, "seed is {}; allowed: whole numbers"),
        ({"guidance": None, "alpha": [1]}, "alpha is [1]; allowed: 0 to 1"),
        ({"strength": 10**400}, "0...; allowed: 0 to 1"),
        ({"image": ["image.png"]}, "image is ['image.png']; expected text"),
        ({"style": 3}, "style is 3; expected text"),
        ({"prompt": "\ud800"}, "which is not in UTF-8; type it again"),
        ({"upscale": "maybe"}, "upscale is 'maybe'; allowed: yes, no"),
        ({"model": 3}, "model is 3; expected the JSON file that lumiere writes"),
        ({"files_sha256": []}, "files_sha256 is []; expected the JSON file"),
        ({"asked": []}, "asked is []; expected the JSON file"),
        ({"prompt": 3}, "not the settings of a video; expected the JSON file"),
    ],
)
def test_settings_edited_by_hand(
    generate: Generate, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    Path("fox.json").write_text(json.dumps({"lumiere": "0", "prompt": "a fox", **change}))
    result = generate("--from-json", "fox.json", "-o", "new.mp4")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert names_in(tmp_path) == ["fox.json"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--steps", "0"), "steps is 0; allowed"),
        (("-o", "new.avi"), "suffix '.avi' is not written"),
        (("--model", "nosuch"), "nosuch: no such folder"),
    ],
)
def test_a_sidecar_is_checked_before_the_model_is_hashed(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    def digest(model: Model) -> str:
        raise AssertionError("hashed")

    monkeypatch.setattr(Model, "digest", property(digest))
    content = {"lumiere": "0", "prompt": "a fox", "steps": 3, "motion": 2, "model_sha256": ""}
    Path("fox.json").write_text(json.dumps(content))
    result = generate("--from-json", "fox.json", "-o", "new.mp4", *options)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert "left out" not in result.stderr


def test_json_that_never_ends(generate: Generate) -> None:
    Path("fox.json").write_text("[" * 100_000)
    assert (
        "fox.json: not JSON; expected the JSON file"
        in generate("--from-json", "fox.json", "-o", "a.mp4").stderr
    )


def test_a_cameras_picture_with_a_preview_is_one_picture(generate: Generate, inputs: Path) -> None:
    with Image.open(inputs / "image.png") as picture:
        picture.save("camera.jpg", format="MPO", save_all=True, append_images=[picture.rotate(90)])
    assert generate("a", "-o", "a.gif", "--image", "camera.jpg", "--no-upscale").exit_code == 0


def test_a_picture_and_its_mask_are_turned_upright(generate: Generate) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(noise).save("turned.jpg", exif=exif)
    Image.new("L", (20, 10), 255).save("mask.png")
    Image.new("L", (10, 20), 255).save("turned-mask.jpg", exif=exif)
    for mask in ("mask.png", "turned-mask.jpg"):
        assert generate("a", "-o", "a.gif", "--image", "turned.jpg", "--mask", mask).exit_code == 0
