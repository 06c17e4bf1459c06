"""`lumiere generate`: what comes out, in every mode and format, and making it again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lumiere.cli.app import app
from lumiere.cli.model import Model
from lumiere.data.video_source import source_frames
from lumiere.pipelines import LumierePipeline
from tests.cli.conftest import Generate, names_in


def settings(name: str) -> dict:
    return json.loads(Path(name).read_text(encoding="utf-8"))


def pictures(pattern: str) -> np.ndarray:
    """The PNGs of a sequence, (t, h, w, c)."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path().glob(pattern))])


def test_help_is_there_at_once_and_shows_examples() -> None:
    code = "import sys; from lumiere.cli.app import app\ntry: app(['generate', '--help'])\nfinally: print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert 'lumiere generate "a yellow taxi bounces gently" -o taxi.mp4' in shown
    assert not {"torch", "diffusers", "numpy", "av", "PIL"} & set(shown.split())


def test_the_examples_of_help_work_one_after_the_other(generate: Generate) -> None:
    shown = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    block = shown[shown.index("Examples") : shown.index("Exit codes")].replace("\\\n", " ")
    lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    assert sum(line.startswith("lumiere generate") for line in lines) == len(lines) - 1 == 13
    for line in lines:
        if line.startswith("printf"):
            subprocess.run(line, shell=True, check=True)
            continue
        words = shlex.split(line.replace("line-art", "ink"))[2:]
        result = generate(*words, "--no-upscale", "--steps", "1")
        assert result.exit_code == 0, (line, result.output)


@pytest.mark.parametrize("name", ["a fox.mp4", "fox.WEBM", "new/folder/fox.gif", "fox.webp"])
def test_a_file(generate: Generate, tmp_path: Path, name: str) -> None:
    result = generate("a red fox", "-o", name, "--sheet", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / name}\n"
    stem = name.rsplit(".", 1)[0]
    assert names_in(tmp_path) == sorted([name, f"{stem}.json", f"{stem}.sheet.png"])
    if name.endswith("webp"):
        with Image.open(name) as picture:
            assert picture.n_frames == 5 and picture.size == (32, 32)
            picture.seek(4)
            picture.load()
            assert picture.info["timestamp"] == 500 and picture.info["duration"] == 125
        return
    frames = list(source_frames(name))
    assert len(frames) == 5 and frames[0].picture().shape == (32, 32, 3)
    # 8 a second; GIF has hundredths.
    assert float(frames[4].time) == pytest.approx(0.5, abs=0.011)
    with av.open(name) as container:
        expected = {"mp4": "h264", "ebm": "vp9", "EBM": "vp9", "gif": "gif"}[name[-3:]]
        assert container.streams.video[0].codec_context.name == expected


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("fox/", ["fox.json", *(f"fox/{i:04d}.png" for i in range(5))]),
        ("fox", ["fox.json", *(f"fox/{i:04d}.png" for i in range(5))]),
        ("fox-%03d.png", ["fox.json", *(f"fox-{i:03d}.png" for i in range(5))]),
        ("d/%d.png", ["d/frames.json", *(f"d/{i}.png" for i in range(5))]),
    ],
)
def test_a_sequence_of_pictures(
    generate: Generate, tmp_path: Path, output: str, files: list[str]
) -> None:
    (tmp_path / "fox").mkdir() if output == "fox" else None
    assert generate("a red fox", "-o", output).exit_code == 0
    assert names_in(tmp_path) == sorted(files)
    # A shorter one takes the place of the longer.
    assert generate("a red fox", "-o", output, "--frames", "3").exit_code == 0
    assert len(names_in(tmp_path)) == 4


