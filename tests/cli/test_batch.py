"""`lumiere generate --from-file`: goes on where it stopped, and past rows that fail."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import demo_pipeline
from lumiere.requests import Request, read_rows
from tests.cli.conftest import Generate
from tests.stages.conftest import write_clips

ROWS = """name,prompt,image,alpha,style,seed,frames
fox,a red fox runs,,,,1,
broken,a cat,gone.png,,,,
styled,"a dog, styled",,0.5,ink,,3
,a bird flies over the sea and far away,pictures/here.png,,,,
odd,a cow,,7,ink,,
"""
BIRD = "004-a-bird-flies-over-the-sea"


@pytest.fixture
def table(tmp_path: Path, inputs: Path) -> Path:
    """A prompts file in a folder of its own, with the picture it names."""
    folder = tmp_path / "work"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "here.png").write_bytes((inputs / "image.png").read_bytes())
    path = folder / "prompts.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def videos() -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in sorted(Path("out").glob("*.mp4"))}


def test_rows_that_fail_do_not_stop_the_others(generate: Generate, table: Path) -> None:
    result = generate("--from-file", str(table), "-o", "out", "--no-upscale")
    assert result.exit_code == 1, result.output
    assert list(videos()) == [BIRD, "fox", "styled"]
    assert result.stdout.split() == [
        str(Path(f"out/{name}.mp4").absolute()) for name in ("fox", "styled", BIRD)
    ]
    summary = result.stderr.splitlines()[-3:]
    assert summary[0] == "3 made, 0 already there, 2 failed"
    assert summary[1].endswith("gone.png: no such file; check the path") and summary[1].startswith(
        "  broken: image"
    )
    assert summary[2] == "  odd: alpha is 7; allowed: 0 to 1"
    styled = json.loads(Path("out/styled.json").read_text())
    assert (styled["prompt"], styled["alpha"], styled["frames"]) == ("a dog, styled", 0.5, 3)
    assert styled["upscale"] is False and json.loads(Path("out/fox.json").read_text())["seed"] == 1


def test_it_continues_where_it_stopped(
    generate: Generate, table: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = LumierePipeline.__call__, []

    def stopped(self: Any, prompt: str, **options: Any) -> Any:
        calls.append(prompt)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, prompt, **options)

    monkeypatch.setattr(LumierePipeline, "__call__", stopped)
    result = generate("--from-file", str(table), "-o", "out")
    assert result.exit_code == 130
    assert (
        result.stderr.splitlines()[-1]
        == "stopped; nothing is half-written; run the same command again to continue"
    )
    assert list(videos()) == ["fox"]

    first = videos()
    result = generate("--from-file", str(table), "-o", "out")
    assert "2 made, 1 already there, 2 failed" in result.stderr and len(calls) == 4
    assert videos()["fox"] == first["fox"]

    table.write_text(
        ROWS.replace("red fox", "blue fox").replace("gone.png", "").replace(",7,", ",1,")
    )
    (table.parent / "pictures" / "here.png").write_bytes((inputs / "mask.png").read_bytes())
    result = generate("--from-file", str(table), "-o", "out")
    assert result.exit_code == 0 and "4 made, 1 already there, 0 failed" in result.stderr
    assert calls[4:] == [
        "a blue fox runs",
        "a cat",
        "a bird flies over the sea and far away",
        "a cow",
    ]

    Path("out/styled.mp4").unlink()
    assert "1 made, 4 already there" in generate("--from-file", str(table), "-o", "out").stderr
    # Not even loaded where all is there.
    monkeypatch.setattr(LumierePipeline, "from_pretrained", None)
    result = generate("--from-file", str(table), "-o", "out")
    assert "0 made, 5 already there" in result.stderr and len(result.stdout.splitlines()) == 5


def test_an_unexpected_error_is_one_rows_failure(
    generate: Generate, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LumierePipeline.__call__

    def breaks(self: Any, prompt: str, **options: Any) -> Any:
        if "fox" in prompt:
            raise KeyError("shape")
        return original(self, prompt, **options)

    monkeypatch.setattr(LumierePipeline, "__call__", breaks)
    result = generate("--from-file", str(table), "-o", "out/{name}.gif", "--sheet")
    assert result.exit_code == 1 and "  fox: KeyError: 'shape'" in result.stderr
    assert sorted(path.name for path in Path("out").glob("*.gif")) == [f"{BIRD}.gif", "styled.gif"]
    assert len(list(Path("out").glob("*.sheet.png"))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\nfox\n", "no column 'prompt'"),
        ("prompt,colour\na,b\n", "unknown column 'colour'"),
        ("prompt\n", "no rows below"),
        ("name;prompt\nfox;a fox\n", "columns are separated by ';'; save it with commas"),
        ("name,prompt\na,x\na,y\n", "two rows have the name 'a'"),
        ("name,prompt\n../a,x\n", "prompts.csv, line 2: name '../a'; allowed: letters"),
        (f"name,prompt\n{'a' * 151},x\n", "at most 150 of them"),
        ("name,prompt,num_videos\na,x,2\na-2,y,\n", "'a' and 'a-2' would both write"),
    ],
)
def test_a_file_that_cannot_be_used(
    generate: Generate, tmp_path: Path, content: str, message: str
) -> None:
    Path("prompts.csv").write_text(content)
    result = generate("--from-file", "prompts.csv", "-o", "out")
    assert result.exit_code == 2 and message in result.stderr.splitlines()[-1]
    assert not Path("out").exists()


def test_a_row_says_all_that_options_say(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(
        "prompt,upscale,keep_known,num_videos,guidance\na fox,no,yes,2,1.5\na cat,maybe,,,\n,,,,2\n"
    )
    fox, cat, empty = read_rows(path, {"steps": "3"})
    assert fox.request == Request(
        "a fox", "001-a-fox", upscale=False, keep_known=True, num_videos=2, guidance=1.5, steps=3
    )
    assert (cat.name, cat.line) == ("002-a-cat", 3)
    assert cat.problem == "upscale is 'maybe'; allowed: yes, no"
    assert empty.name == "003" and "prompt is empty" in empty.problem


def test_an_empty_cell_of_motion_takes_the_option_for_all_rows(generate: Generate) -> None:
    Path("rows.csv").write_text("name,prompt,motion\na,a cat,0\nb,a cat,\n", encoding="utf-8")
    for folder, options, motions in (("out", (), [0, 1]), ("more", ("--motion", "3"), [0, 3])):
        result = generate("--from-file", "rows.csv", "-o", folder, "--no-upscale", *options)
        assert result.exit_code == 0, result.output
        made = [json.loads(Path(folder, f"{name}.json").read_text()) for name in "ab"]
        assert [content["motion"] for content in made] == motions


def test_a_style_for_all_rows_may_have_one_alpha_in_each(
    generate: Generate, model: Path, tmp_path: Path
) -> None:
    """Of a finished blend, which serves its own alpha alone."""
    pipe = LumierePipeline.from_pretrained(model)
    pipe.add_style("half", pipe.unet.unet.state_dict(), alpha=0.5)
    pipe.save_pretrained(tmp_path / "blends")
    Path("rows.csv").write_text("name,prompt,alpha\na,a cat,0.5\nb,a dog,\n", encoding="utf-8")
    options = ("--model", str(tmp_path / "blends"), "--style", "half", "--no-upscale")
    result = generate("--from-file", "rows.csv", "-o", "out", *options, with_model=False)
    assert result.exit_code == 1 and list(videos()) == ["a"], result.output
    assert result.stdout.split() == [str(tmp_path / "out" / "a.mp4")]


def test_clips_of_the_training_set_need_their_folder(generate: Generate, tmp_path: Path) -> None:
    rows = 'prompt,mode,clip,mask\na,,,\na,inpainting,dog@0,"0,0,1,0.5"\n'
    Path("prompts.csv").write_text(rows, encoding="utf-8")
    result = generate("--from-file", "prompts.csv", "-o", "out", "--no-upscale")
    assert result.exit_code == 1 and list(videos()) == ["001-a"], result.output
    problem = "002-a: clip dog@0 is not available, because outputs/clips holds no decoded"
    assert problem in result.stderr.splitlines()[-1]
    result = generate("--from-file", "prompts.csv", "-o", "out", "--clip", "dog@0")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and not result.stdout
    write_clips(tmp_path / "outputs" / "clips", held_out=2, fps=8)
    result = generate("--from-file", "prompts.csv", "-o", "out", "--no-upscale")
    assert result.exit_code == 0, result.output
    assert "clip dog@0 is cut to the first 5 frames at 8 a second" in result.stderr
    made = json.loads(Path("out/002-a.json").read_text())
    assert (made["clip"], made["mask"], made["frames"]) == ("dog@0", "0.0,0.0,1.0,0.5", 5)
    options = ("--clip", "owl@0", "--mode", "image_to_video")
    assert generate("a", "-o", "owl.gif", *options).exit_code == 0
    result = generate("a", "-o", "lion.gif", "--clip", "lion@0", "--mode", "outpainting")
    assert result.exit_code == 2 and "clip 'lion@0' is not among the decoded" in result.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        (("--model", "nowhere"), "--model .*nowhere: no such folder; expected"),
        (("--device", "cuda:77"), "--device cuda:77: not usable here"),
        (("--style", "oil"), "--style oil: the model .* has no such style; it has ink"),
    ],
)
def test_what_no_row_can_be_made_with_is_told_once(
    generate: Generate, table: Path, model: Path, options: tuple[str, ...], message: str
) -> None:
    own_model = () if "--model" in options else ("--model", str(model))
    result = generate(
        "--from-file", str(table), "-o", "out", *own_model, *options, with_model=False
    )
    assert result.exit_code == 2, result.output
    told = [line for line in result.stderr.splitlines() if re.search(message, line)]
    assert len(told) == 1 and told[0].startswith("error: ") and not list(Path().glob("out/*"))


def test_a_damaged_model_and_missing_demo_weights_are_told_once(
    generate: Generate, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = shutil.copytree(model, tmp_path / "damaged")
    (damaged / "unet" / "temporal.safetensors").write_bytes(b"half of it")
    without = partial(demo_pipeline, tmp_path / "nowhere")
    monkeypatch.setattr("lumiere.pipelines.assemble.demo_pipeline", without)
    for name in (str(damaged), "demo"):
        result = generate("--from-file", str(table), "-o", "out", "--model", name, with_model=False)
        assert result.exit_code == 2, result.output
        told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and "failed" not in result.stderr