def test_the_formats_hold_the_same_pictures(generate: Generate) -> None:
    for name in ("a/", "a.mp4", "a.webm", "a.gif"):
        assert generate("a red fox", "-o", name, "--seed", "3").exit_code == 0
    # Grey: mp4 and webm halve the size of colours, and this is noise.
    exact = pictures("a/*.png").mean(axis=-1)
    for name in ("a.mp4", "a.webm", "a.gif"):
        shown = np.stack([frame.picture() for frame in source_frames(name)]).mean(axis=-1)
        assert 10 * np.log10(255**2 / np.mean((shown - exact) ** 2)) > 24, name


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ((), "text_to_video"),
        (("--image", "@opaque.png"), "image_to_video"),
        (("--last-image", "@last.jpg"), "image_to_video"),
        (("--image", "@image.png", "--last-image", "@last.jpg"), "image_to_video"),
        (("--image", "@image.png", "--mask", "@mask.png"), "cinemagraph"),
        (("--image", "@image.png", "--mask", "0.2,0.2,0.8,0.8", "--cinemagraph"), "cinemagraph"),
        (("--video", "@video.mp4", "--mask", "@mask.png"), "inpainting"),
        (("--video", "@video.mp4", "--mask", "@moving.mp4"), "inpainting"),
        (("--video", "@video.mp4", "--mask", "0.5,0,1,1"), "inpainting"),
        (("--video", "@video.mp4", "--outpaint"), "outpainting"),
        (("--video", "@video.mp4", "--strength", "0.5"), "video_to_video"),
        (("--image", "@image.png", "--strength", "0.5"), "image_to_video"),
        (("--video", "@short.mp4"), "video_to_video"),
        (("--style", "ink", "--alpha", "0.5"), "text_to_video"),
        (("--frames", "7", "--guidance", "2", "--negative-prompt", "blurry"), "text_to_video"),
        (("--motion", "0", "--smoothing", "1"), "text_to_video"),
    ],
)
def test_every_mode_and_from_its_settings_again(
    generate: Generate, arguments: tuple[str, ...], mode: str
) -> None:
    result = generate("a red fox", "-o", "a/", *arguments)
    assert result.exit_code == 0, result.output
    made = settings("a.json")
    expected = 7 if "--frames" in arguments else 3 if "@short.mp4" in arguments else 5
    assert (made["mode"], made["frames"], made["size"]) == (mode, expected, [32, 32])
    assert ("use at most" in result.stderr) is False
    assert ("the first 5 frames" in result.stderr) == ("@video.mp4" in arguments)
    conditioned = mode not in ("text_to_video", "video_to_video")
    assert (made["known_psnr"] is not None) == conditioned
    again = generate("--from-json", "a.json", "-o", "b/")
    assert again.exit_code == 0 and "will differ" not in again.stderr, again.output
    np.testing.assert_array_equal(pictures("b/*.png"), pictures("a/*.png"))
    assert settings("b.json") == {
        **made,
        "name": "b",
        "asked": settings("b.json")["asked"],
    }


def test_motion_and_smoothing_change_the_video(generate: Generate) -> None:
    options = ("a red fox", "--seed", "3", "--no-upscale", "--steps", "4")
    for name, changes in (
        ("plain", ()),
        ("still", ("--motion", "0")),
        ("smooth", ("--smoothing", "1")),
        ("both", ("--motion", "0", "--smoothing", "1")),
    ):
        result = generate(*options, *changes, "-o", f"{name}/")
        assert result.exit_code == 0 and "no effect" not in result.stderr, result.output
    made = {name: settings(f"{name}.json") for name in ("plain", "still", "smooth", "both")}
    values = {name: (content["motion"], content["smoothing"]) for name, content in made.items()}
    assert values == {"plain": (1, 0), "still": (0, 0), "smooth": (1, 1), "both": (0, 1)}
    shown = {name: pictures(f"{name}/*.png") for name in made}
    for name in ("still", "smooth"):
        assert (shown[name] != shown["plain"]).any() and (shown[name] != shown["both"]).any()


def test_motion_that_no_step_reaches_is_noted(
    generate: Generate, caplog: pytest.LogCaptureFixture
) -> None:
    result = generate("a fox", "-o", "a.gif", "--no-upscale", "--steps", "1", "--motion", "2")
    assert result.exit_code == 0, result.output
    assert "note: motion 2 has no effect, because" in result.stderr
    assert "; take more steps\n" in result.stderr and caplog.messages == []


def test_another_models_motion_is_its_own_unless_it_was_asked_for(
    generate: Generate, model: Path, tmp_path: Path
) -> None:
    pipe = LumierePipeline.from_pretrained(model)
    pipe.register_to_config(motion_scale=1.6, temporal_smoothing=0.5, num_inference_steps=3)
    pipe.save_pretrained(tmp_path / "other")
    common = ("--no-upscale", "-o")

    def make(name: str, *options: str, other: bool = False) -> tuple[str, dict]:
        chosen = ("--model", str(tmp_path / "other"), "--device", "cpu") if other else ()
        result = generate(*chosen, *options, *common, f"{name}.gif", with_model=not other)
        assert result.exit_code == 0, result.output
        return result.stderr, settings(f"{name}.json")

    make("own", "a fox", other=True)
    _, again = make("again", "--from-json", "own.json", other=True)
    assert (again["motion"], again["smoothing"], again["steps"]) == (1.6, 0.5, 3)
    for source in ("own", "again"):
        told, made = make("a", "--from-json", f"{source}.json")
        assert (made["motion"], made["smoothing"], made["steps"]) == (1, 0, 2)
        note = "left out, because the new options replace it: --steps, --guidance, --motion, --smoothing\n"
        assert note in told
    make("asked", "a fox", "--motion", "0", "--steps", "4", other=True)
    told, made = make("b", "--from-json", "asked.json", "--smoothing", "1")
    assert (made["motion"], made["smoothing"], made["steps"]) == (0, 1, 4)
    assert "replace it: --guidance\n" in told


def test_another_models_size_and_image_strength_are_its_own_unless_they_were_asked_for(
    generate: Generate, model: Path, tmp_path: Path
) -> None:
    pipe = LumierePipeline.from_pretrained(model)
    small = LumierePipeline(
        pipe.unet, pipe.scheduler, pipe.text_encoder,
        num_frames=4, fps=8, num_inference_steps=2, image_strength=0.5,
    )  # fmt: skip
    small.save_pretrained(tmp_path / "small")

    def make(name: str, *options: str, is_small: bool = False) -> tuple[bool, float, int]:
        chosen = ("--model", str(tmp_path / "small"), "--device", "cpu") if is_small else ()
        result = generate(*chosen, *options, "-o", f"{name}.gif", with_model=not is_small)
        assert result.exit_code == 0, result.output
        made = settings(f"{name}.json")
        return made["upscale"], made["strength"], made["frames"]

    first = ("a fox", "--image", "@image.png")
    assert make("large", *first) == (True, 1.0, 5)
    # The length of the video stays.
    assert make("smaller", "--from-json", "large.json", is_small=True) == (False, 0.5, 5)
    assert make("small", *first, is_small=True) == (False, 0.5, 4)
    for source in ("small", "smaller"):
        assert make("larger", "--from-json", f"{source}.json")[:2] == (True, 1.0)
    assert settings("larger.json")["asked"].keys().isdisjoint(("upscale", "strength"))
    make("chosen", *first, "--strength", "0.8", "--no-upscale", is_small=True)
    assert make("b", "--from-json", "chosen.json") == (False, 0.8, 4)
    # Video to video has one default with all models, so none is left out.
    make("v", "a fox", "--video", "@short.mp4", is_small=True)
    told = generate("--from-json", "v.json", "-o", "w.gif", "--no-upscale").stderr
    assert "replace it: --steps, --guidance, --motion, --smoothing\n" in told


def test_a_note_tells_what_is_cut_off(generate: Generate, inputs: Path) -> None:
    for arguments, size, middle in (
        (("--image", "@wide.png"), "20 x 10", "10 x 10"),
        (("--video", "@wide.mp4"), "20 x 12", "12 x 12"),
    ):
        result = generate("a fox", "-o", "a.gif", "--no-upscale", "--frames", "1", *arguments)
        assert result.exit_code == 0 and "1 frame of 16 x 16" in result.stderr, result.output
        note = f"note: of {inputs / arguments[1][1:]} ({size}) the middle {middle} is used"
        assert note in result.stderr.splitlines()
        assert "it/s" not in result.stderr  # no progress bars in a file


def test_a_moving_mask_is_another_than_a_still_one(generate: Generate) -> None:
    for name, mask in (("still", "@mask.png"), ("moving", "@moving.mp4")):
        generate(
            "a fox",
            "-o",
            f"{name}/",
            "--video",
            "@video.mp4",
            "--mask",
            mask,
            "--seed",
            "1",
            "--keep-known",
        )
    assert (pictures("still/*.png") != pictures("moving/*.png")).any()


def test_given_pixels_can_be_kept_exactly(generate: Generate, inputs: Path) -> None:
    assert (
        generate(
            "a fox", "-o", "a/", "--image", "@image.png", "--keep-known", "--no-upscale"
        ).exit_code
        == 0
    )
    first = np.asarray(
        Image.open(inputs / "image.png").resize((16, 16), Image.Resampling.BILINEAR)
    ).astype(int)
    assert np.abs(pictures("a/*.png")[0] - first).mean() < 12
    assert settings("a.json")["keep_known"] is True and settings("a.json")["upscale"] is False


def test_several_videos_each_of_which_can_be_made_alone(generate: Generate, tmp_path: Path) -> None:
    assert generate("a fox", "-o", "a-%02d.png", "--num-videos", "2", "--seed", "7").exit_code == 0
    assert [
        (settings(f"a-{i}.json")["seed"], settings(f"a-{i}.json")["num_videos"]) for i in (1, 2)
    ] == [
        (7, 1),
        (8, 1),
    ]
    first, second = (pictures(f"a-{i}-*.png") for i in (1, 2))
    assert (first != second).any()
    assert generate("--from-json", "a-2.json", "-o", "b/").exit_code == 0
    assert np.abs(pictures("b/*.png").astype(int) - second).max() <= 1
    result = generate("a fox", "-o", "c.mp4", "--num-videos", "2")
    assert result.stdout.split() == [str(tmp_path / f"c-{i}.mp4") for i in (1, 2)]


def test_another_seed_each_time_unless_it_is_given(generate: Generate) -> None:
    seeds = []
    for _ in range(2):
        generate("a fox", "-o", "a.gif", "--no-upscale")
        seeds.append(settings("a.json")["seed"])
    assert seeds[0] != seeds[1]


def test_settings_are_changed_by_options_and_tell_of_other_inputs(
    generate: Generate, inputs: Path
) -> None:
    picture = Path("mine.png")
    picture.write_bytes((inputs / "image.png").read_bytes())
    generate("a fox", "-o", "a.gif", "--image", "mine.png", "--seed", "1")
    Image.new("RGB", (20, 20), "red").save(picture)
    again = generate("a red fox", "--from-json", "a.json", "-o", "b.gif", "--no-upscale")
    assert "mine.png is not the one that it was made from; the video will differ" in again.stderr
    made = settings("b.json")
    assert (made["prompt"], made["size"], made["seed"]) == ("a red fox", [16, 16], 1)


@pytest.mark.parametrize(
    ("first", "then", "mode", "left_out"),
    [
        (("--video", "@video.mp4"), ("--mask", "0.5,0,1,1"), "inpainting", "--strength"),
        (("--video", "@video.mp4"), ("--outpaint",), "outpainting", "--strength"),
        (
            ("--video", "@video.mp4"),
            ("--image", "@image.png"),
            "image_to_video",
            "--video, --strength, --frames",
        ),
        (("--video", "@video.mp4"), ("--video", "@short.mp4"), "video_to_video", "--frames"),
        (
            ("--video", "@video.mp4", "--outpaint"),
            ("--mask", "0.5,0,1,1"),
            "inpainting",
            "--outpaint",
        ),
        (
            ("--video", "@video.mp4", "--mask", "@moving.mp4"),
            ("--image", "@image.png"),
            "image_to_video",
            "--mask",
        ),
        (
            ("--image", "@image.png", "--strength", "0.5"),
            ("--mask", "0.5,0,1,1"),
            "cinemagraph",
            None,
        ),
        (
            ("--image", "@image.png", "--mask", "0,0,1,0.5"),
            ("--last-image", "@last.jpg"),
            "image_to_video",
            "--mask",
        ),
        (
            ("--image", "@image.png", "--strength", "0.5"),
            ("--image", ""),
            "text_to_video",
            "--strength",
        ),
        (("--style", "ink", "--alpha", "0.5"), ("--style", ""), "text_to_video", "--alpha"),
        (("--seed", "0"), ("--image", "@image.png"), "image_to_video", None),
    ],
)
def test_settings_that_do_not_go_with_other_options_are_left_out(
    generate: Generate,
    first: tuple[str, ...],
    then: tuple[str, ...],
    mode: str,
    left_out: str | None,
) -> None:
    assert generate("a fox", "-o", "a.gif", "--no-upscale", *first).exit_code == 0
    result = generate("--from-json", "a.json", "-o", "b.gif", *then)
    assert result.exit_code == 0, result.output
    former, made = settings("a.json"), settings("b.json")
    assert (made["mode"], made["seed"], made["upscale"]) == (mode, former["seed"], False)
    notes = [line.rpartition(": ")[2] for line in result.stderr.splitlines() if "left out" in line]
    assert (left_out is None) == (not notes) and (left_out or "") in "".join(notes)
    if left_out is None:
        assert made["frames"] == former["frames"]
        assert made["strength"] == (0.5 if "0.5" in first else 1.0)


def test_the_projects_own_model_is_the_default(
    model: Path, generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Model.choose(None, None).name == "demo"
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "pipeline").symlink_to(model)
    result = generate("a fox", "-o", "a.gif", with_model=False)
    assert result.exit_code == 0 and f"model: {tmp_path}/outputs/pipeline" in result.stderr
    assert Model.choose("demo", None).folder is None


def test_the_shipped_demo_weights(generate: Generate) -> None:
    arguments = (
        "a yellow taxi bounces",
        "-o",
        "taxi.mp4",
        "--frames",
        "2",
        "--steps",
        "1",
        "--seed",
        "0",
    )
    result = generate(*arguments, "--no-upscale", with_model=False)
    assert result.exit_code == 0, result.output
    assert "model: the demo weights" in result.stderr
    made = settings("taxi.json")
    assert (made["model"], made["size"], made["guidance"]) == ("demo", [32, 32], 2.0)
    assert len(list(source_frames("taxi.mp4"))) == 2


def test_the_shipped_demo_weights_are_inspected_by_their_name() -> None:
    result = CliRunner().invoke(app, ["inspect", "demo"])
    assert result.exit_code == 0 and "ssr_unet (SpaceTimeUNet)" in result.stdout, result.output


@pytest.mark.parametrize(
    "mode, options",
    [
        ("image_to_video", ("--image", "image.png")),
        ("image_to_video", ("--last-image", "last.jpg")),
        ("image_to_video", ("--image", "image.png", "--last-image", "last.jpg")),
        ("inpainting", ("--video", "video.mp4", "--mask", "mask.png")),
        ("inpainting", ("--video", "video.mp4", "--mask", "0.5,0,1,1")),
        ("outpainting", ("--video", "video.mp4", "--outpaint")),
        ("cinemagraph", ("--image", "image.png", "--mask", "mask.png")),
        ("video_to_video", ("--video", "video.mp4", "--strength", "0.5")),
        ("text_to_video", ("--style", "line-art", "--alpha", "0.8")),
    ],
)
def test_the_shipped_demo_weights_in_every_mode(
    generate: Generate, inputs: Path, mode: str, options: tuple[str, ...]
) -> None:
    given = [str(inputs / option) if (inputs / option).is_file() else option for option in options]
    arguments = (
        "a yellow taxi",
        "-o",
        "made.webp",
        "--frames",
        "3",
        "--steps",
        "4",
        "--seed",
        "0",
        "--no-upscale",
    )
    result = generate(*arguments, *given, with_model=False)
    assert result.exit_code == 0, result.output
    made = settings("made.json")
    assert (made["mode"], made["size"], made["frames"]) == (mode, [32, 32], 3)
    kept = mode not in ("text_to_video", "video_to_video")
    assert (made["known_psnr"] > 60) if kept else made["known_psnr"] is None


def test_the_shipped_super_resolution_keeps_what_is_given(generate: Generate, inputs: Path) -> None:
    arguments = ("a yellow taxi", "-o", "taxi.gif", "--frames", "2", "--steps", "2", "--seed", "0")
    given = ("--video", str(inputs / "video.mp4"), "--mask", "0.5,0,1,1")
    result = generate(*arguments, *given, with_model=False)
    assert result.exit_code == 0 and "the given pixels are unchanged" in result.stderr, (
        result.output
    )
    made = settings("taxi.json")
    assert (made["size"], made["base_size"]) == ([128, 128], [32, 32]) and made["known_psnr"] > 60
